"""Where a parameter lies: the slice of the whole that this rank holds, and what its gradient still lacks.

    Replicate     the whole, the same on every rank; the gradient is the same too
    Shard(d)      a slice along dimension d; the gradient is that slice's, and complete
    Partial       (of a gradient) each rank's is one summand: they must be added up before anything is done with them

The words are DTensor's (torch.distributed.tensor). A mode edits `parameter.data` and notes the placement on the
parameter itself, so a parameter stays the same object with the same name, and a tied one stays tied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from llmlab.comm.group import Group
from llmlab.parallel.part_gradients import slice_over


@dataclass(frozen=True)
class Shard:
    """This rank's slice of a tensor of `size` along `dim`. What does not divide is padded with zeros at the end."""

    group: Group
    dim: int
    size: int  # of the whole

    def __repr__(self) -> str:
        return f"Shard({self.dim}) of {self.size} over {self.group.axis}={self.group.size}"

    @property
    def part(self) -> int:
        """The size of each slice, padding included."""
        return -(-self.size // self.group.size)

    def take(self, whole: Tensor) -> Tensor:
        """Replicate -> Shard(dim); nothing is sent."""
        start = min(self.group.rank * self.part, self.size)
        found = whole.narrow(self.dim, start, min(self.part, self.size - start))
        # empty, zero_ and copy_ leave weights that are not on the device yet off it: only the slice will be
        piece = whole.new_empty(*whole.shape[: self.dim], self.part, *whole.shape[self.dim + 1 :]).zero_()
        piece.narrow(self.dim, 0, found.shape[self.dim]).copy_(found)
        return piece

    def gather(self, piece: Tensor) -> Tensor:
        """Shard(dim) -> Replicate, without the padding."""
        whole = self.group.all_gather(piece.detach().movedim(self.dim, 0).contiguous())
        return whole[: self.size].movedim(0, self.dim).contiguous()


def check_not_laid_out(call: str, model: nn.Module) -> None:
    """Refuse a model whose gradients a mode sums already: to sum them twice, or to cut what is summed, would be
    silently wrong."""
    for name, mode in (("reducer", "data_parallel"), ("zero", "zero"), ("layout", "parallelize")):
        if name in vars(model):
            raise ValueError(f"{call} wants a model that nothing has laid out yet, got one that {mode} has")


def shard(parameter: nn.Parameter, group: Group, dim: int) -> None:
    """Keep this rank's slice along `dim`, in place, and note it."""
    placement = Shard(group, dim, parameter.shape[dim])
    parameter.data = placement.take(parameter.data)
    vars(parameter)["shard"] = placement
    slice_over(parameter, group)


def shard_of(parameter: Tensor) -> Shard | None:
    """How this parameter is split, or None if every rank holds the whole."""
    return getattr(parameter, "shard", None)


def mark_partial(parameters: Iterable[Tensor], group: Group) -> None:
    """Note that each rank's gradient of these is one summand of the whole's: see partial_sums.py."""
    for parameter in parameters:
        vars(parameter)["partial_over"] = group


def partial_over(parameter: Tensor) -> Group | None:
    """The group over which this parameter's gradient has still to be added up after backward, or None."""
    return getattr(parameter, "partial_over", None)
