"""From the body of a docstring to its first line: choose a sentence, or borrow a summary; beside the first sentence.

Docstrings of Python's standard library and of torch. A body that is half the same as another is left out, and summaries
are split so that none is on both sides: torch repeats itself, and what was seen is no test. A chat model is asked too,
for fewer of them, where its weights are in the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scored import Score, stopwatch

import llmlab as lab
from llmlab import applications as apps

SEED, NEAR, ASKED, WORDS = 0, 0.5, 20, 120
DATA = "docstrings of Python and torch, body to first line"
Pairs = list[tuple[str, str]]


def prepared() -> Pairs:
    """Keep summaries that are sentences and not signatures, of bodies that are no near-duplicates."""
    pairs = [
        (body, summary)
        for body, summary in lab.text.pairs("python") + lab.text.pairs("torch")
        if "->" not in summary and summary[0].isupper() and len(summary.split()) >= 3
    ]
    kept = dict.fromkeys(lab.text.deduplicate([body for body, _ in pairs], near=NEAR))
    return [(body, summary) for body, summary in pairs if kept.pop(body, True) is None]


def scored(summarize: Callable[[str], str], pairs: Pairs) -> dict[str, float]:
    return lab.evaluate.rouge([summarize(body) for body, _ in pairs], [summary for _, summary in pairs])


def first_sentence(body: str) -> str:
    return apps.sentences_of(body)[0]


def scores() -> Iterator[Score]:
    pairs = prepared()
    rest, test = lab.text.split(pairs, valid=0.1, seed=SEED, key=lambda pair: pair[1].lower())
    with stopwatch() as taken:
        scorer = apps.SentenceScorer().fit(rest)
        chosen = scored(scorer, test)
    first = scored(first_sentence, test)
    how = f"{len(rest)} docstrings to learn from, {len(test)} to test on, near-duplicates ({NEAR}) left out"
    best = scored_best(test)
    for kind, name in (("rouge1", "ROUGE-1"), ("rouge2", "ROUGE-2"), ("rougeL", "ROUGE-L")):
        settings = (
            f"SentenceScorer, ridge regression on {scorer.n_word} words; {how}; the best sentence {best[kind]:.2f}"
        )
        yield Score(
            DATA, f"{name} F1, %", chosen[kind], "first sentence", first[kind], taken[0], SEED, settings
        )  # fmt: skip
    with stopwatch() as taken:
        memory = apps.TranslationMemory(rest)
        borrowed = scored(memory, test)
    settings = f"the summary of the docstring nearest by BM25, often untrue of this one; {how}"
    yield Score(DATA, "ROUGE-L F1, %", borrowed["rougeL"], "first sentence", first["rougeL"], taken[0], SEED, settings)
    yield from asked(test[:ASKED], scorer)


def scored_best(pairs: Pairs) -> dict[str, float]:
    """What choosing could reach: for each summary the sentence that is most like it."""
    rows = [(apps.sentences_of(body)[:12], summary) for body, summary in pairs]
    best = [max(found, key=lambda x: lab.evaluate.rouge([x], [summary])["rougeL"]) for found, summary in rows]
    return lab.evaluate.rouge(best, [summary for _, summary in rows])


def asked(pairs: Pairs, scorer: apps.SentenceScorer) -> Iterator[Score]:
    """Let SmolLM2 write the summaries of a few."""
    model, tokenizer = lab.load_pretrained("smollm2-135m")
    end = tokenizer.specials["<|im_end|>"]

    def written(body: str) -> str:
        text = f"Summarize this documentation in one short sentence:\n\n{' '.join(body.split()[:WORDS])}"
        ids = lab.text.chat_prompt(tokenizer, text)
        return tokenizer.decode(i for i in lab.generate(model, ids, 24, end=end)[len(ids) :].tolist() if i != end)

    with stopwatch() as taken:
        said = scored(written, pairs)
    first, chosen = scored(first_sentence, pairs), scored(scorer, pairs)
    how = f"SmolLM2-135M, not trained for it, reads {WORDS} words, writes at most 24 tokens; {len(pairs)} of the test; "
    settings = f"{how}the SentenceScorer {chosen['rougeL']:.2f} on these"
    yield Score(DATA, "ROUGE-L F1, %", said["rougeL"], "first sentence", first["rougeL"], taken[0], SEED, settings)
