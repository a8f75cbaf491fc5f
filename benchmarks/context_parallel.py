"""Our ring attention beside torch's, and beside one process with one thread.

    python benchmarks/context_parallel.py [--pairs 20] [--seq 2048] [--heads 8]

torch's ring (torch.distributed.tensor.experimental.context_parallel) replaces the attention kernels of GPUs; on a CPU
its public face refuses: the CPU's kernel "does not have a sharding strategy registered". So its inside, the template
that all its kernels share, is run here with the CPU's flash kernel, the one that ours uses, on the same zigzag columns.
It can pass keys and values by one all_gather (its default) or round the ring by all_to_all; both are run.

Two processes; every way takes forward and backward on the same tensors, in turns within one run, so that what else
the machine does hits all alike. Printed is the median of the paired ratios with its quartiles.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from racing import check_same, print_seconds, ratios, read_options, spread, take_turns, where
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
        "ours": partial(step, part, partial(attend_ring, causal=True, group=world, order="zigzag")),
        "torch, all_to_all": partial(step, part, partial(torchs_ring, rotation=rings.ALL_TO_ALL)),
        "torch, all_gather": partial(step, part, partial(torchs_ring, rotation=rings.ALL_GATHER)),
        "one process": partial(step, whole, partial(F.scaled_dot_product_attention, is_causal=True)),
    }
    wanted = [x[:, :, held] for x in ways["one process"]()]
    for name in list(ways)[:3]:
        for got, share in zip(ways[name](), wanted, strict=True):
            check_same(name, got, share, tolerance=1e-5)  # fp32: sums of thousands of terms
    return take_turns(world, ways, pairs, alone=["one process"])


def step(tensors, attend) -> list[torch.Tensor]:
    """Output and gradients."""
    q, k, v = (x.detach().requires_grad_() for x in tensors[:3])
    out = attend(q, k, v)
    out.backward(tensors[3])
    return [out.detach(), q.grad, k.grad, v.grad]


def main() -> None:
    options = read_options(__doc__, pairs=20, seq=2048, heads=8)
    print(f"causal, {options.seq} tokens, {options.heads} heads of {HEAD_DIM}, fp32; on {where()}\n")
    run = lab.Processes(RANKS, timeout_s=900).run(race, options.seq, options.heads, options.pairs)
    seconds = print_seconds(run, "seconds")
    for way in ("all_to_all", "all_gather"):
        print(f"MEASURED  speed, ours over torch's, {way} {spread(ratios(seconds, f'torch, {way}', 'ours'))}")
    print(f"MEASURED  speedup over one process          {spread(ratios(seconds, 'one process', 'ours'))}")


if __name__ == "__main__":
    main()
