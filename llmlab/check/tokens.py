"""Exercises of notebook 01: similar documents, merges, packed and padded documents, the size of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from llmlab.check.examine import Case, Result, examine
from llmlab.text.packing import IGNORE

Token = TypeVar("Token", int, str)  # an id, or what it stands for


def jaccard(answer: Callable[..., Any]) -> Result:
    """`answer(a, b)`: how similar two sets are, the share of their union that is common to both."""
    return examine("jaccard", answer, _similar(answer), "divide len(a & b) by len(a | b).")


def _similar(answer: Any) -> Iterator[Case]:
    for a, b in (({1, 2, 3, 4}, {3, 4, 5}), ({1, 2}, {3}), ({1, 2, 3}, {1, 2, 3}), (set(range(10)), {0, 1})):
        common, union = len(a & b), len(a | b)
        mistakes = [
            (common / (len(a) + len(b)), "what is in both was counted twice below the line: take the union."),
            (common / min(len(a), len(b)), "the share of the smaller set: a short quotation would be a duplicate."),
            (common, "how many are common; asked is which share of the union."),
            (1 - common / union, "the distance; the similarity is one minus it."),
        ]
        what = f"{sorted(a)} and {sorted(b)}"
        yield Case(what, partial(answer, set(a), set(b)), common / union, mistakes)


def bpe_merge(answer: Callable[..., Any]) -> Result:
    """`answer(ids, pair, new)`: the list of ids with every occurrence of a pair, from the left, replaced by new."""
    hint = "go through the list with an index: where the pair stands, append new and go on by two, else by one."
    return examine("bpe_merge", answer, _merges(answer), hint)


def _merges(answer: Any) -> Iterator[Case]:
    for ids, pair in (
        ([5, 1, 2, 7, 1, 2], (1, 2)),
        ([1, 1, 1, 1, 1], (1, 1)),
        ([2, 1], (1, 2)),
        ([3], (3, 3)),
        ([], (1, 2)),
    ):
        mistakes = [
            (_first_only(ids, pair, 9), "only the first occurrence: a merge goes on to the end."),
            (merged(ids, pair, pair[0]), "the first of the pair is kept: its place is for the new id."),
            (merged(ids[::-1], pair[::-1], 9)[::-1], "from the right: in 1 1 1 the first two are joined."),
            (merged(ids, pair, 9)[::-1], "the right tokens, backwards."),
            (_overlapping(ids, pair, 9), "a token was used twice: after a match go on by two."),
        ]
        yield Case(f"{ids}, pair {pair}, new id 9", partial(answer, list(ids), pair, 9), merged(ids, pair, 9), mistakes)


def merged(ids: Sequence[Token], pair: tuple[Token, Token], new: Token) -> list[Token]:
    """Replace a pair by one token, everywhere, from the left."""
    out: list[Token] = []
    i = 0
    while i < len(ids):
        found = tuple(ids[i : i + 2]) == pair
        out.append(new if found else ids[i])
        i += 2 if found else 1
    return out


def _first_only(ids: Sequence[int], pair: tuple[int, int], new: int) -> list[int]:
    places = [i for i in range(len(ids) - 1) if tuple(ids[i : i + 2]) == pair]
    return [*ids[: places[0]], new, *ids[places[0] + 2 :]] if places else list(ids)


def _overlapping(ids: Sequence[int], pair: tuple[int, int], new: int) -> list[int]:
    hits = {i for i in range(len(ids) - 1) if tuple(ids[i : i + 2]) == pair}
    return [new if i in hits else token for i, token in enumerate(ids) if i in hits or i - 1 not in hits]


def packed_targets(answer: Callable[..., Any]) -> Result:
    """`answer(documents)`: for lists of ids laid end to end, each token's target, -100 where its document ends."""
    hint = "the targets of one document are its tokens from the second on, then -100; lay them end to end."
    return examine("packed_targets", answer, _targets(answer), hint)


def _targets(answer: Any) -> Iterator[Case]:
    for documents in ([[1, 2, 3], [4, 5]], [[7], [8, 9]], [[1, 2, 3, 4]]):
        stream = [i for document in documents for i in document]
        expected = [target for document in documents for target in [*document[1:], IGNORE]]
        mistakes = [
            ([*stream[1:], IGNORE], "across a border the target is the next document's first token: nobody knows it."),
            (stream, "the tokens themselves: a target is the token that comes next."),
            ([t for t in expected if t != IGNORE], "one for every token: -100 where there is nothing to predict."),
            ([t if t != IGNORE else 0 for t in expected], "0 is a token; what is no target is -100."),
        ]
        yield Case(f"documents {documents}", partial(answer, [list(d) for d in documents]), expected, mistakes)


