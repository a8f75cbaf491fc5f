"""Pipeline parallelism: each rank holds some consecutive blocks; microbatches go through the ranks one after another.

    rank 0   embedding, blocks 0 1    F0 F1 F2 .  .  B0 .  B1 .  B2      F: forward of a microbatch, activations sent on
    rank 1   blocks 2 3                  F0 F1 .  B0 F2 B1 .  B2         B: its backward, gradients sent back
    rank 2   blocks 4 5, norm, head         F0 B0 F1 B1 F2 B2

Huang et al. 2019, "GPipe", section 2; Narayanan et al. 2021, "Efficient large-scale language model training on GPU
clusters using Megatron-LM", section 2.2. The order of work is a `Schedule`: data, interpreted here. Seam: `blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from llmlab.arguments import instance
from llmlab.comm.group import Group
from llmlab.model import IGNORE, Block, Transformer
from llmlab.parallel.mail import Mail
from llmlab.parallel.microbatches import Microbatch
from llmlab.parallel.part_gradients import OneStage, note_part
from llmlab.parallel.placement import check_not_laid_out
from llmlab.parallel.schedules import Action, Schedule, make_schedule
from llmlab.parallel.stages import Stage, cut, split_layers
from llmlab.parallel.timetable import check
from llmlab.parallel.whole import Caches, Read, check_not_split, note_split
from llmlab.parallel.zero_bubble import DeferredWeights, Product, defer_weights, pay

OnBackward = Callable[[list[nn.Parameter]], None]


def pipeline_parallel(
    model: Transformer,
    group: Group,
    schedule: str | Schedule = "1f1b",
    microbatches: int = 4,
    virtual_stages: int = 1,
    split: Sequence[int] | None = None,
) -> Pipeline:
    """Keep this rank's part of the model, in place, and give what runs it. Every rank brings the same whole model.

    The embedding stays with the first stage, final norm and output layer with the last; a tied table with both.
    schedule: a name, for so many `microbatches` and `virtual_stages` (stages per rank; "interleaved" only), or a
    Schedule of one's own.  split: blocks per stage (None: as even as can be). Raises ValueError for any model but a
    plain Transformer that is not cut yet, a schedule that does not run, and a split that does not fit.
    """
    if type(model) is not Transformer:
        raise ValueError(f"pipeline_parallel wants a plain Transformer, one list of blocks; got {type(model).__name__}")
    instance("pipeline_parallel", "group", group, Group, "the worker's first argument")
    check_not_split("pipeline_parallel", model, "pp")
    check_not_laid_out("pipeline_parallel", model)
    if isinstance(schedule, str):
        schedule = make_schedule(schedule, group.size, microbatches, virtual_stages)
    if len(check(schedule).actions) != group.size:
        raise ValueError(f"a schedule wants a line for each rank of {group}, got {len(schedule.actions)}")
    sizes = split_layers(len(model.blocks), schedule.stages, split)
    table = model.head.weight if model.tied else None
    assert table is None or isinstance(table, nn.Parameter)
    stages = cut(model, schedule, group.rank, sizes)
    model.to(group.device)
    deferred = defer_weights(model) if schedule.splits_backward else None
    pipeline = Pipeline(model, group, schedule, stages, table, deferred)
    if group.size > 1:
        for parameter in model.parameters():
            note_part(parameter, OneStage())
        last, pieces = schedule.rank_of(schedule.stages - 1), schedule.microbatches
        note_split(model, pp=group, last=last, run=pipeline.forward, pieces=pieces)
    return pipeline


@dataclass(eq=False)
class Pipeline:
    """One rank's part of a pipeline: `forward_backward` for the usual step, `run` for those who split batches."""

    model: Transformer
    group: Group
    schedule: Schedule
    stages: dict[int, Stage]  # those of this rank, by number
    table: nn.Parameter | None  # a tied one, whether it is held here or not
    deferred: DeferredWeights | None

    def __repr__(self) -> str:
        held = {f"stage {n}": f"{len(stage.blocks)} blocks" for n, stage in self.stages.items()}
        return f"Pipeline({self.schedule!r}, rank {self.group.rank} holds {held})"

    @property
    def chunks(self) -> list[list[nn.Parameter]]:
        """The parameters of each stage held here."""
        return [stage.parameters for stage in self.stages.values()]

    def forward_backward(
        self, tokens: Tensor, targets: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Make the gradients of the mean loss of this batch, [B, T] on every rank; give that loss, on every rank.

        Microbatch i is the i-th of equal parts of the batch, and so of positions and mask where they have rows of it.
        """
        for name, value in (("tokens", tokens), ("targets", targets)):
            instance("forward_backward", name, value, Tensor)
        m, count = self.schedule.microbatches, (targets != IGNORE).sum()
        if tokens.shape[0] % m:
            raise ValueError(f"a batch of {tokens.shape[0]} does not split into {m} microbatches")
        whole, n_row = Microbatch(tokens, targets, positions, mask), tokens.shape[0] // m
        scale = 1 / count.clamp(min=1).double()  # without a target the loss is nan and gradients are 0
        loss_sum = self.run([whole.rows(slice(i * n_row, (i + 1) * n_row)) for i in range(m)], scale)
        self.sum_tied()
        return self.group.all_reduce(loss_sum) / count

    def run(
        self, batches: Sequence[Microbatch], scale: float | Tensor, on_backward: OnBackward | None = None
    ) -> Tensor:
        """Take all microbatches forward and backward as the schedule says; give this rank's part of the loss sum.

        batches: the same on every rank. Gradients of `scale` times the loss sum add up in the parameters; those of a
        tied table are left to `sum_tied`.  on_backward(parameters): called when a microbatch has made its last gradient
        of a stage's parameters.
        """
        if len(batches) != self.schedule.microbatches:
            raise ValueError(f"{self!r} wants {self.schedule.microbatches} microbatches, got {len(batches)}")
        return Interpreter(self, [self._complete(batch) for batch in batches], scale, on_backward).run()

    def forward(self, batches: Sequence[Microbatch], read: Read, caches: Caches | None = None) -> list[Tensor]:
        """Take microbatches forward only, at most as many as the schedule has, in its order; keep nothing of them.

        Give what `read` makes of each: on the last stage's rank, and nothing elsewhere.
        """
        schedule = self.schedule.forward_only(len(batches))
        mail = Mail(self.group, schedule, partial(like, self, batches))
        found: dict[int, Tensor] = {}
        for action in asked_early(schedule.actions[self.group.rank], mail):
            stage, batch = self.stages[action.stage], batches[action.microbatch]
            x = None if stage.first else mail.take(action)
            with self.group.span(str(action)):
                x = stage.features(batch, x, caches)
                if stage.last:
                    found[action.microbatch] = read(batch, x)
            if not stage.last:
                mail.hand_on(action, x)
        mail.close()
        return [found[i] for i in sorted(found)]

    @property
    def shared_table(self) -> nn.Parameter | None:
        """A tied table that this rank and one other hold, and train; else None: one rank may have both ends."""
        first, last = self._ends()
        split = self.table is not None and self.table.requires_grad and first != last
        return self.table if split and self.group.rank in (first, last) else None

    @torch.no_grad()
    def sum_tied(self, owned: Tensor | None = None) -> None:
        """Add up the two gradients of a tied table that the first and the last stage hold, on both; nothing elsewhere.

        owned: what holds this rank's gradient, where that is not the table itself but a piece of it (ZeRO).
        """
        owned = self.shared_table if owned is None else owned
        if owned is None:
            return
        first, last = self._ends()
        peer = last if self.group.rank == first else first
        grad = torch.zeros_like(owned) if owned.grad is None else owned.grad
        sending = self.group.isend(grad, peer)
        other = self.group.recv(grad, peer)
        sending.wait()
        owned.grad = grad + other  # a + b = b + a, to the bit

    def _ends(self) -> tuple[int, int]:
        """The ranks of the first and the last stage."""
        return self.schedule.rank_of(0), self.schedule.rank_of(self.schedule.stages - 1)

    def _complete(self, batch: Microbatch) -> Microbatch:
        """Fill in what was left out. Raises ValueError, on every rank alike, for more tokens than the model takes."""
        self.model.check_length(batch.tokens)
        if batch.positions is not None:
            return batch
        return replace(batch, positions=torch.arange(batch.tokens.shape[1], device=batch.tokens.device))


@dataclass
class Held:
    """What a stage keeps of a microbatch from its forward until its last gradient is made."""

    x: Tensor | None  # what it took: its gradient is sent back
    y: GradientEdge | None  # not the tensor: nothing here needs its numbers
    loss: Tensor | None
    owed: list[Product] = field(default_factory=list)  # for W


class Interpreter:
    """One run of a pipeline's schedule over the microbatches of a batch."""

    def __init__(self, pipeline: Pipeline, batches: list[Microbatch], scale: Any, on_backward: OnBackward | None):
        self.pipeline, self.batches, self.scale, self.on_backward = pipeline, batches, scale, on_backward
        self.held: dict[tuple[int, int], Held] = {}
        self.first = pipeline.model.place.forwards
        parameter = next(pipeline.model.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self.mail = Mail(pipeline.group, pipeline.schedule, partial(like, pipeline, batches))
        wide = torch.promote_types(self.dtype, torch.float32)
        self.loss_sum = torch.zeros((), dtype=wide, device=self.device)

    def run(self) -> Tensor:
        """Interpret this rank's list."""
        do = {"F": self.forward, "B": self.backward, "W": self.weights}
        actions = self.pipeline.schedule.actions[self.pipeline.group.rank]
        for action in asked_early(actions, self.mail):
            do[action.kind](action)
            if self.on_backward is not None and self.pipeline.schedule.last(action):
                self.on_backward(self.pipeline.stages[action.stage].parameters)
        self.mail.close()
        self.count(len(self.batches))
        return self.loss_sum

    def forward(self, action: Action) -> None:
        stage, batch = self.pipeline.stages[action.stage], self.batches[action.microbatch]
        x = None if stage.first else self.mail.take(action).requires_grad_()
        self.count(action.microbatch)
        with self.pipeline.group.span(str(action)):
            y, loss = stage.forward(batch, x)
        edge = get_gradient_edge(y) if y is not None and y.requires_grad else None
        self.held[action.stage, action.microbatch] = Held(x, edge, loss)
        if loss is not None:
            self.loss_sum += loss.detach()
        if y is not None:
            self.mail.hand_on(action, y.detach())

    def count(self, microbatches: int) -> None:
        """Tell dropout how many forwards one process has had before this one, in whatever order they come here."""
        if self.pipeline.model.training:
            self.pipeline.model.place.resume(self.first + microbatches)

    def backward(self, action: Action) -> None:
        stage, held = self.pipeline.stages[action.stage], self.held[action.stage, action.microbatch]
        ends: list[tuple[Any, Tensor]] = []
        if not stage.last:
            dy = self.mail.take(action)
            ends += [(held.y, dy)] if held.y is not None else []
        if held.loss is not None and held.loss.requires_grad:
            ends.append((held.loss, torch.ones_like(held.loss).mul_(self.scale)))
        with self.pipeline.group.span(str(action)):
            if ends:
                torch.autograd.backward([end for end, _ in ends], [grad for _, grad in ends])
        if self.pipeline.deferred is not None:
            held.owed = self.pipeline.deferred.collect()
        if held.x is not None:
            assert held.x.grad is not None
            self.mail.hand_on(action, held.x.grad)
        held.x = held.y = held.loss = None
        if self.pipeline.schedule.last(action):
            del self.held[action.stage, action.microbatch]

    def weights(self, action: Action) -> None:
        with self.pipeline.group.span(str(action)):
            pay(self.held.pop((action.stage, action.microbatch)).owed)


def asked_early(actions: Sequence[Action], mail: Mail) -> Iterator[Action]:
    """Go through a rank's list. Each message is asked for one action early, so that it travels meanwhile."""
    for action, following in zip(actions, [*actions[1:], None], strict=True):
        for asked in (action, following):
            if asked is not None:
                mail.ask(asked)
        yield action


def like(pipeline: Pipeline, batches: Sequence[Microbatch], action: Action) -> Tensor:
    """An empty [b, t, D] as it travels for an action, in the residual stream's dtype."""
    model, (b, t) = pipeline.model, batches[action.microbatch].tokens.shape
    block, parameter = next(iter(model.blocks)), next(model.parameters())
    assert isinstance(block, Block)
    parts = block.attention_dropout.part[1]  # by how many sequence parallelism divides the tokens held here
    return torch.empty(b, t // parts, model.config.d_model, dtype=parameter.dtype, device=parameter.device)
