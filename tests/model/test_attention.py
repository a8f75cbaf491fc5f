"""Attention in its three forms against torch's kernel and module: values and gradients, on drawn shapes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from llmlab.model import (
    Attention,
    Config,
    KVCache,
    attend_formula,
    attend_fused,
    attend_tiled,
    document_mask,
    padding_mask,
)

ATTENDS = [attend_formula, attend_fused, attend_tiled]
few = settings(max_examples=12, deadline=None, derandomize=True)
dtypes = st.sampled_from([torch.float64, torch.float32])


def drawn(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, dtype=dtype, generator=generator).requires_grad_()


def outputs_and_grads(attend, q, k, v, *args):
    out = attend(q, k, v, *args)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), upstream)]


@pytest.mark.parametrize("attend", ATTENDS)
@few
@given(
    B=st.integers(1, 3),
    groups=st.integers(1, 3),
    per_group=st.integers(1, 3),
    T=st.integers(1, 20),
    K=st.integers(1, 9),
    causal=st.booleans(),
    dtype=dtypes,
)
def test_every_form_of_attention_equals_torchs(agree, attend, B, groups, per_group, T, K, causal, dtype):
    q = drawn(B, groups * per_group, T, K, dtype=dtype)
    k, v = (drawn(B, groups, T, K, dtype=dtype, seed=seed) for seed in (1, 2))
    reference = outputs_and_grads(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True), q, k, v
    )
    agree(outputs_and_grads(attend, q, k, v, None, causal), reference, terms=max(T, K) * per_group)


@pytest.mark.parametrize("attend", ATTENDS)
@few
@given(B=st.integers(1, 3), T=st.integers(1, 9), extra=st.integers(0, 9), causal=st.booleans(), seed=st.integers(0, 99))
def test_masks_hide_keys_and_queries_stand_at_the_end(agree, attend, B, T, extra, causal, seed):
    S = T + extra
    q, k, v = drawn(B, 2, T, 4), drawn(B, 2, S, 4, seed=1), drawn(B, 2, S, 4, seed=2)
    mask = torch.rand(B, 1, T, S, generator=torch.Generator().manual_seed(seed)) < 0.7
    whole = mask & torch.ones(T, S, dtype=torch.bool).tril(S - T) if causal else mask
    scores = (q @ k.mT / 4**0.5).masked_fill(~whole, -1e300)
    weights = scores.softmax(-1) * whole.any(-1, keepdim=True)  # a query that may look nowhere gets 0
    reference = weights @ v
    upstream = torch.ones_like(reference)
    expected = [reference.detach(), *torch.autograd.grad(reference, (q, k, v), upstream)]
    out = attend(q, k, v, mask, causal)
    got = [out.detach(), *torch.autograd.grad(out, (q, k, v), upstream)]
    agree([x + 1 for x in got], [x + 1 for x in expected])  # + 1: where everything is masked all is 0


def test_tiles_of_any_size_give_the_same(agree):
    q, k, v = drawn(2, 2, 37, 8), drawn(2, 2, 37, 8, seed=1), drawn(2, 2, 37, 8, seed=2)
    reference = outputs_and_grads(attend_formula, q, k, v, None, True)
    for tile in (1, 5, 37, 64):
        agree(outputs_and_grads(attend_tiled, q, k, v, None, True, tile), reference)


def test_scores_far_beyond_exps_range_survive(agree):
    q, k, v = (1e3 * drawn(1, 1, 5, 4)).detach(), drawn(1, 1, 5, 4, seed=1).detach(), drawn(1, 1, 5, 4, seed=2).detach()
    for attend in ATTENDS:
        agree([attend(q, k, v)], [F.scaled_dot_product_attention(q, k, v)])


def attention_like(reference, config):
    """Our Attention with the weights of a torch.nn.MultiheadAttention."""
    ours = Attention(config)
    weights, biases = reference.in_proj_weight.chunk(3), reference.in_proj_bias.chunk(3)
    with torch.no_grad():
        for linear, weight, bias in zip((ours.query, ours.key, ours.value), weights, biases, strict=True):
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        ours.output.weight.copy_(reference.out_proj.weight)
        ours.output.bias.copy_(reference.out_proj.bias)
    return ours


@few
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 12),
    S=st.integers(1, 12),
    heads=st.integers(1, 4),
    K=st.integers(1, 5),
    cross=st.booleans(),
    seed=st.integers(0, 99),
)
def test_multi_head_and_cross_attention_equal_torchs_module(agree, B, T, S, heads, K, cross, seed):
    torch.manual_seed(seed)
    D, S = heads * K, S if cross else T
    config = Config(8, D, 1, heads, 32, causal=False, dtype=torch.float64)
    reference = nn.MultiheadAttention(D, heads, batch_first=True, dtype=torch.float64)
    nn.init.normal_(reference.in_proj_bias)  # torch begins with 0, which would hide a bias in the wrong place
    ours = attention_like(reference, config)
    x, memory = drawn(B, T, D), drawn(B, S, D, seed=1)
    source = memory if cross else x
    lengths = torch.randint(1, S + 1, (B,))
    expected, _ = reference(x, source, source, key_padding_mask=torch.arange(S) >= lengths[:, None])
    got = ours(x, mask=padding_mask(lengths, S), memory=memory if cross else None)
    grads = [torch.autograd.grad(y.pow(2).sum(), source)[0] for y in (got, expected)]
    agree([got, grads[0]], [expected, grads[1]])


def test_a_document_mask_keeps_packed_documents_apart(agree):
    q, k, v = drawn(1, 2, 7, 4), drawn(1, 2, 7, 4, seed=1), drawn(1, 2, 7, 4, seed=2)
    packed = attend_fused(q, k, v, document_mask(torch.tensor([[0, 0, 0, 1, 1, 1, 1]])), True)
    apart = [attend_fused(q[:, :, s], k[:, :, s], v[:, :, s], None, True) for s in (slice(0, 3), slice(3, 7))]
    agree([packed], [torch.cat(apart, dim=2)])


def test_a_full_cache_says_so():
    cache = KVCache(torch.empty(1, 1, 4, 2), torch.empty(1, 1, 4, 2))
    cache.extend(torch.ones(1, 1, 3, 2), torch.ones(1, 1, 3, 2))
    with pytest.raises(ValueError, match="room for 4 tokens, got 5"):
        cache.extend(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert cache.length == 3


def test_tiled_attention_never_holds_all_weights():
    """The largest tensor it makes grows with T, the formula's with T x T."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.numel = max(self.numel, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    def largest(attend, T, causal):
        q, k, v = (torch.empty(1, 2, T, 16, device="meta") for _ in range(3))
        with Largest() as seen:
            attend(q, k, v, None, causal)
        return seen.numel

    for causal in (False, True):
        assert largest(attend_tiled, 4096, causal) == 2 * largest(attend_tiled, 2048, causal)
        assert largest(attend_formula, 4096, causal) == 4 * largest(attend_formula, 2048, causal)
