"""Pairs in, batches out; a model small enough to learn a few sentences by heart; the baselines by hand."""

from __future__ import annotations

import pytest
import torch

import llmlab as lab
from llmlab import applications as apps
from llmlab.model import EncoderDecoder

PAIRS = [
    ("Open the file", "打开文件"),
    ("Close the file", "关闭文件"),
    ("Open the door", "打开门"),
    ("Close the window now", "现在关闭窗户"),
    ("file", "文件"),
    ("Door", "门"),
]


@pytest.fixture(scope="module")
def tokenizer():
    return apps.pair_tokenizer(PAIRS, 300)


@pytest.fixture(scope="module")
def model(tokenizer):
    """A model that has learned the pairs by heart."""
    config = lab.Config(tokenizer.vocab_size, d_model=32, n_layer=1, n_head=2, max_seq=40, position="rotary")
    model = EncoderDecoder(config)
    rows = apps.encode_pairs(tokenizer, PAIRS, 40)
    optimizer = lab.optim.AdamW(model.parameters(), lr=1e-2)
    trainer = lab.Trainer(model, optimizer, loss=apps.pair_loss, clip=1.0)
    trainer.fit(apps.pair_batches(rows, 6), 60, progress=False)
    assert lab.evaluate.mean_loss(model, [apps.pair_batch(rows)], apps.pair_logits) < 0.1
    return model


def test_prose_has_words_and_chinese_and_no_placeholders():
    kept = ("Two words", "两个词")
    others = [
        ("Hello {name}", "你好 {name}"), ("See https://a.b", "见 https://a.b"), ("%1 cells", "%1 个单元格"),
        ("Wi-Fi", "WLAN"), ("a\nb", "甲\n乙"), ("one", "一"), ("one two three four", "一二三四"),
        ("press <b>go</b>", "按 <b>go</b>"),
    ]  # fmt: skip
    assert apps.prose_pairs([kept, *others, kept], least=2, most=3) == [kept]
    assert apps.prose_pairs([("one", "一")]) == [("one", "一")]


def test_a_batch_asks_for_the_next_token_and_hides_padding(tokenizer):
    rows = apps.encode_pairs(tokenizer, PAIRS, 40)
    batch = apps.pair_batch(rows)
    begin, end = tokenizer.specials["<begin>"], tokenizer.specials["<end>"]
    for i, (source, target) in enumerate(PAIRS):
        s, t = tokenizer.encode(source), tokenizer.encode(target)
        assert batch.source[i, : len(s) + 1].tolist() == [*s, end]
        assert batch.mask[i, 0, 0].tolist() == [True] * (len(s) + 1) + [False] * (batch.source.shape[1] - len(s) - 1)
        assert batch.inputs[i, : len(t) + 1].tolist() == [begin, *t]
        targets = batch.targets[i]
        assert targets[: len(t) + 1].tolist() == [*t, end] and (targets[len(t) + 1 :] == lab.text.IGNORE).all()


def test_the_loss_of_a_sentence_is_the_same_beside_a_longer_one(tokenizer):
    config = lab.Config(tokenizer.vocab_size, d_model=16, n_layer=1, n_head=2, max_seq=40, dtype=torch.float64)
    model, rows = EncoderDecoder(config), apps.encode_pairs(tokenizer, PAIRS, 40)
    together = apps.pair_loss(model, apps.pair_batch(rows)).item()
    alone = sum(apps.pair_loss(model, apps.pair_batch([row])).item() for row in rows)
    assert together == pytest.approx(alone, rel=1e-12)


def test_pairs_too_long_for_the_model_are_left_out(tokenizer):
    longest = max(max(map(len, row)) for row in apps.encode_pairs(tokenizer, PAIRS, 40))
    assert len(apps.encode_pairs(tokenizer, PAIRS, longest)) == len(PAIRS)
    assert len(apps.encode_pairs(tokenizer, PAIRS, longest - 1)) < len(PAIRS)


