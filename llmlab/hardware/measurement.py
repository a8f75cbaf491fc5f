"""Measure this machine with its own processes: product and attention rates, memory bandwidth, the link between them.

One rank is one process with one thread, timed while every core is at work, because that is how ranks run: cores share
memory bandwidth and clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from llmlab.arguments import listing, real, reals

MATRIX = 768  # side of the product timed on a core: 0.9 GFLOP, tens of milliseconds
COPIED_BYTES = 64 * 2**20  # past the last-level cache of most machines
MESSAGE_BYTES = (4, 2**12, 2**16, 2**20, 2**22)
SAMPLE = "(steps, nbytes, seconds)"
SAMPLES = "messages"  # of the link, on rank 0


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

    Least squares of the relative error, by the normal equations of two unknowns. Where noise would make the latency
    negative it is zero; where it would make the bandwidth so, it is the best any sample reached.
    """
    rows = [_per_second(sample) for sample in listing("fit_latency_bandwidth", "samples", samples, SAMPLE)]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = sum(row[0] for row in rows), sum(row[1] for row in rows)
    determinant = aa * bb - ab * ab
    if determinant <= 1e-12 * aa * bb:
        raise ValueError(f"a latency and a bandwidth want samples of at least two sizes, got {samples}")
    latency = (a * bb - b * ab) / determinant
    per_byte = (b - max(latency, 0.0) * ab) / bb
    best = max(nbytes / t for _, nbytes, t in samples)
    return max(latency, 0.0), 1 / per_byte if per_byte > 0 else best


def _per_second(sample: tuple[float, float, float]) -> tuple[float, float]:
    if not isinstance(sample, (tuple, list)) or len(sample) != 3:
        raise ValueError(f"fit_latency_bandwidth wants samples of {SAMPLE}; got {sample!r}")
    steps, nbytes, seconds = sample
    reals("fit_latency_bandwidth", 0, steps=steps, nbytes=nbytes)
    real("fit_latency_bandwidth", "seconds", seconds, above=0)
    return steps / seconds, nbytes / seconds


def _mean_error(samples: list[tuple[float, float, float]], latency: float, bandwidth: float) -> float:
    """Mean share by which the fitted line misses its samples."""
    return sum(abs(s * latency + b / bandwidth - t) / t for s, b, t in samples) / len(samples)


def _all_threads(cores: int) -> float:
    """FLOP/s of one process that uses every core: what ranks are to be compared with."""
    before = torch.get_num_threads()
    a = torch.randn(2 * MATRIX, 2 * MATRIX)
    try:
        torch.set_num_threads(cores)
        return 2 * (2 * MATRIX) ** 3 / _seconds(partial(torch.matmul, a, a), a.device, repeats=3)
    finally:
        torch.set_num_threads(before)


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
