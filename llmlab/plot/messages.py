"""An all-reduce as data: which chunks go from whom to whom in each step, and who has what added up after it.

The steps are those of `comm/collectives`, chunk by chunk, so that they can be drawn; a test compares them with what
the library sends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmlab.arguments import choice, whole

MAX_RANKS = 8  # what fits on a picture


@dataclass(frozen=True)
class Message:
    """Chunks that one rank hands to another, which adds them to its own or puts them in their place."""

    src: int
    dst: int
    chunks: tuple[int, ...]
    adds: bool


Step = list[Message]  # at the same time
Held = list[list[frozenset[int]]]  # [rank][chunk]: the ranks whose values are added up there


def all_reduce_steps(algorithm: str, ranks: int) -> list[Step]:
    """List the messages of an all-reduce of as many chunks as ranks, step by step."""
    whole("an all-reduce drawn", "ranks", ranks, least=2, most=MAX_RANKS)
    return ALL_REDUCE[choice("an all-reduce drawn", "algorithm", algorithm, ALL_REDUCE)](ranks)


def held_after(steps: list[Step], ranks: int) -> Held:
    """Give what every rank holds once these steps are done; all messages of a step leave before any is added."""
    held: Held = [[frozenset({rank})] * ranks for rank in range(ranks)]
    for step in steps:
        before = [list(row) for row in held]
        for message in step:
            for c in message.chunks:
                came = before[message.src][c]
                held[message.dst][c] = held[message.dst][c] | came if message.adds else came
    return held


def _ring(p: int) -> list[Step]:
    add = [[Message(r, (r + 1) % p, ((r - step) % p,), True) for r in range(p)] for step in range(1, p)]
    pass_on = [[Message(r, (r + 1) % p, ((r - step) % p,), False) for r in range(p)] for step in range(p - 1)]
    return add + pass_on


def _tree(p: int) -> list[Step]:
    everything, distances = tuple(range(p)), [1 << k for k in range((p - 1).bit_length())]
    up = [[Message(r, r - d, everything, True) for r in range(d, p, 2 * d)] for d in distances]
    down = [[Message(r - d, r, everything, False) for r in range(d, p, 2 * d)] for d in reversed(distances)]
    return up + down


def _halving_doubling(p: int) -> list[Step]:
    if p & (p - 1):
        raise ValueError(f"halving-doubling is drawn on a power of two of ranks, got {p}")
    distances = [1 << k for k in range(p.bit_length() - 1)]
    halve = [[Message(r, r ^ d, _block(r ^ d, d), True) for r in range(p)] for d in reversed(distances)]
    double = [[Message(r, r ^ d, _block(r, d), False) for r in range(p)] for d in distances]
    return halve + double


def _block(rank: int, distance: int) -> tuple[int, ...]:
    """The aligned block of `distance` chunks in which the rank's own lies."""
    first = rank // distance * distance
    return tuple(range(first, first + distance))


def _naive(p: int) -> list[Step]:
    everything = tuple(range(p))
    return [
        *([Message(r, 0, everything, True)] for r in range(1, p)),
        *([Message(0, r, everything, False)] for r in range(1, p)),
    ]


ALL_REDUCE: dict[str, Callable[[int], list[Step]]] = {
    "ring": _ring, "tree": _tree, "halving_doubling": _halving_doubling, "naive": _naive,
}  # fmt: skip