def test_batches_are_of_like_lengths_repeat_by_seed_and_hold_each_pair_once(tokenizer):
    rows = apps.encode_pairs(tokenizer, PAIRS, 40)

    def seen(seed):
        batches = apps.pair_batches(rows, 2, seed, epochs=1)
        return [tuple(map(tuple, batch.targets.tolist())) for batch in batches]

    assert seen(0) == seen(0)
    flat = [tuple(i for i in row if i != lab.text.IGNORE) for batch in seen(0) for row in batch]
    assert sorted(flat) == sorted(tuple(target[1:]) for _, target in rows)
    with pytest.raises(ValueError, match="at least a batch of 7 pairs, got 6"):
        next(apps.pair_batches(rows, 7))


@pytest.mark.parametrize("beams", [1, 3])
def test_what_was_learned_by_heart_is_translated_in_the_order_it_was_asked(model, tokenizer, beams):
    texts = [source for source, _ in PAIRS]
    assert apps.translate(model, tokenizer, texts, beams=beams, batch=4) == [target for _, target in PAIRS]
    assert apps.translate(model, tokenizer, []) == []


def test_one_string_or_another_model_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match=r"translate wants texts as a list .*; try \['Open"):
        apps.translate(model, tokenizer, "Open the file")
    with pytest.raises(ValueError, match="model as an? EncoderDecoder"):
        apps.translate(lab.Transformer(model.config), tokenizer, ["a"])
    with pytest.raises(ValueError, match="<begin> and <end>"):
        apps.translate(model, lab.text.BPE.train(["abc"], 256), ["a"])
    with pytest.raises(ValueError, match=r"pairs of texts, \(source, target\); got 'ab'"):
        apps.pair_tokenizer(["ab"])


def test_a_memory_gives_the_nearest_and_a_glossary_word_by_word():
    memory = apps.TranslationMemory(PAIRS)
    assert (
        memory("Open the window") in ("现在关闭窗户", "打开门") and memory.nearest("close file")[0] == "Close the file"
    )
    glossary = apps.Glossary([*PAIRS, ("File", "档案")])
    assert glossary("Open the FILE, door") == "Open the文件,门"  # no blanks beside Chinese


def test_a_memory_gives_several_the_nearest_first():
    found = apps.TranslationMemory(PAIRS).candidates("Close the door", 3)
    assert len(found) == 3 and found[0] == apps.TranslationMemory(PAIRS).nearest("Close the door")


def test_of_the_nearest_the_most_alike_has_the_words_in_the_same_order():
    memory = apps.TranslationMemory([("door door the open", "甲"), ("open the old door", "乙")])
    assert memory.nearest("open the door")[1] == "甲" and memory.most_alike("open the door")[1] == "乙"


def test_the_likelier_translation_is_the_one_that_was_learned(model, tokenizer):
    targets = ["打开文件", "关闭文件", "打开门"]
    for source, right in PAIRS[:3]:
        found = apps.translation_scores(model, tokenizer, source, targets)
        assert targets[max(range(3), key=found.__getitem__)] == right
    together = apps.translation_scores(model, tokenizer, "Open the file", targets)
    alone = [apps.translation_scores(model, tokenizer, "Open the file", [target])[0] for target in targets]
    assert together == pytest.approx(alone, rel=1e-4)  # fp32: padding changes the order of sums
    batch = apps.pair_batch(apps.encode_pairs(tokenizer, PAIRS[:1], 40))
    assert alone[0] == pytest.approx(-lab.evaluate.mean_loss(model, [batch], apps.pair_logits), rel=1e-4)


def test_the_made_up_language_has_each_sentence_once_and_translates_word_for_word():
    pairs = dict(apps.made_up_pairs())
    assert len(pairs) == len(apps.made_up_pairs()) == len(set(pairs.values())) == 3_600
    assert pairs["Open the old file in the folder."] == "在文件夹中打开旧文件。"
