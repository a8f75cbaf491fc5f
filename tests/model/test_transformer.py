"""The Transformer against torch's modules, on its own promises, and at the door."""

import copy

import cloudpickle
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from llmlab.model import Block, Config, Transformer, attend_formula, draw, padding_mask

SIZES = {"vocab_size": 50, "d_model": 24, "n_layer": 2, "n_head": 4, "max_seq": 16}
LLAMA = {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "n_kv_head": 2, "bias": False}
VARIANTS = [
    {},
    LLAMA,
    {"position": "sinusoidal", "norm_first": False, "mlp": "gelu_tanh"},
    {"position": "none", "tie_embeddings": False, "causal": False},
    {"position": "rotary", "n_expert": 4},
]


def model_of(seed=0, **options):
    return Transformer(Config(**{**SIZES, "dtype": torch.float64, **options}), seed=seed)


def some_tokens(B=2, T=11):
    return torch.randint(SIZES["vocab_size"], (B, T))


def copy_layer(block, theirs):
    """Give torch's encoder or decoder layer the weights of ours, after making all of ours random."""
    for p in block.parameters():
        nn.init.normal_(p, std=0.5)
    pairs = {"linear1": block.mlp.up, "linear2": block.mlp.down, "self_attn": block.attention}
    norms = [block.attention_norm, block.mlp_norm]
    if hasattr(block, "cross"):
        pairs["multihead_attn"] = block.cross
        norms.insert(1, block.cross_norm)
    pairs.update({f"norm{i + 1}": norm for i, norm in enumerate(norms)})
    for name, ours in pairs.items():
        module = getattr(theirs, name)
        if isinstance(module, nn.MultiheadAttention):
            parts = (ours.query, ours.key, ours.value)
            module.in_proj_weight.data = torch.cat([part.weight.data for part in parts])
            module.in_proj_bias.data = torch.cat([part.bias.data for part in parts])
            module, ours = module.out_proj, ours.output
        module.weight.data, module.bias.data = ours.weight.data.clone(), ours.bias.data.clone()


@settings(max_examples=12)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 9),
    heads=st.integers(1, 3),
    K=st.integers(1, 5),
    norm_first=st.booleans(),
    causal=st.booleans(),
    mlp=st.sampled_from(["gelu", "relu"]),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_a_block_equals_torchs_encoder_layer(agree, B, T, heads, K, norm_first, causal, mlp, dtype):
    D = heads * K
    block = Block(Config(8, D, 1, heads, 16, norm_first=norm_first, causal=causal, mlp=mlp, dtype=dtype))
    theirs = nn.TransformerEncoderLayer(D, heads, 4 * D, 0.0, mlp, 1e-5, True, norm_first, dtype=dtype)
    copy_layer(block, theirs)
    x = torch.randn(B, T, D, dtype=dtype, requires_grad=True)
    mask = nn.Transformer.generate_square_subsequent_mask(T, dtype=dtype) if causal else None
    ours_out, their_out = block(x), theirs(x, src_mask=mask)
    weights = (block.mlp.up.weight, block.attention.output.weight, block.attention_norm.weight, block.mlp.down.bias)
    their_weights = (theirs.linear1.weight, theirs.self_attn.out_proj.weight, theirs.norm1.weight, theirs.linear2.bias)
    ours_grads = torch.autograd.grad(ours_out.pow(2).sum(), (x, *weights))
    their_grads = torch.autograd.grad(their_out.pow(2).sum(), (x, *their_weights))
    # a norm over one feature gives 0 and a gradient of 0, where rounding is all there is to compare
    if D > 1:
        agree([ours_out, *ours_grads], [their_out, *their_grads], terms=4 * D * B * T)


def test_the_model_is_embedding_blocks_norm_and_output(agree):
    model, tokens = model_of(), some_tokens()
    x = model.embedding.token.weight[tokens] + model.embedding.position.weight[: tokens.shape[1]]
    for block in model.blocks:
        x = block(x)
    expected = F.layer_norm(x, (24,), model.norm.weight, model.norm.bias) @ model.embedding.token.weight.T
    agree([model(tokens)], [expected])


