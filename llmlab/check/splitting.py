"""More exercises of notebook 10: unequal workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from llmlab.check.differences import numbers
from llmlab.check.examine import Case, Result, examine
from llmlab.parallel.data import shares_by_speed as fair


def shares_by_speed(answer: Callable[..., Any]) -> Result:
    """`answer(n, speeds)`: how many of n items each worker gets, whole numbers, so that all are done soonest.

    speeds: items per second.
    """
    hint = "start from n x speed / sum of speeds, rounded down; an item left over goes to whoever would end it first."
    return examine("shares_by_speed", answer, _shares(answer), hint)


def _shares(answer: Any) -> Iterator[Case]:
    for n, speeds in ((130, [4, 4, 4, 1]), (10, [1, 1, 1, 1]), (11, [5, 3, 1]), (100, [2, 1])):
        total, ranks = sum(speeds), len(speeds)
        low = [n * v // total for v in speeds]
        mistakes = [
            ([n // ranks + (i < n % ranks) for i in range(ranks)], "equal parts: all wait for the slowest worker."),
            ([n * v / total for v in speeds], "the right proportion; but nobody can do part of an item."),
            (low, "items are lost in rounding: the parts must add up to n."),
            ([round(n * (total / v) / sum(total / s for s in speeds)) for v in speeds], "the slow ones get more."),
        ]
        what = f"{n} items, workers of speed {', '.join(map(str, speeds))}"
        yield Case(what, partial(_as_good, answer, n, speeds), fair(n, speeds), mistakes)


def _as_good(answer: Callable[..., Any], n: int, speeds: Sequence[int]) -> Any:
    """Give the answer's shares, or, where they end as soon as the quickest, the quickest: there may be several."""
    got, best = answer(n, list(speeds)), fair(n, speeds)
    found = numbers(got)
    if found is None or found.shape != (len(speeds),):  # the comparison will say so
        return got
    shares = found.tolist()
    whole = sum(shares) == n and all(share % 1 == 0 for share in shares)
    return best if whole and ends(shares, speeds) <= ends(best, speeds) else got


def ends(shares: Sequence[float], speeds: Sequence[int]) -> float:
    """Seconds until the last worker is done."""
    return max(share / speed for share, speed in zip(shares, speeds, strict=True))
