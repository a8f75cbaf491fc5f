"""torch's context parallel on simulated ranks: its ring attention has CUDA kernels only, and gets the CPU's.

The rotation of keys and values, the merging of parts and the load balance are torch's own; only the attention of one
step is ours, charged to the clock as one fused kernel (Dao 2023), as everywhere in the simulator.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from llmlab.comm.simulated.rank import Rank
from llmlab.comm.simulated.recorder import ATTENTION_BACKWARD, attention_flops, charge_attention, unseen
from llmlab.comm.simulated.torch_programs.private import RING, place

ATTENTION = F.scaled_dot_product_attention  # torch's own: context parallel may have replaced it by now
SEQUENCE = 2  # the dimension of [B, H, T, K] that is split


def ring_attention(rank: Rank, q: DTensor, k: DTensor, v: DTensor, **options: Any) -> DTensor:
    """Attention over a sequence that is split along a mesh of one axis."""
    unknown = {name for name, value in options.items() if value and name not in ("is_causal", "scale")}
    if unknown:
        raise ValueError(f"context parallel on simulated ranks takes is_causal and scale, got {sorted(unknown)}")
    causal, scale = bool(options.get("is_causal")), options.get("scale")
    local = (x.to_local() for x in (q, k, v))
    out = _Ring.apply(rank, q.device_mesh.get_group(), causal, scale, *local)
    return DTensor.from_local(out, q.device_mesh, q.placements, run_check=False)


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rank: Rank, group: Any, causal: bool, scale: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        run = place(f"{RING}:_templated_ring_attention").value
        options = {"is_causal": causal, "scale": scale}
        out, logsumexp, *_ = run(group, SEQUENCE, _step(rank), query=q, key=k, value=v, **options)
        ctx.rank, ctx.group, ctx.options = rank, group, options
        ctx.save_for_backward(q, k, v, out, logsumexp)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        run = place(f"{RING}:_templated_ring_attention_backward").value
        q, k, v, out, logsumexp = ctx.saved_tensors
        tensors = {"query": q, "key": k, "value": v, "out": out, "logsumexp": logsumexp}
        grads = run(
            ctx.group, SEQUENCE, _step_backward(ctx.rank), grad_out=grad.contiguous(), grad_out_name="grad_out",
            **tensors, **ctx.options,
        )  # fmt: skip
        return None, None, None, None, *grads[:3]


def _step(rank: Rank) -> Any:
    """One step's attention, with the logsumexp that merging needs."""

    def forward(q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False, scale: Any = None, **_: Any) -> Any:
        with unseen():
            run = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            out, logsumexp = run(q, k, v, 0.0, is_causal, scale=scale)
        charge_attention(rank, "attention", attention_flops(q, k, v), [q, k, v], [out, logsumexp])
        return out, logsumexp

    return forward


def _step_backward(rank: Rank) -> Any:
    def backward(
        query: Tensor, key: Tensor, value: Tensor, out: Tensor, logsumexp: Tensor, is_causal: bool, grad_out: Tensor,
        scale: Any = None, **_: Any,
    ) -> Any:  # fmt: skip
        with unseen():
            run = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
            grads = run(grad_out, query, key, value, out, logsumexp, 0.0, is_causal, scale=scale)
        flops = int(ATTENTION_BACKWARD * attention_flops(query, key, value))
        charge_attention(rank, "attention_backward", flops, [query, key, value, out, grad_out], list(grads))
        return grads

    return backward
