"""Tokens: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.tokens import (
    bpe_merge,
    jaccard,
    merges_to_join,
    packed_targets,
    padding_share,
    table_parameters,
)


def replaced(ids, pair, new):
    out, rest = [], list(ids)
    while rest:
        if tuple(rest[:2]) == pair:
            out, rest = [*out, new], rest[2:]
        else:
            out, rest = [*out, rest[0]], rest[1:]
    return out


def first_only(ids, pair, new):
    out = replaced(ids, pair, new)
    return out if out.count(new) < 2 else [*ids[: out.index(new)], new, *ids[out.index(new) + 2 :]]


def used_twice(ids, pair, new):
    hits = [i for i in range(len(ids) - 1) if tuple(ids[i : i + 2]) == pair]
    return [new if i in hits else x for i, x in enumerate(ids) if i in hits or i - 1 not in hits]


def joined(word, merges):
    parts = list(word)
    for done in range(len(merges) + 1):
        if len(parts) == 1:
            return done
        parts = replaced(parts, merges[done], "".join(merges[done])) if done < len(merges) else parts
    return -1


def by_letters(word, merges):
    found = [i + 1 for i, (a, b) in enumerate(merges) if a + b == word]
    return found[0] if found else joined(word, merges)


RIGHT = [
    (jaccard, lambda a, b: len(a.intersection(b)) / len(a.union(b))),
    (bpe_merge, replaced),
    (packed_targets, lambda documents: sum(([*d[1:], -100] for d in documents), [])),
    (table_parameters, lambda vocab, d, tied: vocab * d * (2 - tied)),
    (merges_to_join, joined),
    (padding_share, lambda lengths: 1 - sum(lengths) / len(lengths) / max(lengths)),
]
WRONG = [
    (jaccard, lambda a, b: len(a & b) / (len(a) + len(b)), "counted twice"),
    (jaccard, lambda a, b: len(a & b) / min(len(a), len(b)), "the smaller set"),
    (jaccard, lambda a, b: len(a & b), "which share of the union"),
    (jaccard, lambda a, b: len(a ^ b) / len(a | b), "the distance"),
    (bpe_merge, lambda ids, pair, new: replaced(ids, pair, pair[0]), "the first of the pair is kept"),
    (bpe_merge, lambda ids, pair, new: replaced(ids[::-1], pair[::-1], new)[::-1], "from the right"),
    (bpe_merge, lambda ids, pair, new: replaced(ids, pair, new)[::-1], "backwards"),
    (packed_targets, lambda documents: [*sum(documents, [])[1:], -100], "the next document's first token"),
    (packed_targets, lambda documents: sum((d[1:] for d in documents), []), "one for every token"),
    (packed_targets, lambda documents: sum(documents, []), "the tokens themselves"),
    (packed_targets, lambda documents: sum(([*d[1:], 0] for d in documents), []), "0 is a token"),
    (table_parameters, lambda vocab, d, tied: vocab * d * (1 + tied), "the wrong way round"),
    (table_parameters, lambda vocab, d, tied: 4 * vocab * d * (2 - tied), "bytes of fp32"),
    (table_parameters, lambda vocab, d, tied: vocab + d, "rows times columns"),
    (bpe_merge, first_only, "only the first occurrence"),
    (bpe_merge, used_twice, "used twice"),
    (
        merges_to_join,
        lambda word, merges: max(joined(word, merges) - 1, min(joined(word, merges), 0)),
        "counted from 0",
    ),
    (merges_to_join, lambda word, merges: min(joined(word, merges), len(word) - 1), "within the word"),
    (merges_to_join, lambda word, merges: len(merges) if joined(word, merges) >= 0 else -1, "may be whole earlier"),
    (merges_to_join, by_letters, "cut them otherwise"),
    (merges_to_join, lambda word, merges: joined(word, merges) % (len(merges) + 1), "never whole"),
    (padding_share, lambda lengths: sum(lengths) / len(lengths) / max(lengths), "padding is the rest"),
    (padding_share, lambda lengths: len(lengths) * max(lengths) / sum(lengths) - 1, "its share of all places"),
    (padding_share, lambda lengths: len(lengths) * max(lengths) - sum(lengths), "asked is which share"),
    (padding_share, lambda lengths: 1 - min(lengths) / max(lengths), "of all together"),
]
