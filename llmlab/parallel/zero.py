"""ZeRO: data parallelism without its redundancy. Each of n ranks keeps an n-th of what all n would keep alike.

    stage   sharded                      sent in a step, of P parameters
    1       optimizer state              reduce_scatter P, all_gather P
    2       and gradients                the same
    3       and the weights themselves   reduce_scatter P, all_gather P for forward and again for backward

Rajbhandari et al. 2020, "ZeRO: memory optimizations toward training trillion parameter models", section 5. Seams:
`optimizer.step` (its parameters become shards) and parameter gradients; stage 3 (zero3.py) also the parameters.
The optimizer must update each element by itself: it sees flat pieces of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from llmlab.arguments import flag, function, instance, real, whole
from llmlab.comm.group import Group
from llmlab.optim import make_over
from llmlab.parallel.families import GroupOf, divided, group_for, parameter_families
from llmlab.parallel.flat import FlatBucket
from llmlab.parallel.part_gradients import PartGradient, held_grad, hold_grad, make_plain, note_part, over
from llmlab.parallel.partial_sums import leave_partial, sum_partial
from llmlab.parallel.placement import check_not_laid_out
from llmlab.parallel.rows import deal_rows
from llmlab.parallel.zero3 import Units


def zero(
    model: nn.Module,
    make_optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
    group: Group,
    stage: int,
    bucket_mb: float = 25,
    prefetch: bool = True,
) -> torch.optim.Optimizer:
    """Shard the model over the group, in place; return an optimizer for the usual loop: backward, step, zero_grad.

    Every rank must give the same weights. Gradients are averaged over ranks. `model.zero` is the ZeRO object, whose
    `no_sync()` accumulates. Norms and clipping, torch's own and `lab.optim`'s, are the whole gradient's, over the
    model's parameters and the optimizer's alike; `model.state_dict()` is whole. Every rank must ask for them, as they
    are collectives. In stage 3 parameters read nan between uses.  Raises ValueError for a stage that is not 1, 2 or 3.
    """
    instance("zero", "model", model, nn.Module)
    function("zero", "make_optimizer", make_optimizer, "parameters")
    instance("zero", "group", group, Group, "the worker's first argument")
    whole("zero", "stage", stage, 1, 3)
    real("zero", "bucket_mb", bucket_mb, least=0)
    flag("zero", "prefetch", prefetch)
    check_not_laid_out("zero", model)
    deal_rows(model, group)
    sharded = ZeRO(model, group, stage, bucket_mb=bucket_mb, prefetch=prefetch)
    optimizer = make_over("zero", make_optimizer, model.parameters())
    sharded.adopt(optimizer)
    vars(optimizer)["mode"] = "zero"
    pieces = [owned for owned in sharded.owned.values() if owned.requires_grad]

    def finish(*_: object) -> None:
        sharded.complete()
        make_plain(pieces)

    def publish(*_: object) -> None:
        sharded.publish()
        show_gradients(sharded)

    show_gradients(sharded)
    optimizer.register_step_pre_hook(finish)
    optimizer.register_step_post_hook(publish)
    return optimizer


class ZeRO:
    """What a model's weights, gradients and optimizer state are sharded by. `model.zero` once it is made.

    group_of: the ranks that hold the same parameters, for all or for each.  op: "avg", or "sum" where the loss is
    divided already.  bucket_mb: the most that travels together, in MB (2^20 bytes); in stage 3 a unit does.
    prefetch: stage 3 fetches the next unit's weights while this one computes.  apart: parameters that get a bucket of
    their own, because they lie in another pipeline stage too and must be cut alike there.

    owned: what this rank's optimizer updates for each parameter: the flat piece, maybe empty, that lies in its shard.
    """

    def __init__(
        self,
        model: nn.Module,
        group_of: GroupOf,
        stage: int,
        op: str = "avg",
        bucket_mb: float = 25,
        prefetch: bool = True,
        apart: Collection[nn.Parameter] = (),
    ):
        if isinstance(stage, bool) or stage not in (1, 2, 3):
            raise ValueError(f"ZeRO wants stage 1, 2 or 3, got {stage!r}")
        if isinstance(getattr(model, "zero", None), ZeRO):
            raise ValueError(f"ZeRO wants a model that is not sharded yet, got one with {vars(model)['zero']}")
        self.stage, self.op, self.prefetch = stage, op, prefetch
        self.syncing = True
        leave_partial(model.parameters())  # `finish` adds them up
        self.buckets = [
            FlatBucket(parameters, group_for(group_of, parameters[0]), whole=stage < 3)
            for family in parameter_families(model)
            for parameters in divided(family, group_of, float("inf") if stage == 3 else bucket_mb, apart)
            if stage == 3 or parameters[0].requires_grad
        ]
        held = {p: piece for bucket in self.buckets for p, piece in bucket.owned.items()}
        # in the model's order, not the buckets': an optimizer numbers its state by it
        self.owned: dict[nn.Parameter, nn.Parameter] = {p: held[p] for p in model.parameters() if p in held}
        self.bucket_of = {p: bucket for bucket in self.buckets for p in bucket.parameters}
        for x in [*model.parameters(), *model.buffers()]:
            if x not in self.bucket_of and self.buckets:  # frozen, or no parameter: every rank keeps it
                x.data = x.to(self.buckets[0].group.device).data
        self.order = [bucket for bucket in reversed(self.buckets) if bucket.trained]  # about that of backward
        self._due = set(self.order)  # buckets that must still be reduced in this step
        self._waiting: dict[FlatBucket, int] = {}  # gradients not yet made in this backward
        self._pending: set[nn.Parameter] = set()  # whose gradients some backward has made since the last `finish`
        self._complete = False  # since the last backward
        self._running = False  # a backward is under way
        self._in_flight: FlatBucket | None = None
        vars(model)["zero"] = self  # not a submodule, nor anything of the model's state
        self.units = Units(prefetch, self.begin_backward, self.reduce_here)
        if stage == 3:
            self.units.cut(model, self.bucket_of)
        self._watch()

    def __deepcopy__(self, memo: object) -> ZeRO:
        raise ValueError(
            "copy.deepcopy wants a model that is not sharded: copy it before zero(), or keep model.state_dict()"
        )

    def __repr__(self) -> str:
        ahead = ", weights fetched ahead" if self.stage == 3 and self.prefetch else ""
        group = self.buckets[0].group if self.buckets else None
        return f"ZeRO(stage {self.stage}, {len(self.buckets)} buckets over {group and group.size} ranks{ahead})"

    def adopt(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer that was made over the model's parameters update the owned pieces instead."""
        if optimizer.state:
            raise ValueError("adopt wants an optimizer that has not stepped yet, got one with state")
        for options in optimizer.param_groups:
            options["params"] = [self.owned.get(p, p) for p in options["params"]]  # shape of p -> its flat piece
        optimizer.register_load_state_dict_post_hook(check_pieces)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Let gradients pile up, whole, on this rank, until `reduce`, `finish` or the next backward outside."""
        before, self.syncing = self.syncing, False
        self._due = set(self.order)
        try:
            yield
        finally:
            self.syncing = before

    def reduce(self, parameters: Iterable[nn.Parameter]) -> None:
        """Partial -> Shard(0), begun now, for all that has piled up for these parameters and those in their buckets.

        A missing gradient counts as zero, so every rank sends the same. Stage 1 leaves it to `finish`.
        """
        if self.stage > 1:
            wanted = {self.bucket_of[p] for p in parameters if p.requires_grad}
            self._reduce(bucket for bucket in self.order if bucket in wanted)

    def finish(self) -> None:
        """After the last backward of a step: complete the gradient of every owned piece."""
        self._reduce(bucket for bucket in self.order if bucket in self._due or bucket.piled)
        self._settle()
        sum_partial(self.owned.values())
        self._due = set(self.order)
        self._pending.clear()

    def complete(self) -> None:
        """Finish, unless nothing has come since: a gradient's norm wants it before the optimizer does."""
        if not self._complete:
            self.finish()
            self._complete = True

    def publish(self) -> None:
        """After optimizer.step(): let all ranks have the new weights. Stage 3 gathers them when it needs them."""
        self.units.stepped()
        self._complete = False
        if self.stage < 3:
            for handle in [bucket.publish() for bucket in self.buckets]:
                handle.wait()

    def whole(self, parameter: nn.Parameter) -> Tensor:
        """Shard(0) -> Replicate: a parameter's weights, gathered on every rank."""
        bucket = self.bucket_of.get(parameter)
        return parameter.detach() if bucket is None else bucket.whole(parameter)

    def whole_gradient(self, parameter: nn.Parameter) -> Tensor:
        """Shard(0) -> Replicate: a parameter's gradient, after `finish`, gathered on every rank; zeros if frozen."""
        bucket = self.bucket_of.get(parameter)
        if bucket is None or not bucket.trained:
            return torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
        return bucket.whole_gradient(parameter)

    # --- gradients on their way -------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Put a hook on every trained parameter."""

        def collect(parameter: nn.Parameter) -> None:
            bucket = self.bucket_of[parameter]
            # where gradients pile up a vector alone makes no buffer: a zero-bubble pipeline has biases' gradients well
            # before those of matrices, and a buffer would stand empty meanwhile
            if self.syncing or parameter.dim() > 1 or bucket.gradient is not None:
                bucket.collect(parameter)  # its gradient is a view of the bucket's buffer from here on
            self.begin_backward()
            self._waiting[bucket] -= 1
            if self.syncing and self.stage == 2:
                self._reduce_full()

        for parameter, bucket in self.bucket_of.items():
            if bucket.trained:
                parameter.register_post_accumulate_grad_hook(collect)

    def begin_backward(self) -> None:
        """The first of a backward's calls here says that its end be told."""
        if self._running:
            return
        self._running, self._complete = True, False
        self._pending.update(p for p, bucket in self.bucket_of.items() if bucket.trained)
        self._waiting = {bucket: len(bucket.parameters) for bucket in self.order}
        if self.syncing:
            self._due = set(self.order)
        Variable._execution_engine.queue_callback(self._end_backward)

    def reduce_here(self, buckets: Iterable[FlatBucket]) -> None:
        """Stage 3: reduce, if it is time to synchronise, at this place in backward, the same on every rank."""
        self.begin_backward()
        if self.syncing:
            self._reduce(bucket for bucket in buckets if bucket.trained)

    def _reduce_full(self) -> None:
        """Reduce the buckets that are full, always in the same order on every rank."""
        for bucket in self.order:
            if bucket in self._due:
                if self._waiting[bucket] > 0:
                    return
                self._reduce([bucket])

    def _end_backward(self) -> None:
        """Reduce the buckets that never filled (a parameter was not used here), and have all of them done."""
        self._running = False
        if self.syncing and self.stage > 1:
            self._reduce(bucket for bucket in self.order if bucket in self._due or bucket.piled)
        self._settle()
        self.units.free()

    def _reduce(self, buckets: Iterable[FlatBucket]) -> None:
        """One after another, one under way at a time: its buffer is then free for the next but one."""
        for bucket in list(buckets):
            self._due.discard(bucket)
            bucket.send(self.op)  # the parameters' gradients are None after it, and the owned pieces' flat once it came
            self._settle()
            self._in_flight = bucket

    def _settle(self) -> None:
        if self._in_flight is not None:
            self._in_flight.receive()
            self._in_flight = None


