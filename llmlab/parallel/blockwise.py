"""Attention of some queries to some keys, with what it takes to put several such blocks together, as one kernel.

    lse_i = log sum_j exp(q_i k_j / sqrt(K))          a block gives, beside its output, each row's logsumexp
    out   = out_a + (out_b - out_a) sigmoid(lse_b - lse_a)        then two blocks' outputs combine exactly

Milakov and Gimelshein 2018 (the running softmax); Dao et al. 2022, "FlashAttention", appendix B.4 (backward needs only
out and lse of the *whole* row, so each block's gradient can be had by itself). They are operations of torch's own kind,
`torch.ops.llmlab.attention` and `attention_backward`: one kernel to a profiler and to the simulator, on real and on
meta tensors alike. On a CPU torch's flash kernel runs them, elsewhere the formula.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from llmlab.model.attention import repeat_heads

aten = torch.ops.aten


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which blocks are added up: 16-bit ones in fp32."""
    return torch.promote_types(dtype, torch.float32)


def visible(q: Tensor, kv: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Combine mask and causality, [B|1, h|1, n, m]: True where a query may look."""
    everything = torch.ones(1, 1, q.shape[2], kv.shape[3], dtype=torch.bool, device=q.device)
    seen = everything.tril() if causal else everything
    return seen if mask is None else mask & seen


def _flash(q: Tensor, kv: Tensor, mask: Tensor | None, causal: bool, counted: int) -> tuple[Tensor, Tensor]:
    q, (k, v) = _in_rows(q), (repeat_heads(x, q.shape[1]) for x in kv)
    if mask is None:
        out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal)
        return out, lse.contiguous()
    mask = visible(q, kv, mask, causal)
    out, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=_additive(mask, q))
    lse = lse.masked_fill(~mask.any(-1), -torch.inf)  # the kernel says 0 of a row that sees nothing
    return out, lse.contiguous()


def _flash_backward(
    grad: Tensor, q: Tensor, kv: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None, causal: bool, counted: int
) -> tuple[Tensor, Tensor]:
    k, v = (repeat_heads(x, q.shape[1]) for x in kv)
    if mask is not None:
        mask, causal = _additive(visible(q, kv, mask, causal), q), False  # the kernel takes one or the other
        lse = lse.masked_fill(lse == -torch.inf, torch.inf)  # exp(score - lse) is then 0, not nan
    grads = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        _in_rows(grad), _in_rows(q), k, v, out, lse, 0.0, causal, attn_mask=mask
    )
    return grads[0], _sum_over_groups(grads[1:], kv)


def _formula(q: Tensor, kv: Tensor, mask: Tensor | None, causal: bool, counted: int) -> tuple[Tensor, Tensor]:
    k, v = (repeat_heads(x, q.shape[1]).to(accumulator(q.dtype)) for x in kv)
    scores = _scores(q.to(k.dtype), k, visible(q, kv, mask, causal))
    lse = scores.logsumexp(-1)
    out = _weights(scores, lse) @ v
    return torch.empty_like(_in_rows(q)).copy_(out), lse  # laid out as the queries are, as the kernels do


def _formula_backward(
    grad: Tensor, q: Tensor, kv: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None, causal: bool, counted: int
) -> tuple[Tensor, Tensor]:
    wide = accumulator(q.dtype)
    k, v = (repeat_heads(x, q.shape[1]).to(wide) for x in kv)
    grad, out, wide_q = grad.to(wide), out.to(wide), q.to(wide)
    weights = _weights(_scores(wide_q, k, visible(q, kv, mask, causal)), lse)  # [B, h, n, m]
    grad_scores = weights * (grad @ v.mT - (grad * out).sum(-1, keepdim=True)) / q.shape[-1] ** 0.5
    grads = grad_scores.mT @ wide_q, weights.mT @ grad
    return (grad_scores @ k).to(q.dtype), _sum_over_groups(tuple(x.to(q.dtype) for x in grads), kv)


def _shapes(q: Tensor, kv: Tensor, mask: Tensor | None, causal: bool, counted: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(_in_rows(q)), q.new_empty(q.shape[:3], dtype=accumulator(q.dtype))


def _shapes_backward(
    grad: Tensor, q: Tensor, kv: Tensor, out: Tensor, lse: Tensor, mask: Tensor | None, causal: bool, counted: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q.transpose(1, 2).contiguous()).transpose(1, 2), kv.new_empty(kv.shape)


def _scores(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)


def _weights(scores: Tensor, lse: Tensor) -> Tensor:
    """exp(scores - lse), and 0 in a row that sees nothing."""
    return (scores - lse.masked_fill(lse == -torch.inf, torch.inf)[..., None]).exp()


def _additive(mask: Tensor, q: Tensor) -> Tensor:
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -torch.inf)


def _in_rows(x: Tensor) -> Tensor:
    """The kernel takes for granted, unasked, that the last dimension's numbers lie side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _sum_over_groups(grads: tuple[Tensor, ...], kv: Tensor) -> Tensor:
    """Add up what the query heads of a group say of their one key head: [B, h, m, K] twice -> [2, B, g, m, K]"""
    if grads[0].shape[1] > kv.shape[2]:
        grads = tuple(x.unflatten(1, (kv.shape[2], -1)).sum(2) for x in grads)
    return torch.stack(grads)


# --- as operations of torch ------------------------------------------------------------------------------------------

# q: [B, h, n, K].  kv: keys and values, [2, B, g, m, K], g dividing h.  mask: [B|1, h|1, n, m], True where a query may
# look.  causal (n = m): query i looks at keys 0 .. i.  counted: how often each pair counts as FLOPs (see ring.Tile).
torch.library.define(
    "llmlab::attention",
    "(Tensor q, Tensor kv, Tensor? mask, bool causal, int counted) -> (Tensor out, Tensor lse)",
)
torch.library.define(
    "llmlab::attention_backward",
    "(Tensor grad, Tensor q, Tensor kv, Tensor out, Tensor lse, Tensor? mask, bool causal, int counted)"
    " -> (Tensor grad_q, Tensor grad_kv)",
)
for devices, forward, backward in (
    (("cpu",), _flash, _flash_backward),
    (("cuda", "mps", "xpu"), _formula, _formula_backward),
    (("meta",), _shapes, _shapes_backward),
):
    torch.library.impl("llmlab::attention", devices, forward)
    torch.library.impl("llmlab::attention_backward", devices, backward)
attention = torch.ops.llmlab.attention
attention_backward = torch.ops.llmlab.attention_backward


@register_flop_formula(attention)
def _flops(q: torch.Size, kv: torch.Size, mask: object, causal: bool, counted: int, **_: object) -> int:
    B, h, n, K = q
    return 4 * B * h * n * kv[3] * K * counted


@register_flop_formula(attention_backward)
def _flops_backward(
    grad: object, q: torch.Size, kv: torch.Size, out: object, lse: object, mask: object, causal: bool, counted: int,
    **_: object,
) -> int:  # fmt: skip
    return _flops(q, kv, mask, causal, counted) * 5 // 2  # five products for two: the scores are computed again
