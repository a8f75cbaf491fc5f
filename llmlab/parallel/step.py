"""One training step of a model that was laid out over ranks: forward, backward, sums, clipping, update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llmlab.evaluate import mean_loss
from llmlab.evaluate.scores import Batch
from llmlab.generation import generate
from llmlab.generation.prompts import Prompts
from llmlab.model import IGNORE, Transformer
from llmlab.optim import LossScaler, clip_grad_norm
from llmlab.parallel.axes import Axes
from llmlab.parallel.context import columns
from llmlab.parallel.gathering import Gathering
from llmlab.parallel.layout import Layout
from llmlab.parallel.microbatches import Microbatch, check_batch
from llmlab.parallel.pipeline import Pipeline
from llmlab.parallel.stages import Stage
from llmlab.parallel.whole import SplitModel


class Gradients(Protocol):
    """How gradients and updates cross the data axis: Replicas, or a stage of ZeRO."""

    @property
    def owned(self) -> Mapping[nn.Parameter, Tensor]:
        """What this rank's optimizer updates for each parameter, its gradient beside it."""

    def adopt(self, optimizer: torch.optim.Optimizer) -> None: ...
    def no_sync(self) -> AbstractContextManager[None]: ...
    def reduce(self, parameters: Iterable[nn.Parameter]) -> None: ...
    def finish(self) -> None: ...
    def publish(self) -> None: ...
    def whole(self, parameter: nn.Parameter) -> Tensor: ...
    def whole_gradient(self, parameter: nn.Parameter) -> Tensor: ...


