"""This machine: what it has, and what it measures, kept in the user's cache folder for the next session."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llmlab.arguments import flag, function
from llmlab.hardware.measurement import measure
from llmlab.hardware.specs import DTYPES, Cluster, Device, Link

CACHE = Path.home() / ".cache" / "llmlab"
_MEANWHILE: dict[Path, dict[str, float]] = {}  # measured while the machine was busy, by where it is not kept
VERSION = 2  # of what is measured: a kept measurement of another version is measured again


@dataclass(frozen=True)
class Machine:
    """What this machine has: the card a notebook shows first."""

    cpu: str
    cores: int
    memory_bytes: int
    gpus: tuple[str, ...]
    system: str
    python: str
    torch: str

    def __str__(self) -> str:
        gpus = ", ".join(self.gpus) or "no GPU needed, none found"
        memory = f"{self.memory_bytes / 2**30:.0f} GiB" if self.memory_bytes else "memory unknown"
        versions = f"Python {self.python}, torch {self.torch}"
        return f"{self.cores} cores ({self.cpu}), {memory}; {gpus}; {self.system}, {versions}"


def describe_machine() -> Machine:
    """Look at this machine without measuring anything."""
    gpus = tuple(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return Machine(
        cpu=_cpu_name(),
        cores=_usable_cores(),
        memory_bytes=_memory_bytes(),
        gpus=gpus,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
    )


def this_machine(refresh: bool = False, say: Callable[[str], Any] = print) -> Cluster:
    """Measure this machine as a cluster of one node, or give what was measured before.

    Matrix and attention rates, memory bandwidth and the cost of a small operation are one thread's while every core
    works (with GPUs: one GPU's); the link is fitted to sends and all-reduces between processes. `say` hears of it. What
    was measured while other programs kept all cores busy is too slow: it is kept for this session, and no longer.
    """
    flag("this_machine", "refresh", refresh)
    function("this_machine", "say", say, "text")
    machine = describe_machine()
    kept = CACHE / f"machine-{_key(machine)}.json"
    found = None if refresh else _MEANWHILE.get(kept) or _load(kept)
    if found is None:
        say(f"Measuring this machine, once, some seconds: {machine}")
        start, load = time.perf_counter(), _load_average()
        found = measure(min(machine.cores, 8))
        say(f"Measured in {time.perf_counter() - start:.1f} s: {_in_words(found)}")
        if load > machine.cores:
            say(f"Other programs were busy (load average {load:.1f}): it counts for this session only.")
            _MEANWHILE[kept] = found
        else:
            _MEANWHILE.pop(kept, None)
            _keep(kept, found, say)
    return _as_cluster(machine, found)


def _as_cluster(machine: Machine, found: dict[str, float]) -> Cluster:
    """Put measured rates where published peaks would stand: their efficiencies are 1, as they were reached."""
    on_gpu = bool(found["on_gpu"])
    n = len(machine.gpus) if on_gpu else machine.cores
    device = Device(
        name=f"{machine.gpus[0] if on_gpu else 'one core of ' + machine.cpu} (measured)",
        flops_per_s={dtype: found[dtype] for dtype in DTYPES if dtype in found},
        memory_bytes=int(found["memory_bytes"]) or machine.memory_bytes // n,
        memory_bytes_per_s=found["memory"],
        launch_s=found["small_s"] if on_gpu else 0.0,
        ramp_s=0.0 if on_gpu else found["small_s"],
        matmul_efficiency=1.0,
        attention_efficiency=found["attention"] / found["fp32"],
        memory_efficiency=1.0,
        one_clock=not on_gpu,
    )
    # One process has nobody to talk to: its link is a memory copy, and is never used.
    link = Link("processes of this machine", found.get("latency_s", 0.0), found.get("bytes_per_s", found["memory"]))
    source = f"measured here with torch {machine.torch}"
    return Cluster(f"this machine ({n} {'GPUs' if on_gpu else 'cores'})", device, n, link, link, source, measured=True)


def _in_words(found: dict[str, float]) -> str:
    link = "one process, so no link"
    if "latency_s" in found:
        link = (
            f"between processes {found['latency_s'] * 1e6:.0f} us and {found['bytes_per_s'] / 1e9:.2f} GB/s "
            f"(the line misses its samples by {found['link_error']:.0%} on average)"
        )
    products, threads = found["fp32"] / 1e9, found["all_threads_fp32"] / 1e9
    return (
        f"fp32 products {products:.0f} GFLOP/s a process, {threads:.0f} with all threads in one; "
        f"memory {found['memory'] / 1e9:.1f} GB/s a process; {link}"
    )


def _key(machine: Machine) -> str:
    return hashlib.sha256(json.dumps([VERSION, asdict(machine)]).encode()).hexdigest()[:16]


def _load(path: Path) -> dict[str, float] | None:
    try:
        return json.loads(path.read_text())["measured"]
    except (OSError, ValueError, KeyError):  # not there, unreadable or cut short: measure again
        return None


def _keep(path: Path, found: dict[str, float], say: Callable[[str], Any]) -> None:
    text = json.dumps({"measured": found, "machine": asdict(describe_machine())}, indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        say(f"Could not keep it in {path.parent} ({error}): the next session measures again.")


def _load_average() -> float:
    """Programs that ran or wanted to in the last minute; 0 where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _usable_cores() -> int:
    """Cores this process may run on, which in a container is fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory_bytes() -> int:
    """Bytes of main memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 0