def test_the_loss_is_the_mean_over_target_tokens(agree):
    model, tokens, targets = model_of(), some_tokens(), some_tokens()
    targets[0, 3:] = -100
    log_p = model(tokens).log_softmax(-1)  # over the vocabulary, not over time
    each = [-log_p[b, t, targets[b, t]] for b in range(2) for t in range(11) if targets[b, t] != -100]
    agree([model.loss(tokens, targets)], [torch.stack(each).mean()])
    agree([model.loss(tokens, targets, reduction="sum")], [torch.stack(each).sum()])


@pytest.mark.parametrize("options", VARIANTS)
def test_gradients_are_those_of_finite_differences(options):
    model, tokens, targets = model_of(n_layer=1, **options), some_tokens(), some_tokens()
    model.loss(tokens, targets).backward()
    for name, p in model.named_parameters():
        direction = torch.randn_like(p)
        with torch.no_grad():
            slope = 0.0
            for sign in (1, -1):
                p.add_(direction, alpha=sign * 1e-6)
                slope += sign * model.loss(tokens, targets).item() / 2e-6
                p.sub_(direction, alpha=sign * 1e-6)
        # central differences: rounding 1e-16 / 1e-6, and the third derivative times 1e-12
        assert slope == pytest.approx((p.grad * direction).sum().item(), rel=1e-5, abs=1e-8), name


def test_a_causal_model_never_looks_ahead_and_an_encoder_does():
    tokens = some_tokens(1, 8)
    changed = tokens.clone()
    changed[0, 5] = (tokens[0, 5] + 1) % 50
    for causal in (True, False):
        model = model_of(causal=causal)
        same = (model(tokens) == model(changed)).all(-1)[0]
        assert same[:5].all() == causal and not same[5:].any()


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    first = model_of(seed=3).state_dict()
    torch.randn(100)
    before = torch.get_rng_state()
    second, other = model_of(seed=3).state_dict(), model_of(seed=4).state_dict()
    assert torch.equal(before, torch.get_rng_state())  # the caller's random numbers are left alone
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["blocks.0.mlp.up.weight"], other["blocks.0.mlp.up.weight"])


def test_a_part_draws_the_weights_of_the_whole():
    model = model_of(seed=5)
    for name, p in model.named_parameters():
        assert torch.equal(p, draw(name, p.shape, model.config, seed=5)), name


def test_first_weights_have_gpt2s_spread():
    model = model_of(d_model=256, n_layer=8, vocab_size=500)
    expected = {"query.weight": 0.02, "up.weight": 0.02, "output.weight": 0.02 / 4, "down.weight": 0.02 / 4}
    for name, p in model.named_parameters():
        std = next((std for ending, std in expected.items() if name.endswith(ending)), None)
        if std:  # the spread of n draws is off by 1/sqrt(2n) or so: under 0.3% here
            assert p.std().item() == pytest.approx(std, rel=0.02), name
        elif name.endswith("bias"):
            assert (p == 0).all(), name
        elif "norm" in name:
            assert (p == 1).all(), name


def test_fp64_holds_the_numbers_of_fp32():
    single, double = model_of(dtype=torch.float32), model_of()
    for a, b in zip(single.parameters(), double.parameters(), strict=True):
        assert b.dtype == torch.float64 and torch.equal(a.double(), b)


@pytest.mark.parametrize("options", VARIANTS)
def test_a_meta_model_becomes_the_real_one(options):
    with torch.device("meta"):
        model = model_of(seed=2, **options)
    assert all(p.is_meta for p in model.parameters())
    model.materialize()
    real, tokens = model_of(seed=2, **options), some_tokens()
    assert torch.equal(model(tokens), real(tokens))
    assert (model.head.weight is model.embedding.token.weight) == model.config.tie_embeddings


