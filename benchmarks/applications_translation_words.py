"""English to Chinese by word alignment (IBM model 1): the strings and the test of applications_translation.py.

What is learned is which word became which. Baselines: the translation memory, and the glossary, which learn nothing.
The control of the edited memory is the same choice among the memory's ten nearest, not edited. Three splits of the
pairs, each by source. There is one setting to choose, how alike a known sentence must be to be edited: on the first
split's part for choosing none was best, and its test was looked at on the way. The other two splits, of the same
strings, were scored once.
"""

from __future__ import annotations

from collections.abc import Iterator

from applications_translation import DATA, SENTENCES, better, scored, split_pairs
from scored import Score, sign_test, stopwatch

from llmlab import applications as apps

SEEDS, ROUNDS = (0, 1, 2), 8


def scores() -> Iterator[Score]:
    for seed in SEEDS:
        yield from of_split(seed)


def of_split(seed: int) -> Iterator[Score]:
    learned, _, test = split_pairs(seed)
    texts = [english for english, _ in test]
    memory, glossary = apps.TranslationMemory(learned), apps.Glossary(learned)
    with stopwatch() as taken:
        aligner = apps.WordAligner(learned, ROUNDS)
        by_words = apps.LearnedGlossary(learned, aligner)
        edit = apps.MemoryEditor(aligner, by_words)
        known = [memory.most_alike(text) for text in texts]
        edited = [edit(text, pair) for text, pair in zip(texts, known, strict=True)]
    nearest, control = [memory(text) for text in texts], [chinese for _, chinese in known]
    more, fewer = better(edited, control, test)
    settings = (
        f"IBM model 1 in both directions, {ROUNDS} rounds of EM, on {len(learned)} pairs split by English string; all "
        f"{len(test)} held-out strings of 3 to 30 words; Chinese BLEU as sacrebleu's zh"
    )
    for i, metric in enumerate(("BLEU", "chrF")):
        yield Score(
            DATA, f"{metric} of the edited memory", scored(edited, test)[i], "translation memory",
            scored(nearest, test)[i], taken[0], seed, "of the ten nearest the most alike (ROUGE-L of the sources), "
            f"edited where its words differ; not edited {scored(control, test)[i]:.2f}: editing is better by chrF in "
            f"{more} sentences, worse in {fewer}, sign test p {sign_test(more, fewer):.0e}; {settings}",
        )  # fmt: skip
    word_for_word = scored(list(map(by_words, texts)), test), scored(list(map(glossary, texts)), test)
    for i, metric in enumerate(("BLEU", "chrF")):
        yield Score(
            DATA, f"{metric} of the learned glossary", word_for_word[0][i], "glossary, word by word",
            word_for_word[1][i], taken[0], seed, f"each word by what it became most often, in its order; {settings}",
        )  # fmt: skip
    for english in SENTENCES:
        print(f"{english} -> {edit(english, memory.most_alike(english))}; word by word {by_words(english)}")
