"""Devices, links and clusters from published specs: what one kernel, or one message, costs on them.

The numbers, each with its source, are in `data/hardware/*.csv`; nothing here is measured (see `this_machine`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache

from llmlab.hardware.facts import read_facts

Number = float | int  # a checker takes "float" by its word
DTYPES = ("fp8", "bf16", "fp16", "fp32", "fp64")  # narrow to wide; a device without one is priced at the next it has
GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One accelerator, or one CPU core: rates are peaks, efficiencies the share of them that large kernels reach.

    `attention_efficiency` counts the whole T x T, so a causal kernel, which skips half, may pass 1. `launch_s`: host
    seconds to launch one kernel. `ramp_s`: device seconds every kernel pays on top of its work. `one_clock`: on a CPU
    the host that launches is the device that computes.
    """

    name: str
    flops_per_s: dict[str, Number] = field(hash=False)  # dense, of the matrix unit, by dtype
    memory_bytes: int
    memory_bytes_per_s: Number
    launch_s: Number
    ramp_s: Number
    matmul_efficiency: Number
    attention_efficiency: Number
    memory_efficiency: Number
    one_clock: bool = False

    def peak(self, dtype: str) -> float:
        """FLOP/s of the matrix unit for this dtype, or for the next wider one it has.

        Raises ValueError for an unknown dtype, and where the device has nothing so wide.
        """
        if dtype not in DTYPES:
            raise ValueError(f"a dtype is one of {', '.join(DTYPES)}; got {dtype!r}")
        for wide in DTYPES[DTYPES.index(dtype) :]:
            if wide in self.flops_per_s:
                return self.flops_per_s[wide]
        raise ValueError(f"{self.name} publishes no rate for {dtype} or wider, only for {', '.join(self.flops_per_s)}")

    def kernel_seconds(self, kind: str, flops: Number, nbytes: Number, dtype: str) -> float:
        """Device seconds of one kernel on the roofline: the longer of computing and moving bytes, plus the ramp.

        A "memory" kernel (element-wise, norm, softmax, optimizer) is priced by its bytes alone: its arithmetic is not
        the matrix unit's, and is hidden.
        """
        moving = nbytes / (self.memory_bytes_per_s * self.memory_efficiency)
        if kind == "memory":
            return moving + self.ramp_s
        if kind not in ("matmul", "attention"):
            raise ValueError(f"a kernel is matmul, attention or memory; got {kind!r}")
        efficiency = self.matmul_efficiency if kind == "matmul" else self.attention_efficiency
        return max(flops / (self.peak(dtype) * efficiency), moving) + self.ramp_s


@dataclass(frozen=True)
class Link:
    """One device's way out, one direction: `bytes_per_s` is the peak, `efficiency` the share large messages reach."""

    name: str
    latency_s: Number
    bytes_per_s: Number
    efficiency: Number = 1.0

    def seconds(self, nbytes: Number) -> float:
        """Seconds for one message that has the link to itself."""
        return self.latency_s + nbytes / (self.bytes_per_s * self.efficiency)


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal devices: `intra` joins the devices of a node, `inter` the nodes.

    `fictional`: made up for lessons, and every figure says so. `measured`: from this machine, not from a data sheet.
    """

    name: str
    device: Device
    devices_per_node: int
    intra: Link
    inter: Link
    source: str
    fictional: bool = False
    measured: bool = False

    def node(self, rank: int) -> int:
        """The node that a rank of the world lives on; nodes fill up in order."""
        return rank // self.devices_per_node

    def link(self, a: int, b: int) -> Link:
        """The link between world ranks a and b."""
        return self.intra if self.node(a) == self.node(b) else self.inter


def clusters() -> list[str]:
    """The names that `cluster` knows."""
    return list(_table("clusters"))


def links() -> list[str]:
    """The names that `link`, and `cluster`'s intra and inter, know."""
    return list(_table("links"))


def cluster(
    name_or_cluster: str | Cluster = "classroom",
    *,
    intra: str | Link | None = None,
    inter: str | Link | None = None,
    devices_per_node: int | None = None,
) -> Cluster:
    """Look a cluster up, or vary one: `cluster("h100", inter="ethernet-10g")`, `cluster("h100", devices_per_node=4)`.

    A link that a machine has once (Ethernet, Wi-Fi) is given to its devices in equal shares; pass a Link to decide
    yourself. "this-machine" is `this_machine()`, measured. Raises ValueError with the known names.
    """
    if name_or_cluster == "this-machine":
        from llmlab.hardware.machine import this_machine  # it measures, with engines that stand on this module

        name_or_cluster = this_machine()
    near: str | Link
    far: str | Link
    if isinstance(name_or_cluster, Cluster):
        base, near, far = name_or_cluster, name_or_cluster.intra, name_or_cluster.inter
    else:  # names, not links: how many devices share an adapter may be about to change
        base = _published(name_or_cluster)
        near, far = (_row("clusters", name_or_cluster)[column] for column in ("intra", "inter"))
    if intra is None and inter is None and devices_per_node is None:
        return base
    n = base.devices_per_node if devices_per_node is None else devices_per_node
    if n < 1:
        raise ValueError(f"a node has at least 1 device, got devices_per_node={n}")
    within, between = link(intra or near, sharers=n), link(inter or far, sharers=n)
    name = f"{base.name} with {n} a node, {within.name} within, {between.name} between"
    return dataclasses.replace(base, name=name, devices_per_node=n, intra=within, inter=between)


def device(name: str) -> Device:
    """Look a device up by name. Raises ValueError with the known names."""
    row = _row("devices", name)
    rates = {dtype: float(row[f"{dtype}_tflops"]) * 1e12 for dtype in DTYPES if row[f"{dtype}_tflops"]}
    return Device(
        name=row["title"],
        flops_per_s=rates,
        memory_bytes=round(float(row["memory_gib"]) * GIB),
        memory_bytes_per_s=float(row["memory_gbps"]) * 1e9,
        launch_s=float(row["launch_us"]) / 1e6,
        ramp_s=float(row["ramp_us"]) / 1e6,
        matmul_efficiency=float(row["matmul_efficiency"]),
        attention_efficiency=float(row["attention_efficiency"]),
        memory_efficiency=float(row["memory_efficiency"]),
        one_clock=row["one_clock"] == "yes",
    )


def link(name_or_link: str | Link, sharers: int = 1) -> Link:
    """Look a link up by name; one that a machine has once is divided by the devices that share it.

    Raises ValueError with the known names.
    """
    if isinstance(name_or_link, Link):
        return name_or_link
    row = _row("links", name_or_link)
    peak = float(row["gbytes_per_s"]) * 1e9 / (sharers if row["shared"] == "yes" else 1)
    return Link(name_or_link, float(row["latency_us"]) / 1e6, peak, float(row["efficiency"]))


def _published(name: str) -> Cluster:
    row = _row("clusters", name)
    n = int(row["devices_per_node"])
    return Cluster(
        name=name,
        device=device(row["device"]),
        devices_per_node=n,
        intra=link(row["intra"], sharers=n),
        inter=link(row["inter"], sharers=n),
        source=row["source"],
        fictional=row["fictional"] == "yes",
    )


@cache
def _table(name: str) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in read_facts("hardware", f"{name}.csv")}


def _row(table: str, name: str) -> dict[str, str]:
    rows = _table(table)
    if name not in rows:
        near = get_close_matches(str(name).lower(), rows, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"a {table[:-1]} is one of {', '.join(rows)}; got {name!r}{hint}")
    return rows[name]