class Names(TorchDispatchMode):
    """The names of torch's operations, in order."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [*VARIANTS, {"dropout": 0.1}])
def test_meta_tensors_go_through_the_same_operations_as_real_ones(options):
    streams = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            model = model_of(**options)
            tokens = torch.zeros(2, 11, dtype=torch.long)
            if options.get("n_expert"):  # the even share, which is what meta assumes, needs each expert chosen
                tokens = torch.zeros(2, 12, dtype=torch.long)
        for block in model.blocks:
            block.attention.attend = attend_formula
        with Names() as ran:
            model.loss(tokens, tokens).backward()
        # reading how many tokens each expert gets is the one step that meta tensors cannot take
        streams.append([name for name in ran.names if "bincount" not in name and "_local_scalar" not in name])
    assert streams[0] == streams[1]


@pytest.mark.parametrize("options", [*VARIANTS[:3], VARIANTS[4]])
@pytest.mark.parametrize("chunks", [[1] * 9, [4, 1, 3, 1], [9]])
def test_with_a_cache_the_logits_are_those_without(agree, options, chunks):
    model, tokens = model_of(**options), some_tokens(2, 9)
    caches = model.make_caches(batch=2, length=9)
    parts = [model(part, caches=caches) for part in tokens.split(chunks, dim=1)]
    agree([torch.cat(parts, dim=1)], [model(tokens)])


def test_with_rotary_positions_only_the_distance_counts(agree):
    model, tokens = model_of(**LLAMA), some_tokens(2, 9)
    agree([model(tokens, torch.arange(100, 109))], [model(tokens)])
    assert not torch.allclose(model(tokens, 2 * torch.arange(9)), model(tokens))


def test_beams_may_swap_their_caches(agree):
    model, tokens = model_of(**LLAMA), some_tokens(3, 6)
    caches = model.make_caches(batch=3)
    model(tokens[:, :5], caches=caches)
    rows = torch.tensor([2, 0, 0])
    for cache in caches:
        cache.select(rows)
    agree([model(tokens[rows, 5:], caches=caches)], [model(tokens[rows])[:, 5:]])


@pytest.mark.parametrize("options", [{}, LLAMA, {"causal": False}])
def test_padding_changes_nothing(agree, options):
    model, tokens = model_of(**options), some_tokens(2, 9)
    padded = model(tokens, mask=padding_mask(torch.tensor([9, 6]), 9))
    agree([padded[:1], padded[1:, :6]], [model(tokens[:1]), model(tokens[1:, :6])])


def test_left_padding_with_positions_changes_nothing(agree):
    for options in ({}, LLAMA):
        model, tokens = model_of(**options), some_tokens(1, 6)
        padded = F.pad(tokens, (3, 0))
        positions = torch.tensor([[0, 0, 0, 0, 1, 2, 3, 4, 5]])
        mask = torch.arange(9)[None, None, None] >= 3
        agree([model(padded, positions, mask)[:, 3:]], [model(tokens)])


def test_copies_and_pickles_compute_the_same_and_stay_tied():
    model, tokens = model_of(), some_tokens()
    for twin in (copy.deepcopy(model), cloudpickle.loads(cloudpickle.dumps(model))):
        assert torch.equal(twin(tokens), model(tokens))
        assert twin.head.weight is twin.embedding.token.weight
        twin.embedding.token.weight.data.zero_()
    assert model.embedding.token.weight.abs().sum() > 0


def test_a_tied_table_stays_one_wherever_the_model_goes():
    model = model_of()
    for there in (lambda: model.to("meta"), model.materialize, model.float):
        there()
        assert model.tied and model.head.weight is model.embedding.token.weight
    model.embedding = nn.Identity()  # as on the last stage of a pipeline
    assert not model.double().tied and model.head.weight.dtype == torch.float64
    assert not model_of(tie_embeddings=False).to("meta").tied


def test_bf16_computes_the_loss_in_fp32():
    model, tokens = model_of(dtype=torch.bfloat16, **LLAMA), some_tokens()
    assert model(tokens).dtype == torch.bfloat16
    assert model.loss(tokens, tokens).dtype == torch.float32


def test_too_long_a_sequence_is_named():
    model = model_of(**LLAMA)
    with pytest.raises(ValueError, match="at most max_seq=16 tokens, got 17"):
        model(some_tokens(1, 17))
    caches = model.make_caches(1)
    model(some_tokens(1, 16), caches=caches)
    with pytest.raises(ValueError, match="at most max_seq=16 tokens, got 17"):
        model(some_tokens(1, 1), caches=caches)
