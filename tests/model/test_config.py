"""Sizes: what follows from them by formula equals what is counted, and sizes that make no model are refused."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llmlab.model import Config, Transformer, attend_formula

SIZES = {"vocab_size": 50, "d_model": 24, "n_layer": 2, "n_head": 4, "max_seq": 16}
VARIANTS = [
    {},
    {"position": "sinusoidal", "bias": False, "norm_first": False},
    {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "n_kv_head": 2, "bias": False, "tie_embeddings": False},
    {"position": "none", "mlp": "swiglu", "d_ff": 40},
    {"n_expert": 4, "n_expert_shared": 1, "mlp": "swiglu"},
    {"head_dim": 10, "n_kv_head": 2},
    {"head_dim": 4, "attention_bias": "qkv", "bias": False},
    {"attention_bias": "none"},
    {"attention_bias": "all", "bias": False},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_parameters_by_formula_equal_those_counted(options):
    config = Config(**SIZES, **options)
    with torch.device("meta"):
        model = Transformer(config)
    assert config.n_param == sum(p.numel() for p in model.parameters())
    assert config.n_param_block == sum(p.numel() for p in model.blocks[0].parameters())


@pytest.mark.parametrize("options", VARIANTS)
def test_flops_by_formula_equal_those_torch_counts(options):
    config = Config(**SIZES, **options)
    with torch.device("meta"):
        model = Transformer(config)
        tokens = torch.zeros(3, 8, dtype=torch.long)
    for block in model.blocks:
        block.attention.attend = attend_formula  # torch counts its products; a kernel's it may not know
    with FlopCounterMode(display=False) as forward:
        logits = model(tokens)
    assert forward.get_total_flops() == 3 * 8 * config.flops_per_token(8, backward=False)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    total = forward.get_total_flops() + backward.get_total_flops()
    assert total == 3 * 8 * config.flops_per_token(8)


def test_gpt3_has_175_billion_parameters():
    """Brown et al. 2020, table 2.1: 96 layers, d_model 12288, 96 heads; GPT-2's 50257 tokens; 2048 positions."""
    config = Config(vocab_size=50257, d_model=12288, n_layer=96, n_head=96, max_seq=2048)
    assert round(config.n_param / 1e9) == 175


def test_flops_per_token_are_narayanans():
    """Narayanan et al. 2021, appendix, without recomputation: 72 B s l h² (1 + s/6h + V/12lh) per batch."""
    h, layers, s, V = 4096, 32, 2048, 51200
    config = Config(vocab_size=V, d_model=h, n_layer=layers, n_head=32, max_seq=s)
    assert config.flops_per_token() == pytest.approx(72 * layers * h**2 * (1 + s / (6 * h) + V / (12 * layers * h)))


def test_a_head_dim_that_was_not_given_follows_d_model_and_n_head():
    config = Config(**SIZES)
    assert config.head_dim == 6 and replace(config, n_head=8, n_kv_head=0).head_dim == 3
    assert replace(config, d_model=48).head_dim == 12 and copy.deepcopy(replace(config, d_model=48)).head_dim == 12
    assert pickle.loads(pickle.dumps(config)) == config == Config(**SIZES, head_dim=6)
    assert replace(pickle.loads(pickle.dumps(config)), d_model=48).head_dim == 12
    given = Config(**SIZES, head_dim=10)
    assert replace(given, d_model=48).head_dim == 10 and replace(given, d_model=48, head_dim=0).head_dim == 12


def test_biases_of_attention_follow_bias_unless_they_are_named():
    has = {kind: Config(**SIZES, attention_bias=kind, bias=False) for kind in (None, "all", "qkv", "none")}
    assert {kind: (config.qkv_bias, config.output_bias) for kind, config in has.items()} == {
        None: (False, False),
        "all": (True, True),
        "qkv": (True, False),
        "none": (False, False),
    }
    assert replace(has[None], bias=True).output_bias and not replace(has["none"], bias=True).qkv_bias


def test_defaults_are_gpt2s():
    config = Config(vocab_size=50257, d_model=768, n_layer=12, n_head=12, max_seq=1024)
    assert config.n_param == 124439808  # as counted in the released model (Radford et al. 2019; "124M")
    assert (config.d_ff, config.n_kv_head, config.head_dim) == (3072, 12, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 30}, "d_model wants a multiple of n_head=4, got 30"),
        ({"n_kv_head": 3}, "n_kv_head wants a divisor of n_head=4, got 3"),
        ({"n_layer": 0}, "n_layer as a whole number of at least 1; got 0"),
        ({"vocab_size": -1}, "vocab_size as a whole number"),
        ({"d_model": 12, "position": "rotary"}, "even head_dim, got 3"),
        ({"head_dim": -1}, "head_dim as a whole number of at least 0; got -1"),
        ({"head_dim": 5, "position": "rotary"}, "even head_dim, got 5"),
        ({"attention_bias": "some"}, "attention_bias as one of None, 'all', 'qkv', 'none'; got 'some'"),
        ({"rotary_factors": (2.0,) * 3}, "rotary_factors wants position='rotary'"),
        (
            {"rotary_factors": (2.0,) * 2, "position": "rotary"},
            "one for each of head_dim/2=3 frequencies, .* 2 factors",
        ),
        ({"rotary_factors": (2.0, 0.0, 1.0), "position": "rotary"}, "each of rotary_factors as a number above 0"),
        ({"norm": "batchnorm"}, "norm as one of 'layernorm', 'rmsnorm'; got 'batchnorm'"),
        ({"mlp": "tanh"}, "mlp as one of"),
        ({"position": "absolute"}, "position as one of"),
        ({"dropout": 1.0}, "dropout as a number of at least 0 and below 1; got 1.0"),
        ({"label_smoothing": -0.1}, "label_smoothing as a number"),
        ({"dtype": torch.int64}, "dtype as a floating-point torch.dtype; got torch.int64"),
        ({"n_expert": 2, "n_expert_active": 3}, "n_expert_active wants 1 to n_expert=2, got 3"),
        ({"n_expert": -1}, "n_expert as a whole number of at least 0; got -1"),
        ({"norm_eps": 0.0}, "norm_eps as a number above 0"),
        ({"rotary_base": -1.0}, "rotary_base as a number above 0"),
        ({"n_expert": 2, "capacity_factor": 0.0}, "capacity_factor .* as a number above 0; got 0.0"),
    ],
)
def test_sizes_that_make_no_model_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**{**SIZES, **options})
