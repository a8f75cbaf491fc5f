"""What is wrong with a program of torch.distributed: run on simulated ranks, then held against itself on one.

A program that ends can still be wrong, and says what to look at in the dict that it returns:

    same              what must be equal on every rank: the weights of replicas
    answer            what must be equal to the same program's on one rank: the loss after a step on the whole batch
    gradient_bytes    of one reduction of all gradients, and
    reductions        how many of them the training needs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llmlab.arguments import function, whole
from llmlab.comm.errors import DeadlockError, MismatchError, RaceError, RankError
from llmlab.comm.simulator import Simulator
from llmlab.comm.trace import Run

KINDS = {
    "missing rank": "some ranks wait in an operation that another never enters",
    "crossed order": "the ranks wait for one another, each in an operation that the others come to later",
    "circle of messages": "each rank waits for another to take, or to send, a message",
    "not the same operation": "the ranks meet in operations that do not fit",
    "used before its wait": "a buffer is used while an operation that is under way still needs it",
    "left open": "something was begun that nobody took or waited for",
    "an error": "a rank raises",
    "ranks differ": "what must be the same on every rank is not",
    "another answer": "the answer is not the one that a single process gives",
    "too much traffic": "more gradients are reduced than the training needs",
    "none": "nothing was found",
}
CLOSE = 1e-5  # relative: sums of a few hundred float32 in another order; a fault is off by a percent and more


@dataclass(frozen=True)
class Finding:
    """What was found. kind: a name of KINDS.  evidence: every rank's line, or the numbers that differ."""

    kind: str
    evidence: str
    run: Run | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.kind}: {KINDS[self.kind]}\n{self.evidence}".rstrip()


def examine(program: Callable[..., Any], *args: Any, ranks: int = 2, **kwargs: Any) -> Finding:
    """Run a program of torch.distributed on simulated ranks, and say what is wrong with it."""
    function("examine", "program", program, "...")
    whole("examine", "ranks", ranks, least=2)
    try:
        run = Simulator(ranks=ranks).run_torch(program, *args, **kwargs)
    except RankError as error:
        return Finding(_kind_of(error), str(error))
    checks = (_ranks_differ, _too_much_traffic)
    reports = [each if isinstance(each, Mapping) else {} for each in run.results]
    for check in checks:
        if evidence := check(reports, run):
            return Finding(check.__name__.strip("_").replace("_", " "), evidence, run)
    if "answer" in reports[0]:
        alone = Simulator(ranks=1).run_torch(program, *args, **kwargs).results[0]["answer"]
        if evidence := _another_answer(reports[0]["answer"], alone):
            return Finding("another answer", evidence, run)
    return Finding("none", "", run)


def _kind_of(error: RankError) -> str:
    """Name an error by what the ranks' lines have in common."""
    lines = [line.partition(": ")[2] for line in str(error).splitlines() if line.startswith("  rank ")]
    if isinstance(error, DeadlockError):
        if not all(line.startswith("waits in") for line in lines):
            return "missing rank"
        messages = all(line.startswith(("waits in send", "waits in recv")) for line in lines)
        return "circle of messages" if messages else "crossed order"
    if isinstance(error, MismatchError):
        return "left open" if "and left what" in str(error) else "not the same operation"
    return "used before its wait" if isinstance(error, RaceError) else "an error"


def _ranks_differ(reports: list[Mapping[str, Any]], run: Run) -> str:
    values = [numbers(report["same"]) for report in reports if "same" in report]
    far = [
        f"rank {rank} by {off:.2g}" for rank, off in enumerate(distance(v, values[0]) for v in values) if off > CLOSE
    ]
    return f"from rank 0's, relative: {', '.join(far)}" if far else ""


def _too_much_traffic(reports: list[Mapping[str, Any]], run: Run) -> str:
    if "gradient_bytes" not in reports[0]:
        return ""
    needed = reports[0]["gradient_bytes"] * reports[0]["reductions"]
    reduced = run.trace.comm_bytes(rank=0, op="all_reduce")
    if reduced < 1.5 * needed:
        return ""
    return f"{reduced:,} bytes of gradients are reduced, where {needed:,} would do: {reduced / needed:.1f} times"


def _another_answer(found: Any, alone: Any) -> str:
    found, alone = numbers(found), numbers(alone)
    off = distance(found, alone)
    return f"{found.norm():.6g}, where one process has {alone.norm():.6g} (off by {off:.2g})" if off > CLOSE else ""


def numbers(value: Any) -> Tensor:
    """All numbers in a nest of tensors and lists, in one row."""
    if isinstance(value, Tensor):
        return value.detach().double().reshape(-1)
    if isinstance(value, (list, tuple)):
        return torch.cat([numbers(each) for each in value])
    return torch.tensor([float(value)], dtype=torch.float64)


def distance(one: Tensor, other: Tensor) -> float:
    """How far two rows are apart, relative to the second; infinite where they are not of one length."""
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).norm() / other.norm().clamp_min(1e-30))
