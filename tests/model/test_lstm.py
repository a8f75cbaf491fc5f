"""The LSTM against torch's: values and gradients; and as a language model."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from llmlab.model import LSTM, Config, LSTMLayer


@settings(max_examples=8)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 9),
    d_in=st.integers(1, 5),
    D=st.integers(1, 6),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_a_layer_equals_torchs(agree, B, T, d_in, D, dtype):
    ours, theirs = LSTMLayer(d_in, D, dtype), nn.LSTM(d_in, D, batch_first=True, dtype=dtype)
    ours.input.weight.data, ours.recurrent.weight.data = theirs.weight_ih_l0.data, theirs.weight_hh_l0.data
    ours.input.bias.data = theirs.bias_ih_l0.data + theirs.bias_hh_l0.data  # torch adds two biases where one does
    x = torch.randn(B, T, d_in, dtype=dtype, requires_grad=True)
    h, c = (torch.randn(B, D, dtype=dtype) for _ in range(2))
    out, (last_h, last_c) = ours(x, (h, c))
    expected, (their_h, their_c) = theirs(x, (h[None], c[None]))
    grads = [
        torch.autograd.grad(y.pow(2).sum(), (x, weight))
        for y, weight in ((out, ours.recurrent.weight), (expected, theirs.weight_hh_l0))
    ]
    agree([out, last_h, last_c, *grads[0]], [expected, their_h[0], their_c[0], *grads[1]], terms=4 * D * T * B)


def test_it_is_a_causal_language_model_with_a_loss():
    model = LSTM(Config(20, 16, 2, 1, 8, position="none"))
    tokens = torch.randint(20, (2, 8))
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % 20
    same = (model(tokens) == model(changed)).all(-1)
    assert same[:, :5].all() and not same[:, 5:].any()
    model.loss(tokens, tokens).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
def test_its_weights_begin_as_those_of_torch_nn(tied):
    config = Config(200, 64, 1, 1, 8, position="none", tie_embeddings=tied)
    model, theirs = LSTM(config), (nn.Embedding(200, 64), nn.LSTM(64, 64), nn.Linear(64, 200))
    layer, table = model.layers[0], model.embedding.token.weight
    pairs = [(layer.input.weight, theirs[1].weight_ih_l0), (layer.recurrent.weight, theirs[1].weight_hh_l0)]
    pairs += [] if tied else [(table, theirs[0].weight), (model.head.weight, theirs[2].weight)]
    for ours, their in pairs:
        # 12,800 numbers or more: the deviation of their standard deviation is below 1 / sqrt(2 x 12,800) = 0.6%
        assert ours.std().item() == pytest.approx(their.std().item(), rel=0.03)
    assert layer.input.bias.abs().max() <= 64**-0.5  # as each of torch's
    assert table.std().item() == pytest.approx(64**-0.5 if tied else 1.0, rel=0.03)
    assert (model.head.weight is table) == tied


def test_its_weights_depend_on_the_seed_alone_wherever_it_is_made():
    config = Config(20, 16, 2, 1, 8, position="none")
    first, other = LSTM(config, seed=1), LSTM(config, seed=2)
    with torch.device("meta"):
        later = LSTM(config, seed=1)
    later.materialize()
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, later.state_dict()[name]) and not torch.equal(weight, other.state_dict()[name])
