"""The logit lens: its last layer is the model."""

from __future__ import annotations

import pytest
import torch

from llmlab.interpreting import logit_lens, residual_streams, top_tokens
from llmlab.model import Config, EncoderDecoder, Transformer
from llmlab.text import CharTokenizer

TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
WAYS = [{}, {"position": "rotary", "norm": "rmsnorm", "n_kv_head": 2}, {"norm_first": False}, {"dropout": 0.3}]


def small(**changes):
    return Transformer(Config(**{"vocab_size": 10, "d_model": 16, "n_layer": 3, "n_head": 4, "max_seq": 8, **changes}))


@pytest.mark.parametrize("changes", WAYS)
def test_the_last_layer_says_what_the_model_says_to_the_bit(changes):
    model = small(**changes)
    lens = logit_lens(model, TOKENS)
    assert model.training
    assert lens.shape == (4, 2, 5, 10)
    assert torch.equal(lens[-1], model.eval()(TOKENS))
    assert not torch.allclose(lens[0], lens[-1])


def test_the_first_stream_is_the_embedding_and_each_other_what_a_block_made():
    model = small()
    streams = residual_streams(model, TOKENS)
    assert torch.equal(streams[0], model.embedding(TOKENS))
    assert torch.equal(streams[2], model.blocks[1](streams[1]))


def test_top_tokens_are_the_likeliest_of_each_layer():
    tokenizer = CharTokenizer("abcdefghij")
    model = small(vocab_size=tokenizer.vocab_size)
    top = top_tokens(model, tokenizer, "badge")
    p = logit_lens(model, torch.tensor([tokenizer.encode("badge")]))[:, 0].softmax(-1)
    assert list(top.tokens) == list("badge")
    assert [tokenizer.encode(word)[0] for word in top.words[2]] == p[2].argmax(-1).tolist()
    assert torch.equal(top.p, p.amax(-1))


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="logit_lens wants model as a Transformer"):
        logit_lens(EncoderDecoder(small().config), TOKENS)
    with pytest.raises(ValueError, match="max_seq=8"):
        logit_lens(small(), torch.zeros(1, 9, dtype=torch.long))
