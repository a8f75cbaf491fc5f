"""chrF, ROUGE and Chinese BLEU against the packages that define them, answers against SQuAD's rules."""

from __future__ import annotations

import pytest
import sacrebleu
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmlab import evaluate

# Marks beside letters, digits and blanks; both scripts; what sacrebleu takes for Chinese and what it does not.
PARTS = ["the", "cat", "sat.", "3.5", "1,000", "2-3", "50%", "(so)", "it's", "U.S.", "$5", "&quot;", "é"]
PARTS += ["中文", "我爱编程。", "“好”", "…", "→", "，", "ＡＢ", "㐀", "𠀀", "\u2000", "\u2001", "\u3000", "\u2f90", "K"]
SENTENCES = st.lists(st.sampled_from(PARTS), max_size=12).map(" ".join) | st.text(" .,-1a“我，\n", max_size=12)
CORPORA = st.lists(st.tuples(SENTENCES, st.lists(SENTENCES, min_size=2, max_size=2)), min_size=1, max_size=4)


@settings(max_examples=60)
@given(CORPORA)
@example([("我很爱编程,因为它很有趣。", ["我爱编程,因为它很有趣。", "我爱编程"])])
def test_chinese_bleu_and_chrf_are_sacrebleus(rows):
    hypotheses, references = zip(*rows, strict=True)
    streams = list(zip(*references, strict=True))
    theirs = sacrebleu.corpus_bleu(hypotheses, streams, tokenize="zh").score
    assert evaluate.bleu(hypotheses, references, evaluate.tokenize_zh) == pytest.approx(theirs, abs=1e-9)
    assert evaluate.chrf(hypotheses, references) == pytest.approx(
        sacrebleu.corpus_chrf(hypotheses, streams).score, abs=1e-9
    )
    first = [texts[0] for texts in references]
    theirs = sacrebleu.corpus_chrf(hypotheses, [first]).score
    assert evaluate.chrf(hypotheses, first) == pytest.approx(theirs, abs=1e-9)


def test_every_character_is_cut_as_sacrebleu_cuts_chinese():
    cut = sacrebleu.BLEU(tokenize="zh").tokenizer
    for code in [*range(0x20, 0xD800), *range(0xE000, 0x10000), 0x1F600, *range(0x20000, 0x20010), 0x2F800]:
        text = f"a{chr(code)}b"
        assert evaluate.tokenize_zh(text) == cut(text).split(), hex(code)


def test_chrf_by_hand():
    # runs of 1: a b against a c, half and half; of 2: none shared; longer ones are in neither. P = R = 1/4
    assert evaluate.chrf(["ab"], ["ac"]) == pytest.approx(25)
    # the reference has no run of 3, so that of the hypothesis does not count: P = (2/3 + 1/2)/2, R = 1
    precision = (2 / 3 + 1 / 2) / 2
    assert evaluate.chrf(["a b c"], ["ab"]) == pytest.approx(100 * 5 * precision / (4 * precision + 1))


WORDS = st.lists(
    st.sampled_from(["the", "cat", "The", "cats", "sat.", "on_a", "mat", "3.5", "it's", "é", "中"]), max_size=10
)


@settings(max_examples=60)
@given(st.lists(st.tuples(*[WORDS.map(" ".join)] * 3), min_size=1, max_size=4))
def test_rouge_is_the_package_rouge_scores(rows):
    from rouge_score.rouge_scorer import RougeScorer  # here: it brings nltk, which takes a second to import

    scorer = RougeScorer(list(evaluate.rouge(["a"], ["a"])))
    ours = evaluate.rouge([row[0] for row in rows], [row[1:] for row in rows])
    single = evaluate.rouge([row[0] for row in rows], [row[1] for row in rows])
    for kind in ours:
        theirs = [scorer.score_multi(row[1:], row[0])[kind].fmeasure for row in rows]
        assert ours[kind] == pytest.approx(100 * sum(theirs) / len(rows), abs=1e-9)
        theirs = [scorer.score(row[1], row[0])[kind].fmeasure for row in rows]
        assert single[kind] == pytest.approx(100 * sum(theirs) / len(rows), abs=1e-9)


def test_rouge_by_hand():
    # 3 of 4 and 3 of 5 words; "return the" of 3 and 4 pairs; in order: return, the, of
    scores = evaluate.rouge(["Return the index of"], ["Return the number of items."])
    assert scores == pytest.approx({"rouge1": 100 * 6 / 9, "rouge2": 100 * 2 / 7, "rougeL": 100 * 6 / 9})
    swapped = evaluate.rouge(["of the return"], ["return the of"])
    assert swapped == pytest.approx({"rouge1": 100, "rouge2": 0, "rougeL": 100 / 3})
    assert evaluate.rouge(["我爱编程"], ["我爱编程"])["rougeL"] == 0
    assert evaluate.rouge(["我爱编程"], ["我很爱编程"], evaluate.tokenize_zh)["rougeL"] == pytest.approx(100 * 8 / 9)


def test_answers_are_compared_by_squads_rules():
    assert evaluate.normal_answer(" The U.S.A.'s  an “answer” ") == "usas “answer”"
    assert evaluate.normal_answer("a-b An.other thE") == "ab another"
    answers, references = (
        ["The StopIteration.", "a NameError", "while", ""],
        ["StopIteration", "KeyError", ["if", "while loop"], "x"],
    )
    assert evaluate.exact_match(answers, references) == 25
    # 1; 0; "while" of "while loop": P 1, R 1/2; nothing
    assert evaluate.answer_f1(answers, references) == pytest.approx(100 * (1 + 0 + 2 / 3 + 0) / 4)
    assert evaluate.answer_f1(["very very big"], ["very big dog"]) == pytest.approx(100 * 2 / 3)  # each word once


@pytest.mark.parametrize(
    "score", [evaluate.bleu, evaluate.chrf, evaluate.rouge, evaluate.exact_match, evaluate.answer_f1]
)
def test_lists_that_do_not_fit_are_refused(score):
    with pytest.raises(ValueError, match=f"{score.__name__} wants .*got 2 and 1"):
        score(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="got 0 and 0"):
        score([], [])
    with pytest.raises(ValueError, match="hypotheses as a list of values; got 'a b'"):
        score("a b", "a b")
    with pytest.raises(ValueError, match="at least one reference"):
        score(["a b"], [[]])
    with pytest.raises(ValueError, match="each hypothesis as a string; got 3"):
        score([3], ["a"])
