"""Norms and MLPs against their formulas and torch's modules: values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from llmlab.model import MLP, Config, LayerNorm, RMSNorm, SwiGLU, draw_weights

few = settings(max_examples=8)


def values_and_grads(function, *inputs):
    out = function(*inputs)
    return [out.detach(), *torch.autograd.grad(out.pow(2).sum(), inputs)]


@few
@given(B=st.integers(1, 4), D=st.integers(2, 40), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_norms_equal_torchs_and_their_formulas(agree, B, D, dtype):
    x = torch.randn(B, D, dtype=dtype, requires_grad=True)
    weight, bias = torch.randn(D, dtype=dtype), torch.randn(D, dtype=dtype)
    layer, theirs = LayerNorm(D, 1e-5, True, dtype), nn.LayerNorm(D, 1e-5, dtype=dtype)
    for norm in (layer, theirs):
        norm.load_state_dict({"weight": weight, "bias": bias})
    agree(values_and_grads(layer, x), values_and_grads(theirs, x))
    rms = RMSNorm(D, 1e-5, dtype)
    rms.load_state_dict({"weight": weight})

    def formula(x):
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    agree(values_and_grads(rms, x), values_and_grads(formula, x))


def made(kind, **options):
    config = Config(8, 12, 1, 2, 4, dtype=torch.float64, **options)
    module = kind(config)
    draw_weights(module, config, seed=1)
    for p in module.parameters():
        nn.init.normal_(p)  # biases too
    return module


@pytest.mark.parametrize(
    ("mlp", "activation"), [("gelu", nn.GELU()), ("gelu_tanh", nn.GELU(approximate="tanh")), ("relu", nn.ReLU())]
)
def test_an_mlp_is_two_products_and_an_activation(agree, mlp, activation):
    ours, x = made(MLP, mlp=mlp), torch.randn(2, 3, 12, dtype=torch.float64, requires_grad=True)

    def formula(x):
        return activation(x @ ours.up.weight.T + ours.up.bias) @ ours.down.weight.T + ours.down.bias

    agree(values_and_grads(ours, x), values_and_grads(formula, x))


def test_swiglu_gates_one_product_by_another(agree):
    ours, x = made(SwiGLU, mlp="swiglu", bias=False), torch.randn(2, 3, 12, dtype=torch.float64, requires_grad=True)

    def formula(x):
        gate = x @ ours.gate.weight.T
        return (gate * torch.sigmoid(gate) * (x @ ours.up.weight.T)) @ ours.down.weight.T

    agree(values_and_grads(ours, x), values_and_grads(formula, x))
