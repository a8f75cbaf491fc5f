"""Exercises of notebook 30: utilization, exposed time, and what speaks against each suspicion.

A suspicion stands until the trace refutes it: `refuted` gives the number that does, so the cause is what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from statistics import median
from typing import Any

from llmlab.check.differences import numbers, show
from llmlab.check.examine import Case, Result, examine
from llmlab.check.patients import Patient, ward
from llmlab.check.values import Verdict, examine_value
from llmlab.comm.trace import Run, union_seconds
from llmlab.diagnosing import exposed_by_axis
from llmlab.hardware import cluster
from llmlab.parallel.layout import Layout

CAUSES = {
    "gradients": "gradients travel while nothing is computed",
    "bubble": "a pipeline with too few micro-batches",
    "tensor across nodes": "tensor parallelism over the slow links between nodes",
    "slow rank": "one device is slower, and all wait for it",
    "small kernels": "kernels so short that launching them takes as long as running them",
    "late host": "the host comes late with the next micro-batch",
    "uneven stages": "one pipeline stage has more to compute than the others",
    "recomputing": "activations are computed a second time in the backward pass",
}
TARGET = 0.33  # MFU that a good split of the seventh patient's layers passes, and an even one does not
SEVENTH = "G"
BLOCKS = 9  # of the seventh patient
THIRD_TARGET = 0.45  # MFU that the third patient passes where nothing crosses nodes but gradients, early
THIRD = "C"


# --- the suspicions -------------------------------------------------------------------------------------------------


def refuted(patient: Patient, run: Run) -> dict[str, str]:
    """Say of each cause what in the trace speaks against it as the main one, in numbers; "" where nothing does."""
    signs = Signs.of(patient, run)
    found = {
        "gradients": (signs.dp < 0.25, f"exposed traffic of replicas takes {signs.dp:.0%} of the time"),
        "bubble": (
            signs.busiest_waits < 0.3,
            f"the rank that waits least does so {signs.busiest_waits:.0%} of the time",
        ),
        "tensor across nodes": (signs.tp < 0.25, f"exposed traffic along tp takes {signs.tp:.0%} of the time"),
        "slow rank": (
            signs.slowest > 0.8,
            f"in products the slowest rank has {signs.slowest:.0%} of the fastest's rate",
        ),
        "small kernels": (
            signs.launching < 0.8,
            f"launching takes {signs.launching:.0%} of the step; the median kernel lasts {signs.kernel_us:.0f} µs",
        ),
        "late host": (signs.host < 0.25, f"the devices have nothing to do {signs.host:.0%} of the time"),
        "uneven stages": (signs.least_work > 0.6, f"the least busy rank has {signs.least_work:.0%} of the most FLOPs"),
        "recomputing": (signs.useful > 0.9, f"{signs.useful:.0%} of the FLOPs are ones that the model needs"),
    }
    if not any(event.op == "send" for event in run.trace):
        found["bubble"] = found["uneven stages"] = True, "nothing is sent from stage to stage"
    return {cause: words if against else "" for cause, (against, words) in found.items()}


@dataclass(frozen=True)
class Signs:
    """The numbers that suspicions are held against; shares of the time where nothing else is said."""

    dp: float  # exposed, along dp or the world
    tp: float  # exposed, along tp
    host: float
    busiest_waits: float  # of the rank that waits least
    slowest: float  # FLOP/s in matrix products: the slowest rank's, as a share of the fastest's
    least_work: float  # FLOPs: the least of a rank, as a share of the most
    launching: float  # what the host of rank 0 needs to launch its kernels
    kernel_us: float  # the median kernel
    useful: float  # FLOPs that the model needs, of those done

    @staticmethod
    def of(patient: Patient, run: Run) -> Signs:
        spent, used = patient.diagnose(run)
        exposed = exposed_by_axis(run)
        kernels = run.trace.select(stream="compute")
        launch_s = cluster(patient.engine.cluster).device.launch_s
        rates = [spent.flops[rank] / by_cause["matrix products"] for rank, by_cause in spent.ranks.items()]
        return Signs(
            dp=exposed.get("dp", 0.0) + exposed.get("world", 0.0),
            tp=exposed.get("tp", 0.0),
            host=spent.share("host"),
            busiest_waits=min(spent.share("waiting", rank) for rank in spent.ranks),
            slowest=min(rates) / max(rates),
            least_work=min(spent.flops.values()) / max(spent.flops.values()),
            launching=len(kernels.select(rank=0)) * launch_s / run.seconds,
            kernel_us=median(kernel.seconds for kernel in kernels) * 1e6,
            useful=used.useful,
        )


# --- the exercises --------------------------------------------------------------------------------------------------


def mfu(answer: Callable[..., Any]) -> Result:
    """`answer(parameters, tokens, seconds, ranks, peak)`: the MFU of a step, attention left out.

    tokens: of the global batch.  peak: FLOP/s of one device.
    """
    hint = "a token needs 6 FLOPs per parameter, 2 forward and 4 backward; the devices could do seconds x ranks x peak."
    return examine("mfu", answer, _steps(answer), hint)


def _steps(answer: Any) -> Iterator[Case]:
    for n, tokens, seconds, ranks, peak in ((7e9, 4e6, 25.0, 16, 989e12), (175e9, 3.2e6, 35.0, 1024, 312e12)):
        right = 6 * n * tokens / (seconds * ranks * peak)
        mistakes = [
            (right / 3, "2 FLOPs per parameter and token are the forward pass; the backward pass needs twice as many."),
            (right * 8 / 6, "8 counts the forward pass twice: with recomputing that is the HFU, not the MFU."),
            (right * ranks, "one device alone: there are `ranks` of them."),
            (right * seconds, "FLOPs per second, not FLOPs: divide by the seconds, too."),
        ]
        work = f"{n / 1e9:.0f}B parameters, {tokens / 1e6:g}M tokens"
        what = f"{work} in {seconds:g} s on {ranks} x {peak / 1e12:.0f} TFLOP/s"
        yield Case(what, partial(answer, n, tokens, seconds, ranks, peak), right, mistakes)


def exposed_seconds(answer: Callable[..., Any]) -> Result:
    """`answer(kernels, messages)`: seconds in which a rank communicates and computes nothing.

    Both are lists of (start, stop), in seconds, in any order; messages may overlap one another.
    """
    hint = "mark every moment of a message, once; take away the moments in which a kernel runs."
    return examine("exposed_seconds", answer, _timelines(answer), hint)


def _timelines(answer: Any) -> Iterator[Case]:
    for kernels, messages in (
        ([(0.0, 4.0)], [(1.0, 6.0)]),
        ([(0.0, 2.0), (5.0, 7.0)], [(6.0, 9.0), (1.0, 3.0), (2.0, 4.0)]),
        ([(0.0, 1.0), (1.0, 2.0), (2.0, 8.0)], [(3.0, 4.0), (3.0, 5.0)]),
    ):
        all_of = union_seconds(messages)
        right = union_seconds(kernels + messages) - union_seconds(kernels)
        overlaps = sum(max(0.0, min(a[1], b[1]) - max(a[0], b[0])) for a in kernels for b in messages)
        mistakes = [
            (all_of, "that is all communication, the hidden part too."),
            (sum(b - a for a, b in messages), "that is all communication, the hidden part too, and overlaps twice."),
            (sum(b - a for a, b in messages) - overlaps, "where two messages are under way at once, time passes once."),
            (
                max(0.0, all_of - union_seconds(kernels)),
                "not all computing hides communication: only what is at its time.",
            ),
        ]
        yield Case(
            f"kernels {show(kernels)}, messages {show(messages)}", partial(answer, kernels, messages), right, mistakes
        )


def seventh_cause(answer: Any) -> Result:
    """`answer`: the name, one of `CAUSES`, of what is wrong with patient G."""
    return examine_value("seventh_cause", answer, f"the name of a cause, one of {', '.join(CAUSES)}", _cause)


def _cause(answer: Any) -> Verdict | None:
    if not isinstance(answer, str) or answer not in CAUSES:
        return None
    against = refuted(*_seventh())
    if against[answer]:
        cure = "compare the ranks in `spent.flops`. Which has the most, and what does it hold that others do not?"
        return Verdict(False, f"against {answer!r} speaks: {against[answer]}.", cure)
    others = "\n".join(f"  not {cause}: {words}" for cause, words in against.items() if words)
    return Verdict(True, f"{CAUSES[answer]}.\n{others}")


def seventh_split(answer: Any) -> Result:
    """`answer`: blocks of each of patient G's three stages, so that its MFU passes the target. The step is run."""
    return examine_value("seventh_split", answer, f"three whole numbers from 1 that add up to {BLOCKS}", _split)


