"""A copier's probabilities are a distribution; before any training it copies its draft; and it learns to correct."""

from __future__ import annotations

import pytest
import torch

import llmlab as lab
from llmlab import applications as apps

PAIRS = [
    ("Open the file", "打开文件"), ("Close the file", "关闭文件"), ("Open the door", "打开门"),
    ("Close the window now", "现在关闭窗户"),
]  # fmt: skip
DRAFTS = ["打开the文件", "关闭the文件", "打开the门", "关闭the窗户现在"]


@pytest.fixture
def tokenizer():
    return apps.pair_tokenizer([(english, apps.spaced(chinese)) for english, chinese in PAIRS], 300)


def copier(tokenizer):
    return apps.Copier.of(lab.Config(tokenizer.vocab_size, d_model=32, n_layer=1, n_head=2, max_seq=60), tokenizer)


def test_the_mixture_is_a_distribution_and_its_logits_are_logarithms(tokenizer):
    model = copier(tokenizer)
    batch = apps.pair_batch(apps.encode_pairs(tokenizer, apps.with_drafts(PAIRS, DRAFTS), 60))
    sums = apps.pair_logits(model, batch).exp().sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)


def test_before_training_most_of_the_next_token_is_the_drafts(tokenizer):
    model = copier(tokenizer)
    pairs = apps.with_drafts([("x", DRAFTS[3])], DRAFTS[3:])
    batch = apps.pair_batch(apps.encode_pairs(tokenizer, pairs, 60))
    assert apps.pair_logits(model, batch).argmax(-1).equal(batch.targets)


def test_padding_is_never_copied(tokenizer):
    model = copier(tokenizer).eval()
    rows = apps.encode_pairs(tokenizer, apps.with_drafts(PAIRS, DRAFTS), 60)
    alone, beside = apps.pair_batch(rows[2:3]), apps.pair_batch(rows[2:])
    length = alone.targets.shape[1]
    torch.testing.assert_close(
        apps.pair_logits(model, alone)[0], apps.pair_logits(model, beside)[0, :length], atol=1e-4, rtol=0
    )


def test_it_learns_to_correct(tokenizer):
    model = copier(tokenizer)
    rows = apps.encode_pairs(tokenizer, apps.with_drafts(PAIRS, DRAFTS), 60)
    trainer = lab.Trainer(model, lab.optim.AdamW(model.parameters(), lr=1e-2), loss=apps.pair_loss, clip=1.0)
    trainer.fit(apps.pair_batches(rows, 4), 80, progress=False)
    found = apps.correct_drafts(model, tokenizer, [english for english, _ in PAIRS], DRAFTS)
    assert found == [chinese for _, chinese in PAIRS]


def test_every_text_wants_a_draft(tokenizer):
    with pytest.raises(ValueError, match="a draft for each of 4 texts, got 3"):
        apps.with_drafts(PAIRS, DRAFTS[:3])
    with pytest.raises(ValueError, match="a draft for each of 1 texts, got 0"):
        apps.correct_drafts(copier(tokenizer), tokenizer, ["Open"], [])