@dataclass(eq=False)
class Step:
    """loss = step(tokens, targets): made by `parallelize`.

    model: what this rank keeps of it.  whole: what the ranks' models do together as one.  optimizer: over what this
    rank owns; its learning rates may be changed between steps.  grad_norm: the global norm of the last
    step's gradients, if it clips.
    """

    model: Transformer
    whole: SplitModel
    optimizer: torch.optim.Optimizer
    layout: Layout
    axes: Axes
    gradients: Gradients
    run: Callable[[list[Microbatch], Tensor], Tensor]  # forward and backward of all microbatches -> the loss sum here
    gathering: Gathering
    pipeline: Pipeline | None
    copies: dict[nn.Parameter, int]  # ranks of the world that own the same elements
    clip: float | None = None
    scaler: LossScaler | None = None
    autocast: torch.dtype | None = None
    n_step: int = 0
    grad_norm: Tensor | None = None

    def __call__(
        self, tokens: Tensor, targets: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Train on one global batch, given whole on every rank; return its mean loss, from before the update.

        tokens, targets: [B, T], targets of -100 do not count.  positions: [T] or [B, T], default 0 .. T-1.  mask:
        [B or 1, 1, T, T], True where a token may look.  Raises ValueError for a batch the layout cannot split.
        """
        self._check(tokens, targets, positions, mask)
        n_target = (targets.to(self.axes.world.device) != IGNORE).sum().to(self._sum_dtype())
        for parameter, owned in self.gradients.owned.items():
            parameter.grad = owned.grad = None
        scale = (1.0 if self.scaler is None else self.scaler.value) / n_target
        with self._precision():
            total = self.run(self._microbatches(tokens, targets, positions, mask), scale)
        self.gradients.finish()
        if self.pipeline is not None and (table := self.pipeline.shared_table) is not None:
            self.pipeline.sum_tied(self.gradients.owned[table])
        self._update()
        self.n_step += 1
        return self.axes.losses.all_reduce(total.to(n_target.dtype)) / n_target

    def evaluate(self, batches: Iterable[Batch]) -> float:
        """Compute the cross-entropy in nats per target token, as `lab.evaluate.mean_loss` does for a whole model.

        batches: (tokens, targets), or (tokens, positions, mask, targets), each whole on every rank and of any size: the
        replicas share its rows. No label smoothing, no balancing loss, no dropout. The same on every rank.
        """
        return mean_loss(self, batches)

    def logits(self, tokens: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Take tokens forward only, [B, T] -> [B, T, V] on every rank, given whole on every rank; without gradients."""
        return self.whole.logits(tokens, positions, mask)

    def generate(self, prompt_ids: Prompts, *choices: Any, **more: Any) -> Tensor | list[Tensor]:
        """Continue prompts, given on every rank; give the same texts on every rank. Arguments: those of `lab.generate`.

        A cache is kept by heads under tensor parallelism and by layers in a pipeline. Where the tokens of a text are
        spread over ranks (context and sequence parallelism) there is none, whatever `use_cache` says.
        """
        return generate(self, prompt_ids, *choices, **more)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights with the single process's names and shapes, on every rank."""
        return self.gathering.gather(self.gradients.whole)

    def grad_dict(self) -> dict[str, Tensor]:
        """The last step's gradients with the single process's names and shapes, on every rank; none counts as zero."""
        return self.gathering.gather(self.gradients.whole_gradient)

    # --- the batch --------------------------------------------------------------------------------------------------

    def _microbatches(
        self, tokens: Tensor, targets: Tensor, positions: Tensor | None, mask: Tensor | None
    ) -> list[Microbatch]:
        """Cut this rank's part out of the batch: microbatch i of all replicas together is its i-th m-th."""
        batch, seq = tokens.shape
        device, n_row = self.axes.world.device, batch // (self.layout.microbatches * self.layout.dp)
        held = columns(seq, self.axes.cp, self.layout.context)
        whole = Microbatch(tokens, targets, positions, mask)
        rows = [(i * self.layout.dp + self.axes.dp.rank) * n_row for i in range(self.layout.microbatches)]
        return [whole.rows(slice(row, row + n_row)).columns(held).on(device) for row in rows]

    def _check(self, tokens: Tensor, targets: Tensor, positions: Tensor | None, mask: Tensor | None) -> None:
        check_batch(self.model, Microbatch(tokens, targets, positions, mask))
        self.layout.check_batch(*tokens.shape)
        if not targets.is_meta and not bool((targets != IGNORE).any()):
            raise ValueError("a step wants at least one target token, got none")

    def _precision(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.axes.world.device.type, self.autocast)

    def _sum_dtype(self) -> torch.dtype:
        """The parameters' dtype, of all stages alike, and no less than fp32."""
        return reduce(torch.promote_types, (x.dtype for x in self.gathering.like.values()), torch.float32)

    # --- the update -------------------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Clip and step, or leave the step out if any rank's gradients overflowed."""
        owned = [x for x in self.gradients.owned.values() if x.requires_grad]
        finite = None
        if self.scaler is not None:
            finite = self.axes.world.all_reduce(
                self.scaler.unscale(owned).to(self.axes.world.device), "min"
            )  # one rank's veto is everyone's
        if self.clip is not None:
            self.grad_norm = self._norm()
            clip_grad_norm(owned, self.clip, self.grad_norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer, finite)
        self.gradients.publish()

    def _norm(self) -> Tensor:
        """The norm of the whole model's gradient: every element once, however many ranks hold it."""
        dtype, device = self._sum_dtype(), self.axes.world.device
        squares = [
            owned.grad.to(dtype).square().sum() / self.copies[parameter]
            for parameter, owned in self.gradients.owned.items()
            if owned.grad is not None
        ]
        here = torch.stack(squares).sum() if squares else torch.zeros((), dtype=dtype, device=device)
        return self.axes.world.all_reduce(here).sqrt()


def accumulate(
    stage: Stage, batches: Iterable[Microbatch], scale: Tensor, quiet: Callable[[], AbstractContextManager[None]]
) -> Tensor:
    """Forward and backward of each microbatch in turn, on one stage; gradients are sent during the last backward.

    Returns the loss sum, detached. `quiet`: the context in which the others' gradients pile up.
    """
    batches, total = list(batches), torch.zeros((), dtype=scale.dtype, device=scale.device)
    for i, batch in enumerate(batches):
        with nullcontext() if i == len(batches) - 1 else quiet():
            _, loss = stage.forward(batch, None)
            assert loss is not None
            (loss * scale).backward()
        total += loss.detach()
    return total