def _split(answer: Any) -> Verdict | None:
    split = numbers(answer)
    if split is None or split.shape != (3,) or split.min() < 1 or split.sum() != BLOCKS or (split % 1).any():
        return None
    patient, before = _seventh()
    run = _split_run(tuple(int(n) for n in split))
    reached, was = (patient.diagnose(each)[1].mfu for each in (run, before))
    if reached > TARGET:
        return Verdict(True, f"MFU {reached:.0%}, before {was:.0%}.")
    flops = patient.diagnose(run)[0].flops
    most = max(flops, key=lambda rank: flops[rank])
    rows = {"tried": show(answer), "expected": f"MFU above {TARGET:.0%}", "got": f"MFU {reached:.0%}"}
    look = f"rank {most} still has the most FLOPs, {flops[most] / min(flops.values()):.1f} times the least."
    return Verdict(False, look, "give it fewer blocks. The output layer is work, too.", rows)


@cache
def _split_run(split: tuple[int, ...]) -> Run:
    return _seventh()[0].run(split=split)


def third_layout(answer: Any) -> Result:
    """`answer`: a `lab.Layout` of patient C's four ranks with which its MFU passes the target. The step is run."""
    return examine_value("third_layout", answer, "a lab.Layout of four ranks", _laid_out)


def _laid_out(answer: Any) -> Verdict | None:
    if not isinstance(answer, Layout) or answer.ranks != 4:
        return None
    patient = ward()[THIRD]
    try:
        answer.check(patient.config, patient.batch, patient.config.max_seq)
    except ValueError as error:  # the layout's own words: what does not divide, and what would
        return Verdict(False, f"{error}.", "begin from dp=4, and change one thing at a time.")
    mfu_of, exposed = _third(answer)
    rows = {"tried": str(answer), "expected": f"MFU above {THIRD_TARGET:.0%}", "got": f"MFU {mfu_of:.0%}"}
    if mfu_of > THIRD_TARGET:
        return Verdict(True, f"MFU {mfu_of:.0%}. Exposed, by axis: {exposed}.")
    cure = "no tensor parallelism between nodes: dp=4, and gradients that leave block by block, as in ZeRO 2 and 3."
    return Verdict(False, f"exposed, by axis: {exposed}. What travels there, and when could it leave?", cure, rows)


@cache
def _third(layout: Layout) -> tuple[float, str]:
    """MFU of patient C in another layout, and which axes' traffic is exposed."""
    patient = ward()[THIRD]
    run = patient.run(layout=layout)
    axes = {axis: share for axis, share in exposed_by_axis(run).items() if share > 0.01}
    return patient.diagnose(run)[1].mfu, ", ".join(f"{axis} {share:.0%}" for axis, share in axes.items()) or "none"


@cache
def _seventh() -> tuple[Patient, Run]:
    patient = ward()[SEVENTH]
    return patient, patient.run()
