"""This machine: what it has, and what it measures. Seconds to run, kept in the user's cache folder afterwards.

A measured cluster prices one rank = one process with one thread, timed while every core is at work, because that is how
ranks run: cores share memory bandwidth and clock.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from llmlab.hardware.specs import DTYPES, Cluster, Device, Link

CACHE = Path.home() / ".cache" / "llmlab"
VERSION = 1  # of what is measured: a kept measurement of another version is measured again
MATRIX = 768  # side of the product timed on a core: 0.9 GFLOP, tens of milliseconds
COPIED_BYTES = 64 * 2**20  # past the last-level cache of most machines
MESSAGE_BYTES = (4, 2**12, 2**16, 2**20, 2**22)
SAMPLES = "messages"  # of the link, on rank 0


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
    works (with GPUs: one GPU's); the link is fitted to sends and all-reduces between processes. `say` hears of it.
    """
    machine = describe_machine()
    kept = CACHE / f"machine-{_key(machine)}.json"
    found = None if refresh else _load(kept)
    if found is None:
        say(f"Measuring this machine, once, some seconds: {machine}")
        start = time.perf_counter()
        found = measure(min(machine.cores, 8))
        say(f"Measured in {time.perf_counter() - start:.1f} s: {_in_words(found)}")
        _keep(kept, found, say)
    return _as_cluster(machine, found)


def measure(ranks: int) -> dict[str, float]:
    """Measure with so many processes at once. Rates per second and per process, latency in seconds."""
    from llmlab.comm.processes import Processes  # an engine, which stands on this package

    found = Processes(ranks=ranks, timeout_s=120).run(_measure_rank).results
    seconds = ("small_s", "on_gpu")  # the slowest rank speaks for all
    result = {
        name: (max if name in seconds else min)(rank[name] for rank in found) for name in found[0] if name != SAMPLES
    }
    result["all_threads_fp32"] = _all_threads(ranks)
    samples = found[0][SAMPLES]
    if samples:
        result["latency_s"], result["bytes_per_s"] = fit_latency_bandwidth(samples)
        result["link_error"] = _mean_error(samples, result["latency_s"], result["bytes_per_s"])
    return result


def fit_latency_bandwidth(samples: list[tuple[float, float, float]]) -> tuple[float, float]:
    """Fit seconds = steps x latency + nbytes / bandwidth to (steps, nbytes, seconds), every sample weighing alike.

    Least squares of the relative error, by the normal equations of two unknowns; a latency below zero becomes zero.
    """
    rows = [(steps / t, nbytes / t) for steps, nbytes, t in samples]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = sum(row[0] for row in rows), sum(row[1] for row in rows)
    determinant = aa * bb - ab * ab
    if determinant <= 1e-12 * aa * bb:
        raise ValueError(f"a latency and a bandwidth want samples of at least two sizes, got {samples}")
    latency = (a * bb - b * ab) / determinant
    per_byte = (b - max(latency, 0.0) * ab) / bb
    return max(latency, 0.0), 1 / per_byte


# --- on one rank ----------------------------------------------------------------------------------------------------


def _measure_rank(world: Any) -> dict[str, Any]:
    """Measure one process, on its GPU if it has one, while the others do the same."""
    torch.set_num_threads(1)
    on_gpu = world.device.type == "cuda"
    memory = torch.cuda.get_device_properties(world.device).total_memory if on_gpu else 0
    found: dict[str, Any] = {"on_gpu": on_gpu, "memory_bytes": memory, SAMPLES: []}
    for name, work, once, inner in _operations(world.device):
        world.barrier()
        seconds = _seconds(once, world.device, inner)
        found[name] = work / seconds if work else seconds
    if world.size > 1:
        found[SAMPLES] = _messages(world)
    return found


def _operations(device: torch.device) -> list[tuple[str, int, Callable[[], Any], int]]:
    """What is timed on a rank: name, FLOPs or bytes of one call (0: its seconds are what counts), the call, calls."""
    n = MATRIX if device.type == "cpu" else 8 * MATRIX
    b, h, t, k = 8, 4, 256, 64
    q = torch.randn(b, h, t, k, device=device)
    copied, one = torch.zeros(COPIED_BYTES // 4, device=device), torch.zeros(1, device=device)
    target = torch.empty_like(copied)
    attend = partial(F.scaled_dot_product_attention, q, q, q, is_causal=True)
    operations: list[tuple[str, int, Callable[[], Any], int]] = [
        ("attention", 4 * b * h * t * t * k, attend, 1),  # the whole T x T counted, as everywhere in the library
        ("memory", 2 * COPIED_BYTES, partial(target.copy_, copied), 1),  # read and written
        ("small_s", 0, partial(torch.add, one, one), 100),
    ]
    dtypes = {"fp32": torch.float32, "fp64": torch.float64}
    if device.type == "cuda":
        dtypes |= {"bf16": torch.bfloat16, "fp16": torch.float16}
    for name, dtype in dtypes.items():
        a = torch.randn(n, n, device=device).to(dtype)
        operations.append((name, 2 * n**3, partial(torch.matmul, a, a), 1))
    return operations


def _seconds(once: Callable[[], Any], device: torch.device, inner: int = 1, repeats: int = 7) -> float:
    """Median seconds of one call, after a first that is not counted."""
    once()
    times = []
    for _ in range(repeats):
        _settle(device)
        start = time.perf_counter()
        for _ in range(inner):
            once()
        _settle(device)
        times.append((time.perf_counter() - start) / inner)
    return sorted(times)[repeats // 2]


def _settle(device: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU already has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _messages(world: Any) -> list[tuple[float, float, float]]:
    """Time sends between ranks 0 and 1, there and back, and all-reduces: (latency steps, bytes through a port, s)."""
    samples, n = [], world.size
    for nbytes in MESSAGE_BYTES:
        x = torch.zeros(nbytes // 4, device=world.device)
        world.barrier()
        if world.rank < 2:
            samples.append((1.0, float(nbytes), _seconds(partial(_there_and_back, world, x), world.device) / 2))
        world.barrier()
        ring = 2 * (n - 1)  # steps of a ring all-reduce; each moves 1/n of the payload
        samples.append((float(ring), ring / n * nbytes, _seconds(partial(world.all_reduce, x), world.device)))
    return samples


def _there_and_back(world: Any, x: torch.Tensor) -> None:
    if world.rank == 0:
        world.send(x, 1)
        world.recv(x, 1)
    else:
        world.recv(x, 0)
        world.send(x, 0)


# --- around it ------------------------------------------------------------------------------------------------------


def _all_threads(cores: int) -> float:
    """FLOP/s of one process that uses every core: what ranks are to be compared with."""
    before = torch.get_num_threads()
    a = torch.randn(2 * MATRIX, 2 * MATRIX)
    try:
        torch.set_num_threads(cores)
        return 2 * (2 * MATRIX) ** 3 / _seconds(partial(torch.matmul, a, a), a.device, repeats=3)
    finally:
        torch.set_num_threads(before)


def _mean_error(samples: list[tuple[float, float, float]], latency: float, bandwidth: float) -> float:
    """Mean share by which the fitted line misses its samples."""
    return sum(abs(s * latency + b / bandwidth - t) / t for s, b, t in samples) / len(samples)


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
