"""The slider over merges: what it shows is what the smaller tokenizer gives."""

from __future__ import annotations

from llmlab.text import BPE
from llmlab.widgets.tokens import token_explorer


def test_more_merges_make_fewer_tokens_of_the_same_text(displayed):
    bpe = BPE.train(["the theory of the thing is the other thing, the thinnest thing"] * 3, 300)
    box = token_explorer(bpe, "the thing")
    slider, field = box.children[:2]
    slider.value = 0
    assert "0 merges: 9 bytes in 9 tokens" in box.children[-1].value
    slider.value = len(bpe.merges)
    assert "9 bytes in 2 tokens" in box.children[-1].value
    field.value = "zzz"
    assert "3 bytes in 3 tokens" in box.children[-1].value
    field.value = ""
    assert "1 bytes in 1 tokens" in box.children[-1].value
