"""What one rank holds of a run: its pieces of weights and optimizer state, by the single process's names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmlab.arguments import instance
from llmlab.checkpoint.pieces import Piece, all_of
from llmlab.comm.group import Group
from llmlab.model.dropout import places
from llmlab.optim import LossScaler
from llmlab.parallel.gathering import persistent_buffers
from llmlab.parallel.placement import shard_of
from llmlab.parallel.step import Step
from llmlab.parallel.zero import ZeRO

REMEMBERS = {"diloco": "the outer optimizer's state", "compress_gradients": "what the last gradients left out"}
STEP_WANTED = "the step that `parallelize` gave, or a model and its optimizer"


@dataclass(frozen=True)
class Part:
    """One tensor, or a piece of one. shape: of the whole.  owned: the numbers here, of the piece, in any shape."""

    key: str  # "model/blocks.0.mlp.up.weight", "optimizer/exp_avg/blocks.0.mlp.up.weight"
    shape: tuple[int, ...]
    piece: Piece
    owned: Tensor


@dataclass(eq=False)
class Run:
    """What is saved and loaded: a model or a step, the optimizer, and who else takes part."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    world: Group | None
    names: dict[str, nn.Parameter]  # the single process's -> what this rank has of it
    buffers: dict[str, tuple[nn.Module, str]]  # persistent ones, likewise
    step: Step | None = None

    @classmethod
    def of(cls, call: str, target: Any, optimizer: Any, world: Group | None) -> Run:
        """Take a step, or a model with an optimizer and a world. Raises ValueError for anything else."""
        if isinstance(target, Step):
            if optimizer is not None or world is not None:
                raise ValueError(f"{call} wants a step alone, as it knows its optimizer and its world; got more")
            known = target.gathering
            buffers = persistent_buffers(known.paths)
            return cls(target.model, target.optimizer, target.axes.world, known.held, buffers, target)
        instance(call, "target", target, nn.Module, STEP_WANTED)
        if optimizer is not None:
            instance(call, "optimizer", optimizer, torch.optim.Optimizer, STEP_WANTED)
            if (mode := vars(optimizer).get("mode")) in REMEMBERS:
                raise ValueError(f"{call} cannot keep {REMEMBERS[mode]}, which {mode} has hidden in its step")
        if world is not None:
            instance(call, "world", world, Group, "the worker's first argument")
        _check_by_hand(call, target, world)
        buffers = persistent_buffers({module: path for path, module in target.named_modules()})
        return cls(target, optimizer, world, dict(target.named_parameters()), buffers)

    @property
    def zero(self) -> ZeRO | None:
        found = vars(self.model).get("zero")
        return found if isinstance(found, ZeRO) else None

    @property
    def scaler(self) -> LossScaler | None:
        return None if self.step is None else self.step.scaler

    @property
    def forwards(self) -> int:
        """How often dropouts have drawn: the next masks follow from it."""
        return max((place.forwards for place in places(self.model)), default=0)

    def resume_dropout(self, forwards: int) -> None:
        for place in places(self.model):
            place.resume(forwards)

    def owned(self, parameter: nn.Parameter) -> Tensor:
        """What the optimizer updates for this parameter: its flat piece under ZeRO, else itself."""
        return parameter if self.zero is None else self.zero.owned.get(parameter, parameter)

    def parts(self) -> Iterator[Part]:
        """Weights, buffers and optimizer state here. ValueError for state of another shape than its parameter's."""
        for name, (module, buffer) in self.buffers.items():
            if (value := getattr(module, buffer)) is not None:
                yield Part(f"model/{name}", tuple(value.shape), all_of(value.shape), value)
        for name, parameter in self.names.items():
            owned, shape, piece = self.owned(parameter), whole_shape(parameter), self.piece(parameter)
            yield Part(f"model/{name}", shape, piece, owned)
            for word, value in self.state(owned).items():
                if isinstance(value, Tensor) and value.dim():
                    if value.numel() != owned.numel():
                        raise ValueError(
                            f"checkpoints want optimizer state of its parameter's shape, or single numbers; got {word} "
                            f"of {list(value.shape)} for {name}, of which this rank has {owned.numel()} elements"
                        )
                    yield Part(f"optimizer/{word}/{name}", shape, piece, value)

    def state(self, owned: Tensor) -> dict[str, Any]:
        return {} if self.optimizer is None else self.optimizer.state.get(owned, {})

    def piece(self, parameter: nn.Parameter) -> Piece:
        """Where this rank's numbers of a parameter belong."""
        shard, shape = shard_of(parameter), whole_shape(parameter)
        begin, end = 0, parameter.numel()
        if (zero := self.zero) is not None and parameter in zero.owned:
            begin, end = zero.bucket_of[parameter].extent(parameter)
        if shard is None:
            return Piece(-1, 0, 0, begin, end) if shape else all_of(shape)
        return Piece(shard.dim, shard.group.rank * shard.part, shard.part, begin, end)

    def publish(self) -> None:
        """After weights were written: let every rank have what the others own."""
        if self.zero is not None:
            self.zero.publish()


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The shape it has in one process."""
    shape, shard = list(parameter.shape), shard_of(parameter)
    if shard is not None:
        shape[shard.dim] = shard.size
    return tuple(shape)


def _check_by_hand(call: str, model: nn.Module, world: Group | None) -> None:
    """Refuse a model of which we could not say whose names its blocks have, or who else holds it."""
    if "server" in vars(model):
        raise ValueError(f"{call} wants weights and optimizer state together; got a part of a parameter server")
    if "layout" in vars(model):
        raise ValueError(f"{call} wants, of a model that parallelize has laid out, {STEP_WANTED.split(',')[0]}")
    if getattr(getattr(model, "whole", None), "pp", None) is not None:
        raise ValueError(
            f"{call} wants a pipeline made by parallelize(model, ..., Layout(pp=...), world), which knows the whole "
            "model's names; got one stage of pipeline_parallel"
        )
    split = "zero" in vars(model) or any(shard_of(p) is not None for p in model.parameters())
    if world is None and (split or "reducer" in vars(model)):
        raise ValueError(f"{call} wants world=, the worker's first argument, for a model that is on several ranks")
