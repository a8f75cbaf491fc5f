"""Tokens as they come are those of `generate`, and characters come whole."""

from __future__ import annotations

import pytest
import torch

from llmlab import generate
from llmlab.generation import Stopwatch, as_text, stream
from llmlab.model import Config, EncoderDecoder, Transformer
from llmlab.text import BPE

CONFIG = Config(vocab_size=40, d_model=32, n_layer=2, n_head=4, max_seq=32, position="rotary")


@pytest.mark.parametrize(
    "choice", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 2.0, "top_k": 5, "top_p": 0.9}]
)
def test_a_stream_gives_what_generate_adds(choice):
    model = Transformer(CONFIG)
    text = generate(model, [1, 2, 3], 12, **choice).tolist()[3:]
    assert list(stream(model, [1, 2, 3], 12, **choice)) == text
    end = text[4]
    assert list(stream(model, [1, 2, 3], 12, end=end, **choice)) == text[: text.index(end)]


def test_gradients_and_mode_are_the_takers_own_between_tokens():
    model = Transformer(CONFIG)
    tokens = stream(model, [1, 2], 3)
    next(tokens)
    assert torch.is_grad_enabled() and model.training


def test_mistakes_are_told_before_the_first_token():
    with pytest.raises(ValueError, match="one prompt, got 2"):
        stream(Transformer(CONFIG), [[1], [2]])
    with pytest.raises(ValueError, match="max_seq=32"):
        stream(Transformer(CONFIG), [1], 32)
    with pytest.raises(ValueError, match="source"):
        stream(EncoderDecoder(CONFIG), [1], 3)


def test_characters_of_several_tokens_come_whole():
    tokenizer = BPE.train(["abc"], vocab_size=256)  # a token for each byte
    text = "a你€b"
    pieces = list(as_text(tokenizer.encode(text), tokenizer))
    assert pieces == list(text)
    assert "".join(as_text(tokenizer.encode(text)[:-2], tokenizer)) == "a你\N{REPLACEMENT CHARACTER}"


def test_the_first_token_is_prefill_and_the_others_are_decoding():
    times = iter([0.0, 2.0, 10.0, 10.5, 20.0, 20.5, 30.0])  # what lies between two tokens is the taker's
    watch = Stopwatch([7, 8, 9], prompt=4, clock=lambda: next(times))
    assert list(watch) == [7, 8, 9]
    assert watch.seconds == [2.0, 0.5, 0.5] and watch.prefill == 2.0 and watch.decode == 2.0
    assert Stopwatch([], prompt=1).decode == 0.0
