"""Scores against hand calculations, BLEU against sacrebleu, Kneser-Ney against its definition."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest
import sacrebleu
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmlab import evaluate, text
from llmlab.evaluate.ngrams import discounts
from llmlab.model import IGNORE, Config, Transformer, document_mask

CONFIG = Config(vocab_size=11, d_model=8, n_layer=1, n_head=2, max_seq=16, dtype=torch.float64)


@pytest.fixture
def model():
    """A model whose guesses differ from token to token."""
    model = Transformer(CONFIG)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return model


def batch(rows, seq, ignored=0):
    tokens, targets = torch.randint(0, 11, (rows, seq)), torch.randint(0, 11, (rows, seq))
    targets[:, :ignored] = IGNORE
    return tokens, targets


# --- per token --------------------------------------------------------------------------------------------------------


def test_the_mean_is_over_all_targets_and_not_over_batches(model):
    batches = [batch(4, 16), batch(1, 3), batch(2, 8, ignored=7)]
    losses = [-model(x).log_softmax(-1)[y != IGNORE].gather(-1, y[y != IGNORE][:, None]) for x, y in batches]
    expected = torch.cat(losses).mean().item()
    assert evaluate.mean_loss(model, batches) == pytest.approx(expected, rel=1e-12)
    assert evaluate.perplexity(model, batches) == pytest.approx(math.exp(expected), rel=1e-12)


def test_perplexity_of_a_model_that_knows_nothing_is_its_vocabulary(model):
    torch.nn.init.zeros_(model.head.weight)
    assert evaluate.perplexity(model, [batch(2, 5)]) == pytest.approx(11, rel=1e-12)


def test_label_smoothing_balancing_and_dropout_are_for_training_only():
    plain = Transformer(CONFIG)
    config = Config(**{**vars(CONFIG), "label_smoothing": 0.3, "dropout": 0.5})
    smoothed, batches = Transformer(config), [batch(3, 8)]
    assert evaluate.mean_loss(smoothed, batches) == evaluate.mean_loss(plain, batches)
    experts = Transformer(Config(**{**vars(CONFIG), "n_expert": 4, "balance_loss": 10.0}))
    tokens, targets = batches[0]
    expected = torch.nn.functional.cross_entropy(experts(tokens).flatten(0, 1), targets.flatten()).item()
    assert evaluate.mean_loss(experts, batches) == pytest.approx(expected, rel=1e-12)


def test_forward_can_use_what_else_the_batch_holds(model):
    packed = text.pack([[1, 2, 3, 4], [5, 6, 7, 8]], seq=7)

    def within_documents(model, batch):
        return model(batch.tokens, batch.positions, document_mask(batch.documents))

    alone = [(torch.tensor([ids[:-1]]), torch.tensor([ids[1:]])) for ids in ([1, 2, 3, 4], [5, 6, 7, 8])]
    assert evaluate.mean_loss(model, [packed[:1]], within_documents) == pytest.approx(
        evaluate.mean_loss(model, alone), rel=1e-12
    )
    assert evaluate.mean_loss(model, [packed[:1]]) != pytest.approx(evaluate.mean_loss(model, alone), rel=1e-6)


def test_accuracy_is_the_share_of_counted_targets_that_are_likeliest(model):
    tokens, targets = batch(4, 10, ignored=2)
    likeliest = model(tokens).argmax(-1)
    targets[0, 2:], targets[1, 2:6] = likeliest[0, 2:], likeliest[1, 2:6]
    right = (targets == likeliest).sum().item()
    assert evaluate.accuracy(model, [(tokens[:1], targets[:1]), (tokens[1:], targets[1:])]) == right / 32
    truth, predicted = evaluate.predictions(model, [(tokens, targets)])
    assert torch.equal(truth, targets[:, 2:].flatten()) and torch.equal(predicted, likeliest[:, 2:].flatten())


def test_a_classifier_is_scored_like_a_language_model():
    linear = torch.nn.Linear(3, 2, dtype=torch.float64)
    batches = [(torch.randn(5, 3, dtype=torch.float64), torch.randint(0, 2, (5,)))]
    expected = torch.nn.functional.cross_entropy(linear(batches[0][0]), batches[0][1]).item()
    assert evaluate.mean_loss(linear, batches) == pytest.approx(expected, rel=1e-12)


def test_scoring_leaves_every_module_in_its_mode_even_after_an_error(model):
    model.train()
    model.blocks[0].mlp.eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(KeyError), evaluate.evaluating(model):
        assert not model.training and not torch.is_grad_enabled()
        raise KeyError
    assert [module.training for module in model.modules()] == modes and torch.is_grad_enabled()


def test_no_target_or_a_bare_batch_is_refused(model):
    tokens, targets = batch(2, 4)
    with pytest.raises(ValueError, match="at least one target token, got none"):
        evaluate.mean_loss(model, [(tokens, targets.fill_(IGNORE))])
    with pytest.raises(ValueError, match="at least one target token, got none"):
        evaluate.accuracy(model, [])
    with pytest.raises(ValueError, match=r"pass \[batch\]"):
        evaluate.perplexity(model, (tokens, targets))


def test_confusion_counts_truth_in_rows_and_guesses_in_columns():
    matrix = evaluate.confusion([0, 0, 0, 2, 1], [0, 1, 1, 2, 0], n_class=4)
    assert matrix.tolist() == [[1, 2, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    with pytest.raises(ValueError, match="predictions want classes 0 to 1, got 0 to 2"):
        evaluate.confusion(torch.tensor([0, 1]), torch.tensor([0, 2]), 2)
    with pytest.raises(ValueError, match="as many predictions as targets, got 1 and 2"):
        evaluate.confusion([0, 1], [0], 2)


# --- BLEU -------------------------------------------------------------------------------------------------------------

# Marks beside letters, digits, blanks and line ends; entities; other scripts; words that recur, so that some match.
PARTS = [
    "the",
    "cat",
    "sat.",
    "3.5",
    "1,000",
    "a-b",
    "2-3",
    "50%",
    "(so)",
    "it's",
    '"x"',
    "U.S.",
    "-",
    "-\n",
    "\n",
    "$5",
]
PARTS += ["&quot;", "&amp;lt;", "&nbsp;", "<skipped>", "é", "中文", "…", " "]
SENTENCES = st.lists(st.sampled_from(PARTS), max_size=14).map(" ".join) | st.text(" -.,'a1\n&;", max_size=12)


@settings(max_examples=40)
@given(st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=2, max_size=2)), min_size=1, max_size=4))
@example([("the cat sat on the mat today", ["the cat sat on the mat", "a cat sat on the mat yesterday and today"])])
@example([("a b c d-\n", ["a b c d-", "a b c d"])])  # the line end goes before the hyphen is looked at
@example([("the the the cat sat on a mat", ["the cat sat on a mat", "the cat sat on a rug"])])  # "the": once each
def test_bleu_is_sacrebleus(rows):
    hypotheses, references = zip(*rows, strict=True)
    theirs = sacrebleu.corpus_bleu(hypotheses, list(zip(*references, strict=True))).score
    assert evaluate.bleu(hypotheses, references) == pytest.approx(theirs, abs=1e-9)
    first = [texts[0] for texts in references]
    assert evaluate.bleu(hypotheses, first) == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [first]).score, abs=1e-9)


def test_bleu_over_characters_is_sacrebleus_for_chinese():
    hypotheses, references = ["我爱编程。", "今天天气好"], ["我喜欢编程。", "今天天气很好"]
    theirs = sacrebleu.corpus_bleu(hypotheses, [references], tokenize="char").score
    assert 20 < theirs < 90
    assert evaluate.bleu(hypotheses, references, tokenize=list) == pytest.approx(theirs, abs=1e-9)


def test_bleu_of_a_copy_is_100_and_wrong_lists_are_refused():
    assert evaluate.bleu(["one two three four five"], ["one two three four five"]) == pytest.approx(100)
    with pytest.raises(ValueError, match="got 2 and 1"):
        evaluate.bleu(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="hypotheses as a list of values; got 'a b'"):
        evaluate.bleu("a b", "a b")
    with pytest.raises(ValueError, match="at least one reference"):
        evaluate.bleu(["a b"], [[]])


# --- Kneser-Ney -------------------------------------------------------------------------------------------------------


def kneser_ney(documents, vocab_size, order):
    """The definition, with dictionaries: a function (context, token) -> probability."""
    padded = [["start"] * (order - 2) + list(document) for document in documents]
    grams = Counter(tuple(d[i : i + order]) for d in padded for i in range(len(d) - order + 1))
    levels = [grams]
    for n in range(order - 1, 0, -1):
        levels.append(Counter(gram[1:] for gram in levels[-1]))  # each different n-gram once
        assert all(len(gram) == n for gram in levels[-1])

    def probability(context, token, level=0):
        if level == order:
            return 1 / vocab_size
        counts = levels[level]
        taken = discounts(torch.tensor(list(counts.values())).numpy())
        followers = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
        lower = probability(context[1:], token, level + 1)
        if not followers:
            return lower
        total, count = sum(followers.values()), followers.get(token, 0)
        rest = sum(taken[min(c, 3)] for c in followers.values())
        return (count - (taken[min(count, 3)] if count else 0)) / total + rest / total * lower

    return probability


def some_documents(generator, n, length, vocab_size):
    """Text in which each token depends on the two before it, with gaps in what occurs."""
    table = torch.rand(vocab_size, vocab_size, vocab_size, generator=generator) ** 12
    documents = []
    for _ in range(n):
        ids = torch.randint(0, vocab_size, (2,), generator=generator).tolist()
        while len(ids) < length:
            ids.append(int(torch.multinomial(table[ids[-2], ids[-1]], 1, generator=generator)))
        documents.append(ids)
    return documents


@pytest.mark.parametrize("order", [2, 3, 4])
def test_kneser_ney_is_its_definition(order):
    documents = some_documents(torch.Generator().manual_seed(0), 5, 30, 7)
    train, held_out = documents[:3], [*documents[3:], [8, 1, 8], [3]]  # token 8 is new, one token says nothing
    probability = kneser_ney(train, 9, order)
    expected = []
    for document in held_out:
        padded = ["start"] * (order - 2) + document
        for i in range(order - 1, len(padded)):
            expected.append(math.log(probability(tuple(padded[i - order + 1 : i]), padded[i])))
    ours = evaluate.KneserNey(train, 9, order).log_probabilities(held_out)
    assert ours == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("order", [2, 3])
def test_kneser_ney_probabilities_add_up_to_one_after_any_context(order):
    documents = some_documents(torch.Generator().manual_seed(1), 20, 50, 8)
    model = evaluate.KneserNey(documents, 10, order)
    for context in ([0, 1], [9, 9], [3, 9], [5]):
        p = [math.exp(model.log_probabilities([[*context, token]])[-1]) for token in range(10)]
        assert sum(p) == pytest.approx(1, rel=1e-12) and min(p) > 0


def test_discounts_follow_from_counts_of_counts():
    # n_1 .. n_4 = 8, 4, 2, 1: Y = 8/16; D = 1 - 2 Y 4/8, 2 - 3 Y 2/4, 3 - 4 Y 1/2
    counts = torch.tensor([1] * 8 + [2] * 4 + [3] * 2 + [4] + [9] * 5).numpy()
    assert discounts(counts)[1:] == pytest.approx([0.5, 1.25, 2.0])
    assert discounts(torch.tensor([7, 7]).numpy())[1:] == pytest.approx([0.5, 0.5, 0.5])


def test_a_trigram_beats_a_bigram_where_two_tokens_matter():
    documents = some_documents(torch.Generator().manual_seed(2), 30, 80, 5)
    train, valid = documents[:25], documents[25:]
    bigram, trigram = (evaluate.KneserNey(train, 5, order).mean_loss(valid) for order in (2, 3))
    assert trigram < bigram - 0.2 and bigram < math.log(5)


def test_kneser_ney_never_predicts_across_a_border_between_documents():
    seen = evaluate.KneserNey([[1, 2, 1, 2], [3, 4, 3, 4]], 5, 2)
    counts = defaultdict(int, zip(seen.levels[0].ngrams.tolist(), seen.levels[0].share, strict=True))
    assert 2 * 6 + 3 not in counts and 1 * 6 + 2 in counts  # codes in base vocab_size + 1


def test_kneser_ney_refuses_no_text_unknown_tokens_and_orders_it_cannot_count():
    with pytest.raises(ValueError, match="at least two tokens, got none"):
        evaluate.KneserNey([[1], []], 5)
    with pytest.raises(ValueError, match="token ids want 0 to 4, got 1 to 5"):
        evaluate.KneserNey([[1, 5]], 5)
    with pytest.raises(ValueError, match="order wants 2 to 4 for a vocabulary of 50000, got 5"):
        evaluate.KneserNey([[1, 2]], 50000, order=5)


def test_what_comes_one_by_one_is_counted_as_a_list_is():
    truth, guess = [0, 1, 1, 2], [0, 1, 2, 2]
    assert torch.equal(evaluate.confusion(iter(truth), iter(guess), 3), evaluate.confusion(truth, guess, 3))
    documents = [[0, 1, 2, 1], [2, 1, 0]]
    one_by_one = evaluate.KneserNey((document for document in documents), 3)
    assert one_by_one.mean_loss(documents) == evaluate.KneserNey(documents, 3).mean_loss(documents)
