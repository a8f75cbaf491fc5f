"""Exercises of notebook 29: who sums what, and what a layout needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch

from llmlab.check.examine import Case, Result, examine
from llmlab.comm.group import Group
from llmlab.comm.simulator import Simulator
from llmlab.model import Config, Transformer
from llmlab.optim import SGD
from llmlab.parallel.compose import parallelize
from llmlab.parallel.layout import Layout

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


SMALL = Config(vocab_size=256, d_model=64, n_layer=4, n_head=4, max_seq=64)


def fast_layout(answer: Callable[..., Any]) -> Result:
    """`answer()`: a `lab.Layout` of 8 ranks whose step takes less than a fifth of the single rank's.

    Of 16 x 64 tokens, on the model and the cluster of the sliders.
    """
    hint = "what is sent behind the computing costs nothing: which axis sends least that anybody waits for?"
    return examine("fast_layout", answer, _laid(answer), hint)


def _laid(answer: Any) -> Iterator[Case]:
    mistakes = [
        ((0, 0), "write `return lab.Layout(dp=2, tp=4)`, with other degrees."),
        ((0, 1), "dp x tp x pp x cp is how many ranks it takes."),
        ((1, 0), "equal in loss and too slow: look at the timeline for what waits."),
    ]
    yield Case("(8 ranks, below a fifth of the time)", lambda: _verdict(answer()), (1, 1), mistakes)


def _verdict(layout: Any) -> Any:
    """(Whether it takes 8 ranks, whether it is fast enough); (0, 1) for another number, (0, 0) for no layout."""
    if layout is None or layout is ...:
        return layout
    if not isinstance(layout, Layout):
        return 0, 0
    if layout.ranks != 8:
        return 0, 1
    return 1, int(_step_seconds(layout) < _step_seconds(Layout()) / 5)


@cache
def _step_seconds(layout: Layout) -> float:
    """Virtual seconds of the second step; the first one also makes the optimizer's state."""

    def two_steps(world: Group) -> float:
        step = parallelize(Transformer(SMALL), lambda ps: SGD(ps, lr=0.1, momentum=0.9), layout, world)
        tokens = torch.zeros(16, 64, dtype=torch.long)
        float(step(tokens, tokens))  # float() waits for the value, so the host's clock stands where the device's does
        start = world.clock()
        float(step(tokens, tokens))
        return world.clock() - start

    return max(Simulator(layout.ranks, numerics=False, fold=("dp", "tp")).run(two_steps).results)
