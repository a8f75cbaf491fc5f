"""Tokens: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.tokens import bpe_merge, jaccard, packed_targets, table_parameters


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


RIGHT = [
    (jaccard, lambda a, b: len(a.intersection(b)) / len(a.union(b))),
    (bpe_merge, replaced),
    (packed_targets, lambda documents: sum(([*d[1:], -100] for d in documents), [])),
    (table_parameters, lambda vocab, d, tied: vocab * d * (2 - tied)),
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
]
