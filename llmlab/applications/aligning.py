"""Which word became which? IBM model 1, learned from pairs; and what it is good for: a glossary, an edited memory.

    P(f | e) = t(f | e)        every word f of the translation has one word e of the source, or none, as its cause
    E step   c(f, e) = sum over the pairs' f and e of  t(f | e) / sum_e' t(f | e')
    M step   t(f | e) = c(f, e) / sum_f' c(f', e)

Nobody says which word belongs to which: starting from "all alike", the two steps find out (Brown et al. 1993). It is
learned in both directions, and a link's score is the geometric mean of both. Chinese is cut into single characters.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from difflib import SequenceMatcher

import torch
from torch import Tensor

from llmlab.applications.remembering import Pair, checked_pairs
from llmlab.arguments import string, whole
from llmlab.text.segmentation import join_words, words

LEAST_LINK = 1e-4  # what is less likely is no link
LONGEST_PHRASE = 5  # characters that one word may become
Link = int | None  # the place of a word in the source; None: of the translation's own
Cut = list[str]


def lower_units(text: str) -> Cut:
    """Cut text into words and marks, in lower case."""
    return [word.lower() for word in words(text)]


def ibm_model_1(pairs: Sequence[tuple[Cut, Cut]], rounds: int = 8) -> dict[tuple[str, str], float]:
    """Learn t(f | e) from pairs of lists of words by EM; give {(e, f): t} of the links above LEAST_LINK.

    What the source side does not explain goes to the empty word, "".
    """
    whole("ibm_model_1", "rounds", rounds, least=1)
    place: dict[tuple[str, str], int] = {}
    ids, groups, group = [], [], 0  # a link's (e, f), and which f of which pair it might explain
    for source, target in pairs:
        for f in target:
            ids += [place.setdefault((e, f), len(place)) for e in ["", *source]]
            groups += [group] * (1 + len(source))
            group += 1
    known = {e: i for i, e in enumerate(dict.fromkeys(e for e, _ in place))}
    link, cause, explained = torch.tensor(ids), torch.tensor([known[e] for e, _ in place]), torch.tensor(groups)
    t = torch.ones(len(place), dtype=torch.float64)
    for _ in range(rounds):
        share = t[link] / _sums(t[link], explained, group)[explained]
        counts = _sums(share, link, len(place))
        t = counts / _sums(counts, cause, len(known))[cause]
    return {words: p for words, p in zip(place, t.tolist(), strict=True) if p > LEAST_LINK}


def _sums(values: Tensor, where: Tensor, n: int) -> Tensor:
    return torch.zeros(n, dtype=values.dtype).index_add_(0, where, values)


class WordAligner:
    """Say for each word of a translation which word of the source it came from."""

    def __init__(self, pairs: Sequence[Pair], rounds: int = 8):
        cut = [(lower_units(source), words(target)) for source, target in checked_pairs("WordAligner", pairs)]
        if not cut:
            raise ValueError("WordAligner wants pairs to learn from, got none")
        self.forward = ibm_model_1(cut, rounds)
        self.backward = ibm_model_1([(target, source) for source, target in cut], rounds)

    def __call__(self, source: Cut, target: Cut) -> list[Link]:
        """Link each word of the target to the likeliest of the source; a word that stands there as it is, to that."""
        return [self._link(source, f) for f in target]

    def _link(self, source: Cut, f: str) -> Link:
        if f.lower() in source:
            return source.index(f.lower())
        scores = [(self.forward.get((e, f), 0.0) * self.backward.get((f, e), 0.0)) ** 0.5 for e in source]
        best = max(range(len(source)), key=scores.__getitem__, default=None)
        return best if best is not None and scores[best] > LEAST_LINK else None


class LearnedGlossary:
    """Word by word, as a `Glossary`; but what a word becomes was learned from whole sentences."""

    def __init__(self, pairs: Sequence[Pair], aligner: WordAligner):
        found: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)
        for source, target in checked_pairs("LearnedGlossary", pairs):
            cut = lower_units(source), words(target)
            for word, phrase in phrases(*cut, aligner(*cut)).items():
                found[word][phrase] += 1
        self.counts = dict(found)

    def phrase(self, word: str) -> tuple[str, ...]:
        """Give what the word became most often, which may be nothing; a word never seen stays as it is."""
        counts = self.counts.get(word.lower())
        return counts.most_common(1)[0][0] if counts else (word,)

    def __call__(self, text: str) -> str:
        return join_words(f for word in words(string("a glossary", "text", text)) for f in self.phrase(word))


def phrases(source: Cut, target: Cut, links: Sequence[Link]) -> dict[str, tuple[str, ...]]:
    """Give each source word's part of the target, where that is one run of at most LONGEST_PHRASE words, or nothing."""
    found = {}
    for i, word in enumerate(source):
        places = [j for j, link in enumerate(links) if link == i]
        run = len(places) <= LONGEST_PHRASE and (not places or places[-1] - places[0] == len(places) - 1)
        if run:
            found[word] = tuple(target[j] for j in places)
    return found


class MemoryEditor:
    """Make a known translation fit a new source: what its words became is replaced where the words differ."""

    def __init__(self, aligner: WordAligner, glossary: LearnedGlossary):
        self.aligner, self.glossary = aligner, glossary

    def __call__(self, text: str, known: Pair) -> str:
        """Edit the translation of `known`: a replaced run of words by the glossary's, a dropped one by nothing.

        Words that were put in between others are left out: nothing says where they belong.
        """
        target, old, new = words(known[1]), lower_units(known[0]), words(string("a MemoryEditor", "text", text))
        links = self.aligner(old, target)
        changes: dict[int, list[str]] = {}
        matcher = SequenceMatcher(None, old, [word.lower() for word in new], autojunk=False)
        for kind, start, stop, first, last in matcher.get_opcodes():
            places = [j for j, link in enumerate(links) if link is not None and start <= link < stop]
            if kind in ("replace", "delete") and places:
                changes.update(dict.fromkeys(places, []))
                changes[places[0]] = [f for word in new[first:last] for f in self.glossary.phrase(word)]
        return join_words(f for j, old_f in enumerate(target) for f in changes.get(j, [old_f]))
