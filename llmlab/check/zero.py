"""Exercises of notebook 22: whose numbers are whose, a sharded step by hand, what it keeps and what it sends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmlab.check.examine import Case, Result, examine, run_on_ranks


def shard_bounds(answer: Callable[..., Any]) -> Result:
    """`answer(n, rank, size)`: (start, stop) of the numbers rank keeps of n, equal shares, the last ones may be short.

    The buffer is padded at its end to what size divides; padding is not counted.
    """
    hint = "a share is n / size rounded up; start and stop are at most n."
    return examine("shard_bounds", answer, _bounds(answer), hint)


def _bounds(answer: Any) -> Iterator[Case]:
    for n, rank, size in ((12, 1, 4), (10, 0, 4), (10, 3, 4), (5, 3, 4), (7, 2, 3)):
        part, floor = -(-n // size), n // size
        low, high = rank * part, (rank + 1) * part
        mistakes = [
            ([low, high], "the padding is counted: stop at n."),
            ([rank * floor, (rank + 1) * floor], "rounded down: the numbers left over belong to nobody."),
            ([rank * floor, n if rank == size - 1 else (rank + 1) * floor], "the last rank gets more than its share."),
            ([low, min(high, n)], "start, too, is at most n: a rank may have nothing."),
        ]
        run = partial(_as_list, answer, n, rank, size)
        yield Case(f"{n} numbers, rank {rank} of {size}", run, [min(low, n), min(high, n)], mistakes)


def _as_list(answer: Callable[..., Any], *inputs: int) -> Any:
    bounds = answer(*inputs)
    return list(bounds) if isinstance(bounds, tuple) else bounds


def sharded_step(answer: Callable[..., Any]) -> Result:
    """`answer(world, weights, gradient, lr)`: the new weights, whole, of a step of SGD that each rank makes of a shard.

    weights: [n], the same on every rank; gradient: [n], this rank's own, to be averaged. The number of ranks divides n.
    all_reduce is not needed.
    """
    hint = "reduce_scatter the gradient with op='avg', step on this rank's slice of the weights, all_gather the slices."
    return examine("sharded_step", answer, _steps(answer), hint)


def _steps(answer: Any) -> Iterator[Case]:
    for ranks in (2, 3, 4):
        n, lr = 2 * ranks, 0.5
        weights = torch.arange(n, dtype=torch.float64) + 1
        own = [torch.cos(weights * (rank + 1)) for rank in range(ranks)]
        total = torch.stack(own).sum(0)
        right = weights - lr * total / ranks
        mistakes = [
            ([weights - lr * total] * ranks, "the sum of the gradients: reduce_scatter with op='avg'."),
            ([weights - lr * g for g in own], "each rank's own gradient: nothing was averaged."),
            ([_stale(weights, right, rank, 2) for rank in range(ranks)], "only this rank's slice is new: all_gather."),
            (list(right.chunk(ranks)), "this is this rank's slice of the new weights: all_gather the slices."),
            ([weights + lr * total / ranks] * ranks, "uphill: subtract lr times the gradient."),
        ]
        run = partial(_without_all_reduce, answer, [(weights.clone(), gradient, lr) for gradient in own])
        yield Case(f"{n} weights on {ranks} ranks", run, [right] * ranks, mistakes, per_rank=True)


def _without_all_reduce(answer: Callable[..., Any], inputs: list[tuple[Any, ...]]) -> list[Any]:
    run = run_on_ranks(answer, inputs)
    if len(run.trace.select(op="all_reduce")):
        raise ValueError("an all_reduce was called: asked is a step that does without")
    return run.results


def _stale(old: Tensor, new: Tensor, rank: int, part: int) -> Tensor:
    mixed = old.clone()
    mixed[rank * part : (rank + 1) * part] = new[rank * part : (rank + 1) * part]
    return mixed


def zero_state_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(n_param, ranks, stage)`: bytes of a model's states on each rank; stage 0 shards nothing.

    Weights and gradients in 16 bits; Adam keeps 12 bytes a weight.
    """
    hint = "start from 2 + 2 + 12 bytes a weight; stage 1 divides the 12 by ranks, stage 2 a 2 as well, stage 3 all."
    return examine("zero_state_bytes", answer, _states(answer), hint)


