"""Exercises of notebooks 25 and 26: what a stage hands over, and what interleaving leaves of the bubble."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llmlab.check.examine import Case, Result, examine


def stage_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(rank, ranks, tokens, d_model, number_bytes)`: bytes a rank of a pipeline hands over in a step.

    tokens: of the global batch, in all microbatches together. Each rank has one stage.
    """
    hint = "activations go on to the next stage, gradients back to the one before: tokens * d_model numbers each."
    return examine("stage_bytes", answer, _sent(answer), hint)


def _sent(answer: Any) -> Iterator[Case]:
    for rank, ranks, tokens, d, size in (
        (0, 4, 2048, 512, 2),
        (1, 4, 2048, 512, 2),
        (3, 4, 4096, 256, 4),
        (0, 1, 64, 8, 4),
    ):
        once = tokens * d * size
        borders = (rank > 0) + (rank < ranks - 1)
        mistakes = [
            ((rank < ranks - 1) * once, "forward alone: the gradient of what came in goes back to the stage before."),
            (2 * once, "the first stage sends nothing back, the last nothing on, and one alone nothing at all."),
            (borders * tokens * d, "these are numbers: each takes number_bytes."),
            (2 * borders * once, "what comes in counts for who hands it over: count what goes out."),
            (borders * once * ranks, "of all ranks? Asked is what this one hands over."),
        ]
        what = f"rank {rank} of {ranks}, {tokens:,} tokens of {d}, {size} bytes a number"
        yield Case(what, partial(answer, rank, ranks, tokens, d, size), borders * once, mistakes)


def interleaved_bubble(answer: Callable[..., Any]) -> Result:
    """`answer(ranks, microbatches, virtual_stages)`: the share of an interleaved step in which each rank waits.

    Stages alike, messages free; a rank's virtual_stages take together what its one stage would.
    """
    hint = "a rank works for m (F + B) and waits for (p - 1) (F + B) / v; the share is of both together."
    return examine("interleaved_bubble", answer, _bubbles(answer), hint)


def _bubbles(answer: Any) -> Iterator[Case]:
    for p, m, v in ((4, 8, 2), (8, 16, 4), (2, 2, 1)):
        mistakes = [
            ((p - 1) / (m + p - 1), "1F1B's: each visit takes 1 / v as long, and so does the bubble."),
            ((p - 1) / (v * m), "that is the wait beside the work; the step is both together."),
            (v * (p - 1) / (m + v * (p - 1)), "longer? More borders, but each is crossed v times as soon."),
            (v * m / (v * m + p - 1), "that is the share in which it works."),
        ]
        what = f"{p} ranks, {m} microbatches, {v} stages on each"
        yield Case(what, partial(answer, p, m, v), (p - 1) / (v * m + p - 1), mistakes)
