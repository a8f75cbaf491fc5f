"""How an exercise is checked: the learner's answer on several cases; the first that fails is shown, with its hints.

A check knows what typical mistakes would give. When the answer gives exactly that, in every case, the hint names it.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

from llmlab.check.asking import unfit
from llmlab.check.differences import difference, same, show
from llmlab.check.hints import begin_again, in_two, not_yet
from llmlab.comm.errors import DeadlockError, MismatchError, RaceError, RankError
from llmlab.comm.group import Group
from llmlab.comm.simulator import Simulator
from llmlab.comm.trace import Run

HINTS: tuple[tuple[type[Exception], str], ...] = (
    (
        DeadlockError,
        "who waits for whom: a send returns when its receiver takes it; if all send first, nobody receives. "
        "Use isend, recv, wait().",
    ),
    (RaceError, "a buffer that is still under way: what isend was given may change only after its wait()."),
    (
        MismatchError,
        "a call without its counterpart: each send wants exactly one recv, of the same shape and dtype, and each "
        "isend its wait().",
    ),
)
EMPTY = "nothing to check yet. Write your answer in the function, return it, and run the cell again."


@dataclass(frozen=True)
class Case:
    """One input. `run` gives what the answer gives; with `per_rank` a list, one entry for each rank.

    `most_bytes`: what a rank may hand over, where a right result of `on_ranks` can be had for too much.
    `mistakes`: (what the answer would give if it made that mistake, the hint for it). A hint `what is wrong: the cure`
    is told in two stages.
    """

    what: str
    run: Callable[[], Any]
    expected: Any
    mistakes: Sequence[tuple[Any, str]] = ()
    per_rank: bool = False
    most_bytes: int | None = None


class Results(list[Any]):
    """What each rank gave; `sent`: the most bytes that one of them handed over."""

    sent = 0


@dataclass(frozen=True)
class Result:
    """What a check found. True in a condition if the answer is right; prints as one short block."""

    exercise: str
    right: bool
    text: str

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return f"{self.exercise}: {self.text}"


def examine(exercise: str, answer: Any, cases: Iterable[Case], hint: str) -> Result:
    """Try the answer on every case. `hint` is the cure for a wrong answer that no known mistake explains.

    The first wrong answer is told what is wrong and where to look, the next one the cure.
    """
    if answer is None or answer is ...:
        return Result(exercise, False, EMPTY)
    why_not = unfit(exercise, answer)
    if why_not:
        return Result(exercise, False, f"not yet: {why_not}")
    wrong: list[tuple[Case, Any]] = []
    costly: tuple[Case, int] | None = None
    tried = []
    for case in cases:
        try:
            got = case.run()
        except NotImplementedError:
            return Result(exercise, False, EMPTY)
        except (Exception, SystemExit) as error:  # whatever a learner's code can raise is shown, not thrown
            return _raised(exercise, answer, case, error, hint)
        if all(value is None or value is ... for value in (got if case.per_rank else [got])):
            return Result(exercise, False, EMPTY)
        if not same(got, case.expected):
            wrong.append((case, got))
        elif case.most_bytes is not None and got.sent > case.most_bytes:
            costly = costly or (case, got.sent)
        tried.append(case.what)
    if wrong:
        return _wrong(exercise, wrong, len(tried), hint)
    if costly:
        return _costly(exercise, *costly, hint)
    begin_again(exercise)
    return Result(exercise, True, f"right. Tried with {'; '.join(tried)}.")


def on_ranks(answer: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> Results:
    """Give each rank's `answer(world, *inputs[rank])`."""
    run = run_on_ranks(answer, inputs)
    results = Results(run.results)
    results.sent = max(run.trace.comm_bytes(rank) for rank in range(len(inputs)))
    return results


def run_on_ranks(answer: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> Run:
    """Run `answer(world, *inputs[rank])` on as many simulated ranks as there are inputs."""

    def worker(world: Group, answer: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> Any:
        return answer(world, *inputs[world.rank])

    return Simulator(len(inputs)).run(worker, answer, inputs)


# --- what the learner reads -------------------------------------------------------------------------------------------


def _wrong(exercise: str, wrong: list[tuple[Case, Any]], tried: int, hint: str) -> Result:
    """Show the first wrong case; name the mistake that explains all of them, if there is one."""
    case, got = wrong[0]
    mistake = ""
    for i, (_, known) in enumerate(case.mistakes):
        if all(same(value, each.mistakes[i][0]) for each, value in wrong):
            mistake, hint = in_two(known)
            break
    where, expected = case.what, case.expected
    if case.per_rank:
        rank = next(rank for rank, (g, e) in enumerate(zip(got, expected, strict=True)) if not same(g, e))
        where, got, expected = f"{case.what}, rank {rank}", got[rank], expected[rank]
    look = _sentence(difference(got, expected), _right_in(tried - len(wrong), tried), mistake)
    rows = {"tried": where, "expected": show(expected), "got": show(got)}
    return Result(exercise, False, not_yet(exercise, rows, look, hint))


def _costly(exercise: str, case: Case, sent: int, hint: str) -> Result:
    """Say of right numbers that they took too many bytes."""
    most = f"at most {case.most_bytes:,} bytes handed over by a rank"
    rows = {"tried": case.what, "expected": most, "got": f"the right numbers, for {sent:,} bytes"}
    look = "right in every number, and dearer than it need be; what do the ranks send each other that no one needs?"
    return Result(exercise, False, not_yet(exercise, rows, look, hint))


def _right_in(right: int, tried: int) -> str:
    return f"right in {right} of the {tried} cases" if right else ""


def _raised(exercise: str, answer: Any, case: Case, error: BaseException, hint: str) -> Result:
    known = next((text for kind, text in HINTS if isinstance(error, kind)), "")
    mistake, hint = in_two(known) if known else ("", hint)
    text = str(error) if isinstance(error, RankError) else f"{type(error).__name__}: {error}"
    rows = {"tried": case.what, "expected": "a result on every rank" if case.per_rank else "a result", "got": text}
    look = _sentence(_line(answer, error), mistake)
    return Result(exercise, False, not_yet(exercise, rows, look, hint))


def _line(answer: Any, error: BaseException) -> str:
    """Name the line of the answer in which an exception was raised."""
    code = getattr(answer, "__code__", None)
    while isinstance(error, RankError) and error.__cause__ is not None:
        error = error.__cause__
    lines = [
        (frame.f_code.co_filename, number)
        for frame, number in walk_tb(error.__traceback__)
        if code is not None and frame.f_code.co_filename == code.co_filename
    ]
    if lines:
        return f"line {lines[-1][1]}, `{linecache.getline(*lines[-1]).strip()}`"
    return ""


def _sentence(*parts: str) -> str:
    text = "; ".join(part for part in parts if part) or "what the exception says"
    return text if text.endswith("?") else f"{text}."
