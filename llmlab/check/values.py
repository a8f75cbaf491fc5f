"""How an exercise is checked whose answer is no function: a value that the learner has found by looking or trying."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmlab.check.differences import show
from llmlab.check.examine import Result
from llmlab.check.hints import begin_again, not_yet


@dataclass(frozen=True)
class Verdict:
    """What is said of a value. `words`: what a right one reaches, or what is wrong with another and where to look."""

    right: bool
    words: str
    cure: str = ""
    rows: dict[str, str] = field(default_factory=dict)


def examine_value(exercise: str, answer: Any, wanted: str, judge: Callable[[Any], Verdict | None]) -> Result:
    """Judge a value in the words of `examine`. `judge` gives None for what is not `wanted`, which is no try."""
    if answer is None or answer is ... or (isinstance(answer, str) and not answer):
        return Result(exercise, False, f"nothing to check yet. Put in {wanted}, and run the cell again.")
    verdict = judge(answer)
    if verdict is None:
        return Result(exercise, False, f"not yet: the check wants {wanted}; got {show(answer)}")
    if verdict.right:
        begin_again(exercise)
        return Result(exercise, True, f"right: {verdict.words}")
    return Result(exercise, False, not_yet(exercise, verdict.rows, verdict.words, verdict.cure))
