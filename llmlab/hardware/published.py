"""Devices, links and clusters by name: published, with their sources in `data/hardware/`; or this machine, measured."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from functools import cache

from llmlab.arguments import real, string, whole
from llmlab.hardware.facts import read_facts
from llmlab.hardware.machine import this_machine
from llmlab.hardware.specs import DTYPES, Cluster, Device, Link

GIB = 2**30


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
    matmul_tflops: float | None = None,
    network: str | None = None,
) -> Cluster:
    """Look a cluster up, or vary one: `cluster("h100", inter="ethernet-10g")`, `cluster("h100", devices_per_node=4)`.

    A link that a machine has once (Ethernet, Wi-Fi) is given to its devices in equal shares; pass a Link to decide
    yourself. `matmul_tflops`: what large products reach on these very machines in bf16 (or the next wider type), all
    types' rates with it: power limits and clocks differ. `network`: whose fitted constants its links have.
    "this-machine" is `this_machine()`, measured. Raises ValueError with the known names.
    """
    if isinstance(name_or_cluster, str) and name_or_cluster == "this-machine":
        name_or_cluster = this_machine()
    near: str | Link
    far: str | Link
    if isinstance(name_or_cluster, Cluster):
        base, near, far = name_or_cluster, name_or_cluster.intra, name_or_cluster.inter
    else:  # names, not links: how many devices share an adapter may be about to change
        base = _published(name_or_cluster)
        near, far = (_row("clusters", name_or_cluster)[column] for column in ("intra", "inter"))
    if matmul_tflops is not None:
        base = dataclasses.replace(base, device=_reaching(base.device, matmul_tflops))
    if network is not None:
        base = dataclasses.replace(base, network=string("cluster", "network", network))
    if intra is None and inter is None and devices_per_node is None:
        return base
    n = base.devices_per_node if devices_per_node is None else whole("cluster", "devices_per_node", devices_per_node, 1)
    within, between = link(near if intra is None else intra, n), link(far if inter is None else inter, n)
    name = f"{base.name} with {n} a node, {within.name} within, {between.name} between"
    return dataclasses.replace(base, name=name, devices_per_node=n, intra=within, inter=between)


def _reaching(device: Device, matmul_tflops: float) -> Device:
    """The same device, of which a user has measured what large products reach."""
    peak = device.peak("bf16")
    rate = 1e12 * real("cluster", "matmul_tflops", matmul_tflops, above=0, most=peak / 1e12)
    name = f"{device.name}, products measured at {matmul_tflops:g} TFLOP/s"
    return dataclasses.replace(device, name=name, matmul_efficiency=rate / peak)


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
        generation=row["generation"],
    )


def link(name_or_link: str | Link, sharers: int = 1) -> Link:
    """Look a link up by name; one that a machine has once is divided by the devices that share it.

    Raises ValueError with the known names.
    """
    if isinstance(name_or_link, Link):
        return name_or_link
    row = _row("links", name_or_link)
    whole("link", "sharers", sharers, least=1)
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
    if string(table[:-1], "name", name) not in rows:
        near = get_close_matches(name.lower(), rows, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"a {table[:-1]} is one of {', '.join(rows)}; got {name!r}{hint}")
    return rows[name]
