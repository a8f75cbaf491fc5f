"""Joining the tokens of a piece by learned rules, in a time that grows as n log n with its length n.

The rule of the lowest rank goes first, and of equal ones the leftmost place. All pairs that a rule fits wait in a heap;
joining one puts at most two new ones there. Nothing is moved: each token knows its neighbours, and a pair that comes
out of the heap is passed over if other tokens stand there by then.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Token = TypeVar("Token", bound=Hashable)
Rules = Mapping[tuple[Token, Token], tuple[int, Token]]  # of two neighbours: the rank of their rule, what they become


def join(tokens: Sequence[Token], rules: Rules[Token]) -> list[Token]:
    """Return what is left of the tokens when no rule fits any more."""
    row: list[Token | None] = [*tokens, None]  # None: joined to its left neighbour, and what lies beyond both ends
    size = len(row)
    after, before = [*range(1, size), -1], [*range(-1, size - 1)]
    found = map(rules.get, zip(tokens, tokens[1:], strict=False))
    heap = [rule[0] * size + place for place, rule in enumerate(found) if rule]  # faster to compare than (rank, place)
    heapq.heapify(heap)
    while heap:
        rank, place = divmod(heapq.heappop(heap), size)
        right = after[place]
        rule = rules.get((row[place], row[right]))  # type: ignore[arg-type]
        if rule is None or rule[0] != rank:
            continue
        row[place], row[right] = rule[1], None
        after[place], before[after[right]] = after[right], place
        for left in (before[place], place):
            if rule := rules.get((row[left], row[after[left]])):  # type: ignore[arg-type]
                heapq.heappush(heap, rule[0] * size + left)
    return [token for token in row if token is not None]