# --- what a loop sees of gradients ------------------------------------------------------------------------------------

REFUSED = (
    "under ZeRO a parameter's gradient lies in pieces on all ranks: its norm can be taken and it can be scaled, as "
    "clipping does; for its numbers call model.zero.finish() and model.zero.whole_gradient(parameter) on every rank"
)


class Spread:
    """The gradient of one parameter and of its owned piece, as whoever holds the one or the other may ask for it."""

    def __init__(self, zero: ZeRO, parameter: nn.Parameter):
        self.zero, self.parameter, self.owned = zero, parameter, zero.owned[parameter]
        self.over = (zero.bucket_of[parameter].group, *over(parameter))

    def show(self, parameter: nn.Parameter) -> Tensor | None:
        """A gradient without numbers until it is asked for them: reading `grad` sends nothing."""
        here = [held_grad(self.parameter), held_grad(self.owned)]
        if self.parameter not in self.zero._pending and here == [None, None]:
            return None
        refused = REFUSED if parameter is self.parameter else None
        nothing = torch.empty((), dtype=parameter.dtype, device=parameter.device).expand(parameter.shape)
        return PartGradient.of(nothing, self.over, self.complete, refused)

    def complete(self) -> Tensor:
        """Partial -> Shard(0), if it has not been done: the owned piece's gradient."""
        self.zero.complete()
        grad = held_grad(self.owned)
        if grad is None:  # set to None after it was finished
            grad = torch.zeros_like(self.owned)
            hold_grad(self.owned, grad)
        return grad

    def replace(self, parameter: nn.Parameter, grad: Tensor | None) -> None:
        """Forget the gradient, wherever it is. Raises ValueError for one to put in its place."""
        if isinstance(grad, PartGradient) and grad.over == self.over:
            return  # g *= x assigns what it changed in place
        if grad is not None:
            raise ValueError(f"{REFUSED}; got a gradient to put in its place")
        hold_grad(self.parameter, None)
        hold_grad(self.owned, None)
        self.zero._pending.discard(self.parameter)


def show_gradients(zero: ZeRO) -> None:
    """Let `parameter.grad` be what is said above, for the model's parameters and the optimizer's."""
    for parameter, owned in zero.owned.items():
        if owned.requires_grad:
            part = Spread(zero, parameter) if not isinstance(known := vars(parameter).get("part"), Spread) else known
            note_part(parameter, part)
            note_part(owned, part)


def check_pieces(optimizer: torch.optim.Optimizer) -> None:
    """Refuse an optimizer state that was cut for another number of ranks, or for another rank."""
    for group in optimizer.param_groups:
        for piece in group["params"]:
            for name, value in optimizer.state.get(piece, {}).items():
                if isinstance(value, Tensor) and value.dim() and value.shape != piece.shape:
                    raise ValueError(
                        f"ZeRO wants the optimizer state that this rank saved, on as many ranks: {name} of "
                        f"{list(piece.shape)}, got {list(value.shape)}. Weights go anywhere (model.state_dict() is "
                        "whole); an optimizer's state only to ranks as it was cut for"
                    )
