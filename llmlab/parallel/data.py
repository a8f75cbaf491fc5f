"""Data parallelism: every rank holds the whole model and computes on its share of the batch; gradients are averaged.

    rank 0: batch 0 -> loss -> gradient --.
    rank 1: batch 1 -> loss -> gradient --+-- all_reduce, times 1/p --> the same gradient, the same step, on every rank
    rank 2: batch 2 -> loss -> gradient --'

Li et al. 2020, "PyTorch Distributed: experiences on accelerating data parallel training", section 3: gradients travel
in buckets, filled in the order in which the backward pass makes them, each sent while the rest is still computed.
Seam: parameter gradients (a post-accumulate hook per parameter). As with torch's DistributedDataParallel, the gradients
are averaged when `loss.backward()` returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function, Variable

from llmlab.arguments import choice, flag, instance, listing, real
from llmlab.comm.group import Group
from llmlab.parallel.buckets import Bucket, make_buckets
from llmlab.parallel.partial_sums import leave_partial, sum_partial
from llmlab.parallel.placement import check_not_laid_out
from llmlab.parallel.rows import deal_rows, deal_rows_by


def data_parallel(
    model: nn.Module,
    group: Group,
    bucket_mb: float = 25,
    overlap: bool = True,
    comm_dtype: torch.dtype | None = None,
    gradient_as_bucket_view: bool = False,
    find_unused_parameters: bool = False,
    init_sync: bool = True,
) -> nn.Module:
    """Average the model's gradients over the group at each backward; give every rank the weights of rank 0. In place.

    bucket_mb: send a bucket once it holds so many MB (2^20 bytes); 0 is one all_reduce per parameter.  overlap: send
    during the backward pass, not after it.  comm_dtype: the dtype in which gradients travel (None: their own).
    gradient_as_bucket_view: `p.grad` is a piece of the bucket, which saves a copy and its memory, but the next backward
    writes over it.  A parameter that some rank did not use counts as zero there; if no rank used it its gradient is
    zero too, or stays None with `find_unused_parameters` (one more, small, all_reduce): the same to SGD, not to weight
    decay.
    """
    instance("data_parallel", "model", model, nn.Module)
    instance("data_parallel", "group", group, Group, "the worker's first argument")
    _check(bucket_mb, overlap, comm_dtype)
    for name, value in (
        ("gradient_as_bucket_view", gradient_as_bucket_view), ("find_unused_parameters", find_unused_parameters),
        ("init_sync", init_sync),
    ):  # fmt: skip
        flag("data_parallel", name, value)
    check_not_laid_out("data_parallel", model)
    model.to(group.device)
    if init_sync:
        broadcast_weights(model, group)
    deal_rows(model, group)
    vars(model)["reducer"] = reduce_gradients(  # not a submodule, nor anything of the model's state
        model.parameters(), group, bucket_mb, overlap, comm_dtype, gradient_as_bucket_view, find_unused_parameters
    )
    return model


def reduce_gradients(
    parameters: Iterable[nn.Parameter],
    group: Group,
    bucket_mb: float = 25,
    overlap: bool = True,
    comm_dtype: torch.dtype | None = None,
    as_view: bool = False,
    find_unused: bool = False,
    op: str = "avg",
    finish_with_backward: bool = True,
) -> Reducer:
    """Put data_parallel's hooks on these parameters only.

    op: "avg", or "sum" where the loss is divided already.  finish_with_backward: False where the caller calls `finish`,
    once per step, because a backward pass may meet none of these parameters.
    """
    parameters = listing("reduce_gradients", "parameters", parameters, "parameters")
    _check(bucket_mb, overlap, comm_dtype)
    choice("reduce_gradients", "op", op, ("avg", "sum"))
    deal_rows_by(parameters, group)
    trained = [p for p in parameters if p.requires_grad]
    leave_partial(trained)  # `finish` adds them up, once all that comes together has
    if op == "sum" and finish_with_backward:  # a mean again and again is itself, and a sum is not: backward may come
        _multiply(trained, group.size)  # twice before a step, without no_sync, to gradients that are summed already
        op = "avg"
    buckets = [Bucket(ps, group, comm_dtype) for ps in make_buckets(trained, bucket_mb)]
    reducer = Reducer(group, buckets, overlap, as_view, find_unused, op, finish_with_backward)
    reducer.watch()
    return reducer


def _multiply(parameters: Iterable[nn.Parameter], n: int) -> None:
    """Let each backward add n times its gradient, so that the mean over n ranks is their sum."""

    def times(grad: Tensor) -> Tensor:
        return grad * n

    for parameter in parameters:
        parameter.register_hook(times)


def _check(bucket_mb: float, overlap: bool, comm_dtype: torch.dtype | None) -> None:
    real("data_parallel", "bucket_mb", bucket_mb, least=0)
    flag("data_parallel", "overlap", overlap)
    if comm_dtype is not None and not (isinstance(comm_dtype, torch.dtype) and comm_dtype.is_floating_point):
        raise ValueError(f"data_parallel wants comm_dtype as a floating-point torch.dtype, or None; got {comm_dtype!r}")


def broadcast_weights(model: nn.Module, group: Group, src: int = 0) -> None:
    """One -> Replicate: all parameters and buffers as rank `src` has them."""
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            group.broadcast_(tensor, src)


@contextmanager
def no_sync(model: nn.Module) -> Iterator[None]:
    """Accumulate gradients on this rank only; the next backward outside averages all that has come together."""
    reducer = reducer_of(model)
    before, reducer.enabled = reducer.enabled, False
    try:
        yield
    finally:
        reducer.enabled = before


def average_gradients(model: nn.Module) -> None:
    """Average, now, what has come together under `no_sync`."""
    reducer_of(model).finish()


def reducer_of(model: nn.Module) -> Reducer:
    reducer = getattr(model, "reducer", None)
    if not isinstance(reducer, Reducer):
        raise ValueError(f"this wants a model that went through data_parallel, got a plain {type(model).__name__}")
    return reducer


@dataclass(eq=False)
class Reducer:
    """Sends buckets as the backward pass fills them: always all of them, always in the same order on every rank."""

    group: Group
    buckets: list[Bucket]
    overlap: bool
    as_view: bool
    find_unused: bool
    op: str = "avg"
    finish_with_backward: bool = True
    enabled: bool = True
    running: bool = False  # a backward pass is under way and will call finish
    started: int = 0
    bucket_of: dict[nn.Parameter, Bucket] = field(default_factory=dict)

    def __repr__(self) -> str:
        n, when = len(self.buckets), "during" if self.overlap else "after"
        plural = "" if n == 1 else "s"
        return f"Reducer({n} bucket{plural} over {self.group.axis}={self.group.size}, sent {when} backward)"

    def __deepcopy__(self, memo: object) -> Reducer:
        raise ValueError(
            "copy.deepcopy wants a model that is not data parallel, as nothing would average the copy's gradients: "
            "copy it before data_parallel(), or keep model.state_dict()"
        )

    def watch(self) -> None:
        """Put the hook on every parameter."""

        def average(parameter: nn.Parameter) -> None:
            if self.enabled:
                self.ready(parameter)

        for bucket in self.buckets:
            for parameter in bucket.parameters:
                self.bucket_of[parameter] = bucket
                parameter.register_post_accumulate_grad_hook(average)

    def ready(self, parameter: nn.Parameter) -> None:
        """Note that a gradient is there; start every bucket that is full and whose turn it is."""
        if not self.running and self.finish_with_backward:
            self.running = True
            Variable._execution_engine.queue_callback(self.finish)  # called once, when the backward pass ends
        self.bucket_of[parameter].missing -= 1
        while self.overlap and self.started < len(self.buckets) and self.buckets[self.started].missing <= 0:
            self.start_next()

    def start_next(self) -> None:
        self.buckets[self.started].start(self.group, self.op)
        self.started += 1

    def finish(self) -> None:
        """Start the buckets that never filled (a parameter was not used here), wait for all, be ready for the next."""
        used = {p: p.grad is not None for p in self.bucket_of}
        while self.started < len(self.buckets):
            self.start_next()
        unused = self.unused_everywhere(used) if self.find_unused else []  # after the buckets: on every rank alike
        for bucket in self.buckets:
            bucket.finish(self.as_view)
        sum_partial(self.bucket_of)
        for parameter in unused:
            parameter.grad = None
        self.started, self.running = 0, False

    def unused_everywhere(self, used: dict[nn.Parameter, bool]) -> list[nn.Parameter]:
        """The parameters that have a gradient on no rank."""
        flags = torch.tensor(list(used.values()), dtype=torch.uint8, device=self.group.device)
        flags = self.group.all_reduce(flags, "max")
        if flags.device.type == "meta":  # ranks are alike there: what this one used, all used
            return [p for p, here in used.items() if not here]
        return [p for p, anywhere in zip(used, flags.tolist(), strict=True) if not anywhere]


def shares_by_speed(n: int, speeds: Sequence[float]) -> list[int]:
    """Deal n sequences out to ranks of unequal speed, in proportion, so that all end soonest; weigh by `global_mean`.

    speeds: sequences a second, one per rank. Raises ValueError for a speed that is not above 0.
    """
    if not speeds or not all(speed > 0 for speed in speeds):
        raise ValueError(f"shares_by_speed wants a speed above 0 for each rank, got {list(speeds)}")
    shares = [0] * len(speeds)
    for _ in range(n):  # each to the rank that would end its next one first
        first = min(range(len(speeds)), key=lambda rank: (shares[rank] + 1) / speeds[rank])
        shares[first] += 1
    return shares


def global_mean(loss_sum: Tensor, count: int | Tensor, group: Group) -> Tensor:
    """Mean loss over all target tokens of all ranks, from each rank's sum and its number of target tokens.

    Ranks with more targets weigh more, in the value and in the gradient: the mean of the ranks' means would be wrong.
    The gradient is made for data_parallel, which averages over ranks. When gradients are accumulated, `count` is this
    rank's count of the whole step, and the micro-batches' values add up to the step's mean.
    Without a target on any rank it is nan, with gradients of 0.
    """
    return _GlobalMean.apply(loss_sum, count, group)


class _GlobalMean(Function):
    @staticmethod
    def forward(ctx: Any, loss_sum: Tensor, count: int | Tensor, group: Group) -> Tensor:
        here = torch.stack([loss_sum.double(), torch.as_tensor(count, dtype=torch.float64, device=loss_sum.device)])
        total, n_target = group.all_reduce(here)
        ctx.scale = group.size / n_target.clamp(min=1)  # averaging divides by group.size again
        return (total / n_target).to(loss_sum.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        return (grad * ctx.scale).to(grad.dtype), None, None
