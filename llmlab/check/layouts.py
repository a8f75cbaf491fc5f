"""Exercises of notebook 29: who sums what, and what a layout needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llmlab.check.examine import Case, Result, examine
from llmlab.check.values import Verdict, examine_value
from llmlab.diagnosing import exposed_by_axis
from llmlab.parallel.layout import Layout

A_FIFTH = 0.2

DEGREES = ((1, 1, 1, 1), (8, 1, 1, 1), (2, 4, 2, 1), (4, 8, 16, 2), (3, 2, 5, 1))


def world_size(answer: Callable[..., Any]) -> Result:
    """`answer(dp, tp, pp, cp, ep)`: the ranks that a layout takes."""
    return examine("world_size", answer, _worlds(answer), "dp x tp x pp x cp; ep folds inside dp x cp.")


def _worlds(answer: Any) -> Iterator[Case]:
    for dp, tp, pp, cp in DEGREES:
        for ep in (1, dp):
            right = dp * tp * pp * cp
            mistakes = [
                (right * ep, "experts take no ranks of their own: ep folds inside dp x cp."),
                (dp * tp * pp, "context parallelism takes ranks, too."),
                (dp + tp + pp + cp, "the axes multiply: every rank has a place on each of them."),
            ]
            what = f"dp={dp}, tp={tp}, pp={pp}, cp={cp}, ep={ep}"
            yield Case(what, partial(answer, dp, tp, pp, cp, ep), right, mistakes)


def gradient_ranks(answer: Callable[..., Any]) -> Result:
    """`answer(kind, dp, tp, pp, cp, ep)`: over how many ranks a parameter's gradient is summed after backward.

    kind: "matrix" (split over tp), "expert" (of an expert MLP, tp = 1 inside it), or "norm" (a norm's gain under
    sequence parallelism).
    """
    hint = "who holds the same numbers, and saw other tokens? dp x cp; for an expert those of other ep groups only."
    return examine("gradient_ranks", answer, _gradients(answer), hint)


def _gradients(answer: Any) -> Iterator[Case]:
    for dp, tp, pp, cp in ((4, 2, 2, 1), (2, 4, 1, 2), (8, 1, 2, 1)):
        ep = 2
        data = dp * cp
        for kind, right in (("matrix", data), ("expert", data // ep), ("norm", data * tp)):
            mistakes = [
                (dp * tp * pp * cp, "the whole world: other stages and other slices hold other parameters."),
                (dp, "a rank along cp has seen other tokens, too: its gradient is a part of the sum."),
                (data, "an expert has seen the tokens of its whole ep group already; a norm's gain under sequence "
                       "parallelism has seen its own slice of the tokens only."),
                (data * tp, "tensor ranks hold different slices of a matrix: there is nothing to add up."),
                (data * ep, "the ranks of an ep group hold different experts."),
            ]  # fmt: skip
            what = f"{kind}: dp={dp}, tp={tp}, pp={pp}, cp={cp}, ep={ep}"
            yield Case(what, partial(answer, kind, dp, tp, pp, cp, ep), right, mistakes)


def global_norm(answer: Callable[..., Any]) -> Result:
    """`answer(squares)`: the norm of the whole gradient.

    squares: for each rank, a list of (sum of squares of one parameter's gradient, ranks that hold the same numbers).
    """
    hint = "every distinct number counts once: divide each sum of squares by the ranks that hold it, add all up, root."
    return examine("global_norm", answer, _norms(answer), hint)


def _norms(answer: Any) -> Iterator[Case]:
    for squares in (
        [[(9.0, 1), (16.0, 2)], [(0.0, 1), (16.0, 2)]],
        [[(2.0, 4), (1.0, 1)]] * 4,
        [[(3.0, 2), (5.0, 4)], [(3.0, 2), (5.0, 4)], [(7.0, 2), (5.0, 4)], [(7.0, 2), (5.0, 4)]],
    ):
        flat = [pair for rank in squares for pair in rank]
        right = sum(s / n for s, n in flat) ** 0.5
        mistakes = [
            (sum(s for s, _ in flat) ** 0.5, "what several ranks hold was counted once for each of them."),
            (sum(s / n for s, n in flat), "that is the square of the norm."),
            (sum(s / n for s, n in squares[0]) ** 0.5, "rank 0's share only: add up over all ranks."),
        ]
        yield Case(f"{len(squares)} ranks", partial(answer, squares), right, mistakes)


def eight_ranks(answer: Any) -> Result:
    """`answer`: a `lab.Layout` of eight ranks whose step takes less than a fifth of the single rank's, on the sliders'
    model. The step is run."""
    return examine_value("eight_ranks", answer, "a lab.Layout of eight ranks", _on_eight)


def _on_eight(answer: Any) -> Verdict | None:
    from llmlab.widgets.layouts import lay_out  # here, for who checks a function waits for no widgets

    if not isinstance(answer, Layout) or answer.ranks != 8:
        return None
    laid = lay_out(**vars(answer))
    if laid.run is None:
        return Verdict(False, f"{laid.why}.", "begin from dp=4, tp=2, and change one thing at a time.")
    share = laid.seconds / lay_out().seconds
    exposed = {axis: part for axis, part in exposed_by_axis(laid.run).items() if part > 0.01}
    says = ", ".join(f"{axis} {part:.0%}" for axis, part in exposed.items()) or "none"
    if share < A_FIFTH:
        return Verdict(
            True, f"{laid.seconds * 1e3:.1f} ms, {share:.1%} of the single rank's. Exposed, by axis: {says}."
        )
    rows = {"tried": str(answer), "expected": f"less than {A_FIFTH:.0%} of the single rank's", "got": f"{share:.1%}"}
    cure = "much dp, and its gradients sent block by block, as in ZeRO-3; or a pipeline whose bubble is filled, zb_h1."
    return Verdict(False, f"exposed, by axis: {says}. What waits there, or what takes the rest?", cure, rows)


def mesh_place(answer: Callable[..., Any]) -> Result:
    """`answer(rank, dp, tp, pp, cp)`: the rank's place on each axis, (pp, dp, cp, tp); tp is innermost."""
    hint = "count as an odometer does: tp turns first, then cp, dp and pp; // and % by the degrees of what is inside."
    return examine("mesh_place", answer, _places(answer), hint)


def _places(answer: Any) -> Iterator[Case]:
    for rank, dp, tp, pp, cp in ((5, 2, 2, 2, 1), (13, 2, 2, 2, 2), (28, 4, 2, 3, 2), (7, 2, 4, 3, 1)):
        right = rank // (tp * cp * dp), rank // (tp * cp) % dp, rank // tp % cp, rank % tp
        mistakes = [
            (right[::-1], "the places are right, in another order: (pp, dp, cp, tp)."),
            ((rank % pp, rank // pp % dp, rank // (pp * dp) % cp, rank // (pp * dp * cp)),
             "so pp would be innermost: tp talks most, its ranks are neighbours."),
            ((rank // (tp * cp * dp), rank // tp % dp, rank // (tp * dp) % cp, rank % tp),
             "context ranks are inside the replicas: cp turns before dp."),
        ]  # fmt: skip
        yield Case(
            f"rank {rank} of dp={dp}, tp={tp}, pp={pp}, cp={cp}", partial(answer, rank, dp, tp, pp, cp), right, mistakes
        )
