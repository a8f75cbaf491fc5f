"""Devices, links and clusters: what one kernel, or one message, costs on them. `published.py` has the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmlab.arguments import choice, flag, instance, real, reals, string, whole

Number = float | int  # a checker takes "float" by its word
KINDS = ("matmul", "attention", "memory")
DTYPES = (
    "fp4",
    "fp8",
    "bf16",
    "fp16",
    "fp32",
    "fp64",
)  # narrow to wide; a device without one is priced at the next it has


@dataclass(frozen=True)
class Device:
    """One accelerator, or one CPU core: rates are peaks, efficiencies the share of them that large kernels reach.

    `attention_efficiency` counts the whole T x T, so a causal kernel, which skips half, may pass 1. `launch_s`: host
    seconds to launch one kernel. `ramp_s`: device seconds every kernel pays on top of its work. `one_clock`: on a CPU
    the host that launches is the device that computes. A rate may be infinite: what it counts then takes no time.
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
    generation: str = ""  # devices of one share what their kernels reach, beyond what is published of each

    def __post_init__(self) -> None:
        for name in ("name", "generation"):
            string("Device", name, getattr(self, name))
        _check_rates(self.flops_per_s)
        whole("Device", "memory_bytes", self.memory_bytes, least=1)
        real("Device", "memory_bytes_per_s", self.memory_bytes_per_s, above=0, infinite=True)
        reals("Device", 0, launch_s=self.launch_s, ramp_s=self.ramp_s)
        for name in ("matmul_efficiency", "attention_efficiency", "memory_efficiency"):
            real("Device", name, getattr(self, name), above=0)
        flag("Device", "one_clock", self.one_clock)

    def peak(self, dtype: str) -> float:
        """FLOP/s of the matrix unit for this dtype, or for the next wider one it has.

        Raises ValueError for an unknown dtype, and where the device has nothing so wide.
        """
        choice("peak", "dtype", dtype, DTYPES)
        for wide in DTYPES[DTYPES.index(dtype) :]:
            if wide in self.flops_per_s:
                return self.flops_per_s[wide]
        raise ValueError(f"{self.name} publishes no rate for {dtype} or wider, only for {', '.join(self.flops_per_s)}")

    def kernel_seconds(self, kind: str, flops: Number, nbytes: Number, dtype: str) -> float:
        """Device seconds of one kernel on the roofline: the longer of computing and moving bytes, plus the ramp.

        A "memory" kernel (element-wise, norm, softmax, optimizer) is priced by its bytes alone: its arithmetic is not
        the matrix unit's, and is hidden.
        """
        if kind not in KINDS or type(flops) is not int or type(nbytes) is not int or flops < 0 or nbytes < 0:
            choice("kernel_seconds", "kind", kind, KINDS)  # a simulated kernel's counts, millions of them, skip this
            reals("kernel_seconds", 0, flops=flops, nbytes=nbytes)
        moving = nbytes / (self.memory_bytes_per_s * self.memory_efficiency)
        if kind == "memory":
            return moving + self.ramp_s
        efficiency = self.matmul_efficiency if kind == "matmul" else self.attention_efficiency
        return max(flops / (self.peak(dtype) * efficiency), moving) + self.ramp_s


@dataclass(frozen=True)
class Link:
    """One device's way out, one direction: `bytes_per_s` is the peak, `efficiency` the share large messages reach."""

    name: str
    latency_s: Number
    bytes_per_s: Number
    efficiency: Number = 1.0

    def __post_init__(self) -> None:
        string("Link", "name", self.name)
        real("Link", "latency_s", self.latency_s, least=0)
        real("Link", "bytes_per_s", self.bytes_per_s, above=0)
        real("Link", "efficiency", self.efficiency, above=0, most=1)

    def seconds(self, nbytes: Number) -> float:
        """Seconds for one message that has the link to itself."""
        return self.latency_s + real("seconds", "nbytes", nbytes, least=0) / (self.bytes_per_s * self.efficiency)


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal devices: `intra` joins the devices of a node, `inter` the nodes.

    `fictional`: made up for lessons, and every figure says so. `measured`: from this machine, not from a data sheet.
    `network`: the name under which fitted constants of its links are known.
    """

    name: str
    device: Device
    devices_per_node: int
    intra: Link
    inter: Link
    source: str
    fictional: bool = False
    measured: bool = False
    network: str = ""

    def __post_init__(self) -> None:
        for name in ("name", "source", "network"):
            string("Cluster", name, getattr(self, name))
        for name in ("fictional", "measured"):
            flag("Cluster", name, getattr(self, name))
        instance("Cluster", "device", self.device, Device, "lab.hardware.device('h100')")
        whole("Cluster", "devices_per_node", self.devices_per_node, least=1)
        for name in ("intra", "inter"):
            instance("Cluster", name, getattr(self, name), Link, "lab.hardware.link('ethernet-10g')")

    def node(self, rank: int) -> int:
        """The node that a rank of the world lives on; nodes fill up in order."""
        return whole("node", "rank", rank, least=0) // self.devices_per_node

    def link(self, a: int, b: int) -> Link:
        """The link between world ranks a and b."""
        return self.intra if self.node(a) == self.node(b) else self.inter


def _check_rates(rates: Mapping[str, Number]) -> None:
    if not isinstance(rates, Mapping) or not rates:
        raise ValueError(f"Device wants flops_per_s as {{dtype: FLOP/s}}; got {rates!r}")
    for dtype, rate in rates.items():
        real("Device", f"flops_per_s[{choice('Device', 'flops_per_s', dtype, DTYPES)!r}]", rate, above=0, infinite=True)
