"""What a model would say next: its own likeliest tokens, and the recorded ones that need no weights."""

from __future__ import annotations

import pytest
import torch

from llmlab.generation.next_tokens import NextTokens, next_tokens, recorded_next_tokens
from llmlab.model import Config, Transformer
from llmlab.text import BPE

TOKENIZER = BPE.train(["a banana and a bandana"], vocab_size=260)
CONFIG = Config(vocab_size=260, d_model=16, n_layer=1, n_head=2, max_seq=16, dropout=0.5)


def test_the_likeliest_come_first_with_the_models_own_logits():
    model = Transformer(CONFIG).train()
    after = next_tokens(model, TOKENIZER, "a ban", keep=5, source="a test")
    with torch.no_grad():
        logits = model.eval()(torch.tensor([TOKENIZER.encode("a ban")]))[0, -1]
    assert torch.equal(after.logits, logits.topk(5).values) and after.source == "a test"
    assert list(after.tokens) == [TOKENIZER.decode([i]) for i in logits.topk(5).indices.tolist()]


def test_asking_leaves_the_model_in_its_mode():
    model = Transformer(CONFIG).train()
    next_tokens(model, TOKENIZER, "a", keep=10**6)
    assert model.training


def test_a_prompt_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="at most max_seq=16"):
        next_tokens(Transformer(CONFIG), TOKENIZER, "a banana and a bandana and more")


def test_tokens_and_logits_go_together():
    with pytest.raises(ValueError, match="a logit for each token"):
        NextTokens("a", ["b"], torch.zeros(2), "")
    with pytest.raises(ValueError, match="at least one"):
        NextTokens("a", [], torch.zeros(0), "")


def test_what_was_recorded_is_sorted_and_knows_the_capital_of_france():
    recorded = {after.prompt: after for after in recorded_next_tokens()}
    assert len(recorded) == 3 and all(len(after.tokens) == 500 for after in recorded.values())
    assert all((after.logits.diff() <= 0).all() for after in recorded.values())
    assert recorded["The capital of France is"].tokens[0] == " Paris"
