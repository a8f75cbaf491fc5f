"""Our ring attention beside torch's, and beside one process with one thread.

    python benchmarks/context_parallel.py [--pairs 20] [--seq 2048] [--heads 8]

torch's ring (torch.distributed.tensor.experimental.context_parallel) replaces the attention kernels of GPUs; on a CPU
its public face refuses: the CPU's kernel "does not have a sharding strategy registered". So its inside, the template
that all its kernels share, is run here with the CPU's flash kernel, the one that ours uses, on the same zigzag columns.
It can pass keys and values by one all_gather (its default) or round the ring by all_to_all; both are run.

Two gloo processes; every way takes forward and backward on the same tensors, in turns within one run, so that what else
the machine does hits all alike. Printed is the median of the paired ratios with its quartiles.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from statistics import median, quantiles

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.autograd import Function
from torch.distributed.tensor.experimental._context_parallel import _attention as theirs

import llmlab as lab
from llmlab.parallel import blockwise
from llmlab.parallel.context import columns
from llmlab.parallel.ring import attend_ring

RANKS, HEAD_DIM = 2, 64


class TorchsRing(Function):
    """The template of torch's ring with the CPU's kernel, forward and backward."""

    @staticmethod
    def forward(ctx, q, k, v, rotation):
        ctx.rotation = theirs._cp_options.rotate_method = rotation
        kernel = blockwise.aten._scaled_dot_product_flash_attention_for_cpu
        out, lse = theirs._templated_ring_attention(dist.group.WORLD, 2, kernel, q, k, v, is_causal=True, dropout_p=0.0)
        ctx.save_for_backward(q, k, v, out, lse)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, k, v, out, lse = ctx.saved_tensors
        theirs._cp_options.rotate_method = ctx.rotation
        kernel = blockwise.aten._scaled_dot_product_flash_attention_for_cpu_backward
        found = theirs._templated_ring_attention_backward(
            dist.group.WORLD, 2, kernel, grad, "grad_out", q, k, v, out, lse, is_causal=True, dropout_p=0.0
        )
        return *found[:3], None


def torchs_ring(q, k, v, rotation):
    return TorchsRing.apply(q, k, v, rotation)


def race(world, seq: int, heads: int, pairs: int) -> dict[str, list[float]]:
    """Seconds of forward and backward, each way, in turns: `pairs` of each. One process works while the other waits."""
    rings = theirs._RotateMethod
    whole = [torch.randn(1, heads, seq, HEAD_DIM, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    held = columns(seq, world)
    part = [x[:, :, held] for x in whole]
    ways = {
        "ours": (part, partial(attend_ring, causal=True, group=world, order="zigzag")),
        "torch, all_to_all": (part, partial(torchs_ring, rotation=rings.ALL_TO_ALL)),
        "torch, all_gather": (part, partial(torchs_ring, rotation=rings.ALL_GATHER)),
        "one process": (whole, partial(F.scaled_dot_product_attention, is_causal=True)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {}
    for pair in range(-2, pairs):  # the first two warm up
        for name in list(ways) if pair % 2 else list(ways)[::-1]:
            world.barrier()
            start = world.clock()
            if name != "one process" or world.rank == 0:
                results[name] = step(*ways[name])
            slowest = world.all_reduce(torch.tensor([world.clock() - start]), "max").item()
            if pair >= 0:
                seconds[name].append(slowest)
    check_results(world, results, held)
    return seconds


def step(tensors, attend) -> list[torch.Tensor]:
    """Output and gradients."""
    q, k, v = (x.detach().requires_grad_() for x in tensors[:3])
    out = attend(q, k, v)
    out.backward(tensors[3])
    return [out.detach(), q.grad, k.grad, v.grad]


def check_results(world, results, held) -> None:
    """All ways compute the same, or their seconds say nothing."""
    if world.rank == 0:
        results["one process"] = [x[:, :, held] for x in results["one process"]]
    wanted = results["ours"]
    for name, found in results.items():
        for a, b in zip(wanted, found, strict=True):
            if (difference := ((a - b).norm() / b.norm()).item()) > 1e-5:  # fp32: sums of thousands of terms
                raise AssertionError(f"{name} differs from ours by {difference:.1e} of its norm")


def ratios(seconds: dict[str, list[float]], slower: str, faster: str) -> list[float]:
    return [a / b for a, b in zip(seconds[slower], seconds[faster], strict=True)]


def spread(values: list[float]) -> str:
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.3f} (quartiles {low:.3f} to {high:.3f}, {len(values)} pairs)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=8)
    options = parser.parse_args()
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    print(f"causal, {options.seq} tokens, {options.heads} heads of {HEAD_DIM}, fp32; {os.cpu_count()} cores{load}\n")
    run = lab.Processes(RANKS, timeout_s=900).run(race, options.seq, options.heads, options.pairs)
    seconds = run.results[0]
    print(f"MEASURED  on {run.hardware}")
    for name, taken in seconds.items():
        print(f"MEASURED  seconds, {name:<18} {median(taken):.4f}")
    for way in ("all_to_all", "all_gather"):
        print(f"MEASURED  speed, ours over torch's, {way} {spread(ratios(seconds, f'torch, {way}', 'ours'))}")
    print(f"MEASURED  speedup over one process          {spread(ratios(seconds, 'one process', 'ours'))}")


if __name__ == "__main__":
    main()
