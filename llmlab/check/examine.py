"""How an exercise is checked: the learner's answer on several cases; the first that fails is shown, with one hint.

A check knows what typical mistakes would give. When the answer gives exactly that, in every case, the hint names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmlab.comm.errors import DeadlockError, MismatchError, RaceError, RankError
from llmlab.comm.group import Group
from llmlab.comm.simulator import Simulator
from llmlab.comm.trace import Run

RELATIVE = 1e-6  # answers are in double precision; learners may round a constant
HINTS: tuple[tuple[type[Exception], str], ...] = (
    (
        DeadlockError,
        "a send returns when its receiver takes it: if all send first, nobody receives. Use isend, recv, wait().",
    ),
    (RaceError, "what isend was given may change only after its wait()."),
    (MismatchError, "each send wants exactly one recv, of the same shape and dtype, and each isend its wait()."),
)
EMPTY = "nothing to check yet. Write your answer in the function, return it, and run the cell again."


@dataclass(frozen=True)
class Case:
    """One input. `run` gives what the answer gives; with `per_rank` a list, one entry for each rank.

    `mistakes`: (what the answer would give if it made that mistake, the hint for it).
    """

    what: str
    run: Callable[[], Any]
    expected: Any
    mistakes: Sequence[tuple[Any, str]] = ()
    per_rank: bool = False


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
    """Try the answer on every case. `hint` is for a wrong answer that no known mistake explains."""
    if answer is None or answer is ...:
        return Result(exercise, False, EMPTY)
    if not callable(answer):
        return Result(exercise, False, f"the check wants a function, got {show(answer)}. Give it the function itself.")
    wrong: list[tuple[Case, Any]] = []
    tried = []
    for case in cases:
        try:
            got = case.run()
        except NotImplementedError:
            return Result(exercise, False, EMPTY)
        except Exception as error:  # whatever a learner's code can raise is shown, not thrown
            return _raised(exercise, case, error, hint)
        if all(value is None or value is ... for value in (got if case.per_rank else [got])):
            return Result(exercise, False, EMPTY)
        if not same(got, case.expected):
            wrong.append((case, got))
        tried.append(case.what)
    if wrong:
        return _wrong(exercise, wrong, hint)
    return Result(exercise, True, f"right. Tried with {'; '.join(tried)}.")


def on_ranks(answer: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Give each rank's `answer(world, *inputs[rank])`."""
    return run_on_ranks(answer, inputs).results


def run_on_ranks(answer: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> Run:
    """Run `answer(world, *inputs[rank])` on as many simulated ranks as there are inputs."""

    def worker(world: Group, answer: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> Any:
        return answer(world, *inputs[world.rank])

    return Simulator(len(inputs)).run(worker, answer, inputs)


# --- what the learner reads -------------------------------------------------------------------------------------------


def _wrong(exercise: str, wrong: list[tuple[Case, Any]], hint: str) -> Result:
    """Show the first wrong case; name the mistake that explains all of them, if there is one."""
    case, got = wrong[0]
    for i, (_, known) in enumerate(case.mistakes):
        if all(same(value, each.mistakes[i][0]) for each, value in wrong):
            hint = known
            break
    where, expected = case.what, case.expected
    if case.per_rank:
        rank = next(rank for rank, (g, e) in enumerate(zip(got, expected, strict=True)) if not same(g, e))
        where, got, expected = f"{case.what}, rank {rank}", got[rank], expected[rank]
    return _block(exercise, where, show(expected), show(got), hint)


def _raised(exercise: str, case: Case, error: Exception, hint: str) -> Result:
    known = next((text for kind, text in HINTS if isinstance(error, kind)), hint)
    text = str(error) if isinstance(error, RankError) else f"{type(error).__name__}: {error}"
    return _block(exercise, case.what, "a result on every rank" if case.per_rank else "a result", text, known)


def _block(exercise: str, where: str, expected: str, got: str, hint: str) -> Result:
    rows = {"tried": where, "expected": expected, "got": got.replace("\n", "\n" + " " * 12), "hint": hint}
    return Result(exercise, False, "not yet.\n" + "\n".join(f"  {name:<9} {text}" for name, text in rows.items()))


def show(value: Any) -> str:
    """Say a value in a few words: numbers to six digits."""
    if isinstance(value, Tensor):
        return show(value.tolist())
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show(v) for v in value) + "]"
    return repr(value)


def same(got: Any, expected: Any) -> bool:
    """Compare shapes, and numbers up to rounding. Tensors, lists and numbers compare with each other."""
    if isinstance(expected, (list, tuple)) and any(isinstance(e, (list, tuple, Tensor)) for e in expected):
        is_list = isinstance(got, (list, tuple)) and len(got) == len(expected)
        return is_list and all(same(g, e) for g, e in zip(got, expected, strict=True))
    try:
        a, b = (torch.as_tensor(v).detach().to(torch.float64) for v in (got, expected))
    except (TypeError, ValueError, RuntimeError):  # not numbers
        return False
    return a.shape == b.shape and torch.allclose(a, b, rtol=RELATIVE, atol=0, equal_nan=True)
