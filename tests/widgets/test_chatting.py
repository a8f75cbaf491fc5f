"""The chat: what it says is what `generate` says, by its controls."""

from __future__ import annotations

import pytest

from llmlab import generate
from llmlab.model import Config, Transformer
from llmlab.text import CharTokenizer
from llmlab.widgets import Chat

TOKENIZER = CharTokenizer("abcdefghij <&")


@pytest.fixture
def chat(monkeypatch):
    config = Config(vocab_size=TOKENIZER.vocab_size, d_model=32, n_layer=2, n_head=4, max_seq=64)
    shown = []
    monkeypatch.setattr("llmlab.widgets.chatting.display", lambda bundle, raw: shown.append(bundle))
    chat = Chat(Transformer(config), TOKENIZER, "abc", tokens=10)
    chat.shown = shown
    return chat


def test_it_answers_at_once_and_keeps_its_answer_for_who_has_no_kernel(chat):
    ids = TOKENIZER.encode("abc")
    assert chat.answer == TOKENIZER.decode(generate(chat.model, ids, 10).tolist()[3:])
    assert repr(chat.answer) in chat.shown[0]["text/plain"]
    assert "10 written" in chat.speed and "3 tokens read" in chat.said.value


def test_its_controls_are_those_of_sampling(chat):
    chat.temperature.value, chat.top_k.value, chat.seed.value, chat.prompt.value = 2.0, 5, 3, "hij"
    chat.button.click()
    ids = TOKENIZER.encode("hij")
    assert chat.answer == TOKENIZER.decode(generate(chat.model, ids, 10, 2.0, 5, 1.0, seed=3).tolist()[3:])
    assert "<p" in chat.view.value and chat.answer.replace("&", "&amp;").replace("<", "&lt;") in chat.view.value


def test_what_does_not_fit_is_told_in_the_widget(chat):
    chat.prompt.value = "a" * 60
    assert chat.say() == ""
    assert "max_seq=64" in chat.said.value and not chat.button.disabled
    chat.prompt.value = ""
    chat.say()
    assert "at least one token" in chat.said.value
