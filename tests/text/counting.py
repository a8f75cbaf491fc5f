"""Counting what an algorithm does, so that no test of its growth looks at a clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def count_steps(rules: dict[Any, tuple[int, Any]], put: Callable[[dict], None], run: Callable[[], Any]) -> int:
    """Count comparisons of ranks and look-ups of rules while `run` works with the rules that `put` puts back."""
    steps = 0

    class Rank(int):
        """A rank that counts how often it, or what was reckoned from it, is compared."""

        def __lt__(self, other: int) -> bool:
            nonlocal steps
            steps += 1
            return int(self) < int(other)

        def __eq__(self, other: object) -> bool:
            nonlocal steps
            steps += 1
            return int(self) == other

        def __mul__(self, other: int) -> Rank:
            return Rank(int(self) * other)

        def __add__(self, other: int) -> Rank:
            return Rank(int(self) + other)

        __hash__ = int.__hash__

    class Rules(dict):
        def get(self, key: Any, default: Any = None) -> Any:
            nonlocal steps
            steps += 1
            return dict.get(self, key, default)

    put(Rules({pair: (Rank(rank), made) for pair, (rank, made) in rules.items()}))
    run()
    return steps
