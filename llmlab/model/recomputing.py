"""Activation checkpointing: keep less for backward, compute it again (Chen et al. 2016). Seams: `blocks`, `attend`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

from torch.overrides import _get_current_function_mode_stack as function_modes
from torch.utils.checkpoint import checkpoint

from llmlab.arguments import choice, instance
from llmlab.model.dropout import Place
from llmlab.model.transformer import Block, Transformer


def recompute(model: Transformer, what: str = "full") -> Transformer:
    """Make backward compute again what forward did not keep; results stay the same to the bit.

    "full": keep only the input of each block. "selective": keep all but what attention makes between q, k, v and its
    output (Korthikanti et al. 2023, section 5). Raises ValueError for anything else.
    """
    instance("recompute", "model", model, Transformer)
    choice("recompute", "what", what, ("full", "selective"))
    for block in cast(Iterable[Block], model.blocks):
        if what == "full":
            block.forward = recomputed(block.forward, model.place)  # type: ignore[method-assign]
        else:
            block.attention.attend = recomputed(block.attention.attend, model.place)
    return model


def recomputed(function: Callable[..., Any], place: Place) -> Callable[..., Any]:
    """Wrap a function so that backward calls it again as it was first called: with the same masks."""
    return partial(call_recomputed, function, place)  # not a closure: copies of a model must call their own blocks


def call_recomputed(function: Callable[..., Any], place: Place, *args: Any) -> Any:
    then, modes = place.remembered(), function_modes()
    forward = True

    def again(*args: Any) -> Any:
        nonlocal forward
        if forward:
            forward = False
            return function(*args)
        now = dict(vars(place))  # backward may come when the next microbatch is already under way
        vars(place).update(vars(then.remembered()))
        with ExitStack() as stack:
            stack.callback(vars(place).update, now)
            for mode in modes[len(function_modes()) :]:  # torch leaves them on its way into backward
                stack.enter_context(mode)
            return function(*args)

    # dropout needs no random state (see dropout.py), so there is none to keep
    return checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False)
