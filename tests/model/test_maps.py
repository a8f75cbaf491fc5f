"""The attention weights of a model, taken while it runs."""

from __future__ import annotations

import pytest
import torch

from llmlab.model import Config, Transformer
from llmlab.model.attention import repeat_heads
from llmlab.model.maps import attention_maps

TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def small(**changes):
    sizes = {"vocab_size": 10, "d_model": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "max_seq": 8}
    return Transformer(Config(**{**sizes, "dtype": torch.float64, **changes}))


@pytest.mark.parametrize("causal", [True, False])
def test_weights_are_a_distribution_over_what_may_be_seen(causal):
    maps = attention_maps(small(causal=causal), TOKENS)
    assert maps.shape == (2, 2, 4, 5, 5)
    assert torch.allclose(maps.sum(-1), torch.ones(2, 2, 4, 5, dtype=torch.float64)) and (maps >= 0).all()
    assert bool((maps.triu(1) == 0).all()) is causal


def test_weights_of_the_first_block_are_those_of_the_formula():
    model = small(position="none")
    block = model.blocks[0]
    x = block.attention_norm(model.embedding(TOKENS))
    layer = block.attention
    q, k = layer.heads(layer.query(x)), repeat_heads(layer.heads(layer.key(x)), 4)
    scores = (q @ k.mT / 2).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    assert torch.allclose(attention_maps(model, TOKENS)[:, 0], scores.softmax(-1))


def test_the_model_is_left_as_it_was():
    model = small()
    before, attends = model(TOKENS), [block.attention.attend for block in model.blocks]
    attention_maps(model, TOKENS)
    assert torch.equal(model(TOKENS), before)
    with pytest.raises(ValueError, match="max_seq"):
        attention_maps(model, torch.zeros(1, 9, dtype=torch.long))
    assert [block.attention.attend for block in model.blocks] == attends
