"""Exercises of notebook 36: what torch's own code holds and hands over, and who is missing in a hang."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llmlab.check.examine import Case, Result, examine


def fully_sharded_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(parameters, ranks)`: bytes of a rank's share of weights, gradients and AdamW's state, all in fp32."""
    hint = "four numbers of 4 bytes for each parameter, and FSDP2 splits all four over the ranks."
    return examine("fully_sharded_bytes", answer, _shares(answer), hint)


def _shares(answer: Any) -> Iterator[Case]:
    for parameters, ranks in ((1_000_000, 4), (512_000, 64), (4096, 1), (800_000, 8)):
        right = 16 * parameters / ranks
        mistakes = [
            (16 * parameters, "a rank holds a share of the weights: divide by the ranks."),
            (8 * parameters / ranks, "the optimizer has state, too: AdamW keeps two moments of each parameter."),
            (12 * parameters / ranks, "three of four are counted: weights, gradients and two moments are kept."),
            (4 * parameters + 12 * parameters / ranks, "a rank holds all the weights here: that is ZeRO-2; FSDP2 "
                                                       "splits the weights, too."),
        ]  # fmt: skip
        what = f"{parameters:,} parameters on {ranks} ranks"
        yield Case(what, partial(answer, parameters, ranks), right, mistakes)


def reduced_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(parameters, microbatches, no_sync)`: bytes of fp32 gradients that DDP reduces in a step."""
    hint = "one reduction hands over 4 bytes a parameter; without no_sync() each microbatch makes one."
    return examine("reduced_bytes", answer, _reductions(answer), hint)


def _reductions(answer: Any) -> Iterator[Case]:
    for parameters, microbatches, no_sync in ((1000, 4, False), (1000, 4, True), (250, 8, False), (640, 1, True)):
        right = 4 * parameters * (1 if no_sync else microbatches)
        mistakes = [
            (4 * parameters, "one reduction a step is what no_sync() buys: without it there is one a microbatch."),
            (4 * parameters * microbatches, "all are counted as if nobody had no_sync(): with it only the last "
                                            "microbatch reduces."),
            (right // 4, "that counts numbers: a gradient in fp32 has 4 bytes."),
        ]  # fmt: skip
        what = f"{parameters} parameters, {microbatches} microbatches, no_sync={no_sync}"
        yield Case(what, partial(answer, parameters, microbatches, no_sync), right, mistakes)


REPORTS = (
    {0: "waits in all_reduce on world", 1: "waits in all_reduce on world", 2: "has returned"},
    {
        0: "is at train.py:9 in load",
        1: "waits in barrier on world",
        2: "raised ValueError",
        3: "waits in barrier on dp",
    },
    {0: "waits in all_gather on tp", 1: "has returned", 2: "has returned", 3: "waits in all_gather on tp"},
)


def missing_ranks(answer: Callable[..., Any]) -> Result:
    """`answer(lines)`: the ranks, in order, that the others wait for in vain. lines: {rank: what it is at}."""
    hint = "who waits is a victim; the culprit's line says something else: it has returned, raised, or is elsewhere."
    return examine("missing_ranks", answer, _missing(answer), hint)


def _missing(answer: Any) -> Iterator[Case]:
    for lines in REPORTS:
        waiting = [rank for rank in lines if lines[rank].startswith("waits in")]
        right = [rank for rank in lines if rank not in waiting]
        mistakes: list[tuple[Any, str]] = [
            (waiting, "those wait: they are the victims, and the others are who is missing."),
            ([rank for rank in right if lines[rank] == "has returned"], "not only who returned is missing: a rank can "
             "have raised, or still be at another line."),
            (right[:1], "only the first is named: look at every rank's line."),
        ]  # fmt: skip
        yield Case(f"{len(lines)} ranks", partial(answer, dict(lines)), right, mistakes)
