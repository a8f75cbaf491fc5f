"""A model of which only a part is here, used as the whole one. Seam: `whole`.

Whoever splits a model leaves on it, as `model.whole`, what answers for the whole of it; whoever reads a model asks
there, and need not know how it was split. A training step that holds a model may be given in the model's place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from llmlab.arguments import instance
from llmlab.model.attention import KVCache


@runtime_checkable
class Whole(Protocol):
    """What a split model still does as one. Everybody who holds a part asks for the same, and gets the same."""

    def logits(self, tokens: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """[B, T] -> [B, T, V]."""

    def last_logits(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        caches: Sequence[KVCache] | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Compute the logits of the token after the last, [B, T] -> [B, V], or of some rows only: [C, V]."""

    def loss_sum(
        self, tokens: Tensor, targets: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Compute the cross-entropy in nats, summed over the targets: no label smoothing, no balancing loss."""

    def make_caches(self, batch: int, length: int) -> list[KVCache] | None:
        """Make empty caches for what is held here; None where texts have to be read anew for every token."""


def model_of(call: str, given: Any) -> nn.Module:
    """Give the model itself, or the one that a step holds. Raises ValueError for anything else."""
    held = given if isinstance(given, nn.Module) else getattr(given, "model", None)
    return instance(call, "model", given if held is None else held, nn.Module, "or a step that `parallelize` made")


def whole_of(given: Any) -> Whole | None:
    """Give what answers for the whole of a split model, or of a step's; None for a model that is in one piece."""
    own: Whole | None = getattr(given, "whole", None)
    return getattr(getattr(given, "model", None), "whole", None) if own is None else own


@contextmanager
def used_whole(call: str, given: Any) -> Iterator[nn.Module]:
    """Within, calling the model gives the whole one's logits, also where only a part of it is here."""
    model, whole = model_of(call, given), whole_of(given)
    if whole is None:
        yield model
        return
    before = vars(model).get("forward")
    model.forward = whole.logits
    try:
        yield model
    finally:
        del model.forward
        if before is not None:
            model.forward = before


def check_in_one_piece(call: str, model: nn.Module) -> None:
    """Refuse a split model. Raises ValueError with what to take instead."""
    if (whole := whole_of(model)) is not None:
        raise ValueError(
            f"{call} wants a model in one piece, got a part of one, {whole!r}: give it a model that has loaded "
            "step.state_dict(), the whole model's weights"
        )