def _states(answer: Any) -> Iterator[Case]:
    for n, ranks, stage in ((7.5e9, 64, 0), (7.5e9, 64, 1), (7.5e9, 64, 2), (7.5e9, 64, 3), (1e6, 4, 2)):
        expected = n * [16, 4 + 12 / ranks, 2 + 14 / ranks, 16 / ranks][stage]
        mistakes = [
            (n * 16 / ranks, "this is stage 3: stages 1 and 2 leave something whole."),
            (n * [16, 4 + 12 / ranks, 2 + 14 / ranks, 2 + 14 / ranks][stage], "stage 3 shards the weights, too."),
            (
                n * [12, 4 + 8 / ranks, 2 + 10 / ranks, 12 / ranks][stage],
                "Adam keeps 12: two moments and fp32 weights.",
            ),
            (n * [16, 4 + 12 / ranks, 4 + 12 / ranks, 16 / ranks][stage], "stage 2 shards the gradients, too."),
        ]
        what = f"{n:.3g} parameters on {ranks} ranks, stage {stage}"
        yield Case(what, partial(answer, n, ranks, stage), expected, mistakes)


def zero_ring_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(n_param, ranks, stage)`: bytes each rank puts on a ring in one step; 16-bit weights and gradients.

    Stage 0 is data parallelism. Stage 3 gathers every weight in forward and again in backward.
    """
    hint = "a reduce_scatter or an all_gather of n bytes sends (ranks - 1) / ranks n; an all_reduce is one of each."
    return examine("zero_ring_bytes", answer, _ring(answer), hint)


def _ring(answer: Any) -> Iterator[Case]:
    for n, ranks, stage in ((1e9, 4, 0), (1e9, 4, 1), (1e9, 64, 2), (1e9, 4, 3), (1e9, 8, 3)):
        pass_bytes = 2 * n * (ranks - 1) / ranks
        times = 3 if stage == 3 else 2
        mistakes = [
            (2 * pass_bytes, "stage 3 gathers twice: for forward and for backward."),
            (times * pass_bytes / 2, "these are numbers: each takes 2 bytes."),
            (times * 2 * n, "a rank does not send what it keeps itself: (ranks - 1) / ranks of it."),
            ((2 if stage == 0 else 3) * pass_bytes, "stages 1 and 2 send what an all_reduce sends."),
            ((4 if stage == 3 else 2) * pass_bytes, "the gradients are not gathered: stage 3 needs only its shard."),
        ]
        what = f"{n:.3g} parameters on {ranks} ranks, stage {stage}"
        yield Case(what, partial(answer, n, ranks, stage), times * pass_bytes, mistakes)


def lowest_stage(answer: Callable[..., Any]) -> Result:
    """`answer(n_param, ranks, memory)`: the lowest stage whose states fit into `memory` bytes a rank; -1 if none.

    Weights and gradients in 16 bits; Adam keeps 12 bytes a weight.
    """
    hint = "a weight takes 16, 4 + 12 / ranks, 2 + 14 / ranks, 16 / ranks bytes in stages 0 to 3: the first that fits."
    return examine("lowest_stage", answer, _lowest(answer), hint)


def _lowest(answer: Any) -> Iterator[Case]:
    for n, ranks, memory in (
        (7.5e9, 64, 80e9),
        (1e9, 8, 80e9),
        (5.5e9, 8, 80e9),
        (40e9, 64, 100e9),
        (175e9, 64, 80e9),
        (1e12, 64, 80e9),
    ):
        stages = [16, 4 + 12 / ranks, 2 + 14 / ranks, 16 / ranks]
        light = [12, 4 + 8 / ranks, 2 + 10 / ranks, 12 / ranks]
        right = _first_below(stages, memory / n)
        mistakes = [
            (3 if right >= 0 else -1, "stage 3 always holds least, and sends most: asked is the lowest that fits."),
            (_first_below([16, 16 / ranks], memory / n), "stage 1 shards Adam's 12 bytes alone: 4 stay whole."),
            (_first_below(light, memory / n), "Adam keeps 12 bytes: two moments, and the weights in fp32."),
            (right if right >= 0 else 3, "it does not fit even in stage 3: -1."),
        ]
        what = f"{n:.3g} parameters on {ranks} ranks of {memory / 1e9:g} GB"
        yield Case(what, partial(answer, n, ranks, memory), right, mistakes)


def _first_below(bytes_a_weight: list[float], most: float) -> int:
    return next((stage for stage, each in enumerate(bytes_a_weight) if each <= most), -1)