def table_parameters(answer: Callable[..., Any]) -> Result:
    """`answer(vocab_size, d_model, tied)`: the numbers in the embedding and the output layer; tied: in one table."""
    hint = "the embedding has a row of d_model numbers for each token, and so has the output layer, unless they share."
    return examine("table_parameters", answer, _tables(answer), hint)


def _tables(answer: Any) -> Iterator[Case]:
    for vocab_size, d_model, tied in ((50_257, 768, True), (128_256, 4096, False), (256, 64, False)):
        once = vocab_size * d_model
        mistakes = [
            (once * (2 if tied else 1), "the wrong way round: tied tables are one."),
            (once * (4 if tied else 8), "bytes of fp32; asked is how many numbers."),
            (vocab_size + d_model, "rows times columns."),
        ]
        what = f"{vocab_size:,} tokens, d_model {d_model}, {'tied' if tied else 'not tied'}"
        yield Case(what, partial(answer, vocab_size, d_model, tied), once * (1 if tied else 2), mistakes)


def merges_to_join(answer: Callable[..., Any]) -> Result:
    """`answer(word, merges)`: after how many merges, in their order, a word is one token; -1 if it never is.

    merges: a list of pairs of strings, the first to be made first.
    """
    hint = "begin with the letters; make merge after merge on them, from the left, and count until one is left."
    return examine("merges_to_join", answer, _joins(answer), hint)


def _joins(answer: Any) -> Iterator[Case]:
    the = [("t", "h"), ("e", "s"), ("th", "e")]
    for word, merges in (
        ("the", the),
        ("es", the),
        ("low", [("e", "s"), ("l", "o"), ("es", "t"), ("lo", "w"), ("n", "e")]),
        ("these", the),
        ("abc", [("a", "b"), ("b", "c"), ("a", "bc"), ("c", "d")]),
        ("a", the),
    ):
        right = _merges_until_one(word, merges)
        never = len(word) > 1 and right < 0
        letters = [i + 1 for i, pair in enumerate(merges) if "".join(pair) == word]
        mistakes = [
            (right - 1 if right > 0 else right, "counted from 0: after the first merge, one is done."),
            (right if never else len(word) - 1, "these are the merges within the word: count all that are made."),
            (right if never else len(merges), "these are all merges: the word may be whole earlier."),
            (
                letters[0] if letters else right,
                "a pair with these letters: earlier merges may have cut them otherwise.",
            ),
            (len(merges) if never else right, "it is never whole here: -1."),
        ]
        what = f"{word!r}, merges {' '.join('+'.join(pair) for pair in merges)}"
        yield Case(what, partial(answer, word, list(merges)), right, mistakes)


def _merges_until_one(word: str, merges: Sequence[tuple[str, str]]) -> int:
    parts = list(word)
    for done in range(len(merges) + 1):
        if len(parts) == 1:
            return done
        if done < len(merges):
            parts = merged(parts, merges[done], "".join(merges[done]))
    return -1


def padding_share(answer: Callable[..., Any]) -> Result:
    """`answer(lengths)`: the share of padding in a batch of documents, each padded to the longest."""
    hint = "the batch has len(lengths) * max(lengths) places, of which sum(lengths) hold tokens; the rest is padding."
    return examine("padding_share", answer, _paddings(answer), hint)


def _paddings(answer: Any) -> Iterator[Case]:
    for lengths in ([3, 5, 10], [1, 100, 7, 7], [4, 4]):
        places, held = len(lengths) * max(lengths), sum(lengths)
        mistakes = [
            (held / places, "the share of tokens; padding is the rest."),
            ((places - held) / held, "padding beside tokens; asked is its share of all places."),
            (places - held, "how many places; asked is which share of all."),
            (1 - min(lengths) / max(lengths), "the shortest document's padding; asked is that of all together."),
        ]
        yield Case(
            f"documents of {', '.join(map(str, lengths))} tokens",
            partial(answer, list(lengths)),
            1 - held / places,
            mistakes,
        )
