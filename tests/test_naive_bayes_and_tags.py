"""What counting reaches: naive Bayes and the most frequent tag; and the scores of spans. All worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from llmlab import evaluate
from llmlab.evaluate import MostFrequentTag, NaiveBayes, span_scores, spans
from llmlab.model import Classifier, Config, Transformer

# Words only. Complaint: bad x 2, film. Praise: good x 2, fine. Known: bad, film, good, fine.
TEXTS, CLASSES = ["bad bad film", "good fine", "good"], [0, 1, 1]


def test_naive_bayes_is_its_formula():
    bayes = NaiveBayes(TEXTS, CLASSES, features=str.split)
    assert bayes.log_prior == pytest.approx([math.log(1 / 3), math.log(2 / 3)], rel=1e-12)
    # (count + 1) / (3 counted words + 4 known words), for both classes
    for word, complaint, praise in (("bad", 3, 1), ("film", 2, 1), ("good", 1, 3), ("fine", 1, 2)):
        expected = [math.log(complaint / 7), math.log(praise / 7)]
        assert bayes.log_likelihood[word] == pytest.approx(expected, rel=1e-12)
    # "bad good bad": 1/3 (3/7)(1/7)(3/7) = 9/1029 against 2/3 (1/7)(3/7)(1/7) = 6/1029; what is unknown says nothing
    expected = [math.log(9 / 1029), math.log(6 / 1029)]
    assert bayes.scores("bad good bad") == pytest.approx(expected, rel=1e-12)
    assert bayes.scores("bad unheard good bad") == bayes.scores("bad good bad")
    assert [bayes.predict(text) for text in ("bad good bad", "good", "unheard")] == [0, 1, 1]
    assert bayes.weight("good") == pytest.approx(math.log(3)) and bayes.weight("unheard") == 0
    assert bayes.weight("bad", 0, 1) == pytest.approx(math.log(3))


def test_alpha_is_added_to_each_count():
    bayes = NaiveBayes(TEXTS, CLASSES, features=str.split, alpha=0.5)
    assert bayes.log_likelihood["bad"] == pytest.approx([math.log(2.5 / 5), math.log(0.5 / 5)], rel=1e-12)


def test_features_are_words_and_neighbours_in_lower_case():
    assert evaluate.word_pairs("Not good.") == ["not", "good", ".", "not good", "good ."]
    assert evaluate.word_pairs("很好") == ["很", "好", "很 好"]
    assert NaiveBayes(["Not good", "good"], [0, 1]).predict("not") == 0


@pytest.mark.parametrize(
    ("texts", "classes", "said"),
    [
        ([], [], "a class for each text, got 0 texts, 0 classes"),
        (["a"], [0, 1], "a class for each text, got 1 texts, 2 classes"),
        (["a", "b"], [0, 2], "texts of each class from 0 to 2, got none of 1"),
        ("abc", [0, 1, 1], "NaiveBayes wants texts as a list of texts; got 'abc'"),
        (["a", "b"], [0, -1], "each class as a whole number of at least 0; got -1"),
    ],
)
def test_naive_bayes_refuses_what_it_cannot_count(texts, classes, said):
    with pytest.raises(ValueError, match=said):
        NaiveBayes(texts, classes)


# --- spans ------------------------------------------------------------------------------------------------------------


def test_spans_are_read_as_conlleval_reads_them():
    assert spans("B-x I-x O B-x B-x I-y I-y O I-x".split()) == [
        ("x", 0, 2), ("x", 3, 4), ("x", 4, 5), ("y", 5, 7), ("x", 8, 9),
    ]  # fmt: skip
    assert spans(["O", "O"]) == [] and spans([]) == []
    assert spans(["I-x", "B-x", "I-x"]) == [("x", 0, 1), ("x", 1, 3)]


@pytest.mark.parametrize("tag", ["", "person", "B", "I-", "O-x", "X-y"])
def test_what_is_no_bio_tag_is_refused(tag):
    with pytest.raises(ValueError, match="a BIO tag is O, B-kind or I-kind"):
        spans(["O", tag])


def test_f1_counts_whole_spans_only():
    truth = ["B-p I-p O B-q".split(), "B-p O B-q O".split(), "O O".split()]
    guess = ["B-p O O B-q".split(), "B-p O B-p O".split(), "B-q O".split()]
    # true: p p q q. predicted: p (too short), q right; p right, p of the wrong kind; q from nothing
    scores = span_scores(truth, guess)
    assert list(scores) == ["all", "p", "q"]
    counts = {kind: (score.right, score.predicted, score.true) for kind, score in scores.items()}
    assert counts == {"all": (2, 5, 4), "p": (1, 3, 2), "q": (1, 2, 2)}
    assert scores["all"].precision == 2 / 5 and scores["all"].recall == 2 / 4
    assert scores["all"].f1 == pytest.approx(2 * (2 / 5) * (2 / 4) / (2 / 5 + 2 / 4), rel=1e-12)  # 4/9
    nothing = span_scores([["O"]], [["O"]])["all"]
    assert (nothing.precision, nothing.recall, nothing.f1) == (0, 0, 0)


@pytest.mark.parametrize("guess", [[], [["O"]], [["O", "O", "O"]], [["O", "O"], ["O"]]])
def test_sequences_of_other_lengths_are_not_scored(guess):
    with pytest.raises(ValueError, match="a predicted tag for each true one"):
        span_scores([["O", "B-x"]], guess)


def test_a_word_gets_the_tag_it_had_most_often():
    seen = [[("may", "verb"), ("may", "month"), ("may", "month")], [("a", "z"), ("a", "b")]]
    tagger = MostFrequentTag(seen, unknown="noun")
    assert tagger.predict(["may", "a", "unheard"]) == ["month", "b", "noun"]  # of two equal ones the first in order
    with pytest.raises(ValueError, match="words with their tags, got none"):
        MostFrequentTag([[]])


# --- the words that decided -------------------------------------------------------------------------------------------


def test_occlusion_is_the_drop_of_the_log_probability():
    torch.manual_seed(0)
    config = Config(vocab_size=9, d_model=8, n_layer=1, n_head=2, max_seq=6, causal=False, dropout=0.5)
    model = Classifier(Transformer(config), 3)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    tokens = torch.tensor([3, 1, 4, 1])
    drops = evaluate.occlusion(model, tokens, y=2, hidden=7)
    assert model.training  # and yet no dropout: nothing differs but the hidden token
    model.eval()
    for place in range(4):
        hidden = tokens.clone()
        hidden[place] = 7
        p = [model(row[None]).softmax(-1)[0, 2] for row in (tokens, hidden)]
        assert drops[place].item() == pytest.approx((p[0] / p[1]).log().item(), abs=1e-5)
    assert tokens.tolist() == [3, 1, 4, 1]
    for wrong, said in ((tokens[None], "the tokens \\[T\\] of one text"), (tokens[:0], "of one text")):
        with pytest.raises(ValueError, match=said):
            evaluate.occlusion(model, wrong, 0)
    with pytest.raises(ValueError, match="a class"):
        evaluate.occlusion(model, tokens, 3)
