"""Dropout whose mask does not depend on the layout (Srivastava et al. 2014).

The rule: every dropout of a model counts how often it has been asked for a mask, which is once in each forward in
training mode. Whether it drops an element is a hash of the model's seed, of its own path in the model, of that count,
and of where the element stands in the whole batch: in which sequence, at which token, in which feature. So no two
forwards drop alike, be they steps or microbatches of one step, and no two sequences, whoever holds them; whoever holds
a slice of a batch gets that slice of the one mask without drawing the rest, so replicas, shards of a sequence and
pipeline stages drop together what one process drops that is given all their rows in the order of the ranks. Backward
that recomputes a block repeats its count; evaluation drops nothing and does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor, nn

from llmlab.arguments import real
from llmlab.model.initial import key_of


@dataclass
class Place:
    """Where in the run, and in the whole batch, a model's forward is. One for all dropouts of a model.

    Whoever splits a batch says here what this part of it is; no loop has to.
    """

    part: int = 0  # which of the equal parts of the batch's sequences is held
    parts: int = 1  # and of how many
    row: int | None = None  # number, in the whole batch, of the first sequence held; None: as `part` says
    columns: Callable[[int], Int[Tensor, " T"]] | None = None  # the tokens held of each sequence, so many; None: all
    base: int = 0  # forwards before those in `drawn`
    drawn: dict[str, int] = field(default_factory=dict)  # masks each path has asked for since
    recomputing: bool = False
    counted: Bool[Tensor, "B T"] | None = None  # the tokens that have a target; None: all

    @property
    def forwards(self) -> int:
        """Count the forwards there have been in training mode: what a run that goes on later has to `resume` at."""
        return self.base + max(self.drawn.values(), default=0)

    def resume(self, forwards: int, drawn: Mapping[str, int] | None = None) -> None:
        """Let the next forward be the one after so many, and after those `drawn`."""
        self.base, self.drawn = forwards, dict(drawn or {})

    def count(self, path: str) -> int:
        """Give the number of this mask, and be ready for the next."""
        if torch._C._current_graph_task_id() != -1 and not self.recomputing:  # inside backward
            raise ValueError(
                "a model with dropout wants llmlab.model.recompute(model), which repeats the masks of its forward; "
                "got a forward within backward, as torch.utils.checkpoint makes it"
            )
        before = self.drawn.get(path, 0)
        self.drawn[path] = before + 1
        return self.base + before

    @contextmanager
    def counting(self, counted: Bool[Tensor, "B T"] | None) -> Iterator[None]:
        """Say, for the forward inside, which tokens count."""
        before, self.counted = self.counted, counted
        try:
            yield
        finally:
            self.counted = before

    def remembered(self) -> Place:
        """Copy it, for a recomputation to begin at."""
        return replace(self, drawn=dict(self.drawn), recomputing=True)


class Dropout(nn.Module):
    """Set a share p of the elements to 0 and scale the others by 1 / (1 - p), in training only."""

    def __init__(self, p: float):
        super().__init__()
        self.p = real("Dropout", "p", p, least=0, below=1)
        self.seed, self.path = 0, ""  # set by the model, which knows them
        self.place = Place()
        self.part = (0, 1)  # sequence parallelism: (which, of how many) slices of the tokens come through here

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        if not self.training or self.p == 0:
            return x
        return (x * (1 / (1 - self.p))).masked_fill(self.dropped(x), 0.0)

    def dropped(self, x: Float[Tensor, "B T D"]) -> Bool[Tensor, "B T D"]:
        """Draw the next mask for this slice of the batch: True is dropped."""
        batch, length, width = x.shape
        index, parts = self.part
        if self.place.columns is None:
            columns = torch.arange(index * length, (index + 1) * length, device=x.device)
        else:
            columns = self.place.columns(length * parts).to(x.device).chunk(parts)[index]
        first = self.place.part * batch if self.place.row is None else self.place.row
        rows = torch.arange(first, first + batch, device=x.device)
        key = key_of(self.seed, self.path, self.place.count(self.path)) & 0x7FFFFFFF
        tokens = scramble(scramble(rows.int() + key)[:, None] + columns.int())
        features = scramble(torch.arange(width, dtype=torch.int32, device=x.device) ^ key)
        bits = scramble(tokens[:, :, None] + features)  # [B, T, D], uniform over the int32
        return bits < round(self.p * 2**32) - 2**31


def settle(model: nn.Module, seed: int, place: Place) -> None:
    """Tell each dropout of a model what its masks are drawn from: `place`, which they share, and their own path."""
    for path, module in model.named_modules():
        if hasattr(module, "place"):  # a mixture of experts asks it too: which tokens count
            module.place = place
        if isinstance(module, Dropout):
            module.seed, module.path = seed, path
    note_place(model)


def note_place(model: nn.Module) -> None:
    """Note on a model's parameters where its dropouts draw by: some who split a batch have the parameters only."""
    for place in places(model):
        for parameter in model.parameters():
            vars(parameter)["place"] = place


def place_of(parameter: Tensor) -> Place | None:
    """The place of the dropouts of this parameter's model, or None if there are none."""
    return getattr(parameter, "place", None)


def places(model: nn.Module) -> list[Place]:
    """Find the places that the model's dropouts draw by: none, one, or more if it is made of several models."""
    found = {id(m.place): m.place for m in model.modules() if isinstance(m, Dropout) and m.p > 0}
    return list(found.values())


def scramble(x: Int32[Tensor, "*N"]) -> Int32[Tensor, "*N"]:
    """Mix the bits of each integer: one round of MurmurHash3's finalizer (Appleby 2011); products wrap around."""
    x = x ^ (x >> 16 & 0xFFFF)  # `>>` keeps the sign; the mask makes it a plain shift
    x = x * -0x7A143595
    x = x ^ (x >> 13 & 0x7FFFF)
    return x * -0x3D4D51CB
