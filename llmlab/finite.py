"""The first nan or inf, named where it appears: every module's output is looked at as it is made, and every gradient.

    forward     embedding -> blocks.0.attention.query -> ... -> blocks.3.mlp.down  nan!   what went in was finite
    backward    blocks.3.mlp.down -> blocks.3.mlp.up  nan!                                the last that was finite

A nan spreads to all that is computed from it, on every rank, so only the first one says what broke. Hooks run in the
order of execution, and before those of a parallel mode: the rank that made it finds it before it sends it on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.utils.hooks import unserializable_hook

from llmlab.model import IGNORE
from llmlab.model.whole import model_of


def check_finite(model: Any, gradients: bool | None = None) -> Watch:
    """Raise ValueError where a nan or inf first appears, from now on: `with lab.check_finite(model): train()`.

    The error names the module, parameter or loss, forward or backward, and what went in; on several ranks it is raised
    on the one that made it, whose engine names it and ends the others. Works under every layout: call it on the model
    once it is split, or on the step. Any module will do, but only a model of ours tells of its loss by that name.
    gradients: look at those too; None: unless the step has a loss scaler, which expects them to overflow.
    Without `with`, it ends with `.remove()`. It reads each output and gradient once more and waits for its sum: on
    one CPU core a step took 1.20 times as long with 200 tokens and 1.05 with 1,600 (benchmarks/check_finite.py); on a
    GPU, where it was not measured, the waiting costs. Tensors without numbers (numerics=False) count as finite.
    """
    scaler = getattr(model, "scaler", None)
    return Watch(model_of("check_finite", model), scaler is None if gradients is None else gradients)


@dataclass
class Frame:
    """A module that is computing: what went in, and which tensor inside it was looked at last."""

    name: str
    inputs: Any
    seen: ReferenceType[Tensor] | None = None


class Watch:
    """The hooks of `check_finite` on one model, until `remove()`, or the end of a `with` block."""

    def __init__(self, model: nn.Module, gradients: bool):
        self.model, self.gradients = model, gradients
        self.frames: list[Frame] = []  # outermost first; empty between forwards
        self.forwards: Counter[str] = Counter()
        self.backward, self.last = -1, ""  # which one is under way, and the last in it that was finite
        self.undo: list[Callable[[], object]] = []
        for path, module in model.named_modules():
            self._watch_module(path or type(model).__name__, module)
        for name, parameter in model.named_parameters():
            if gradients and parameter.requires_grad:
                hook = unserializable_hook(partial(self._gradient, f"the gradient of {name}"))
                self.undo.append(parameter.register_hook(hook).remove)
        if hasattr(model, "cross_entropy"):
            self._watch_loss(model)

    def __repr__(self) -> str:
        return f"check_finite({type(self.model).__name__}, gradients={self.gradients})"

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Look no more."""
        for undo in self.undo:
            undo()
        self.undo.clear()

    # --- what is looked at ------------------------------------------------------------------------------------------

    def _watch_module(self, name: str, module: nn.Module) -> None:
        before, after = partial(self._enter, name), partial(self._leave, name)
        # what a mode does to the inputs comes before, what it does to the output after: it may be to send it
        self.undo.append(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        self.undo.append(module.register_forward_hook(after, prepend=True, always_call=True).remove)

    def _watch_loss(self, model: Any) -> None:
        own = model.cross_entropy
        model.cross_entropy = watched = partial(self._loss, own)

        def give_back() -> None:
            if model.cross_entropy is watched:
                model.cross_entropy = own

        self.undo.append(give_back)

    def _enter(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.frames.append(Frame(name, (args, kwargs)))

    def _leave(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        """Look at what a module gave; nothing, if it raised."""
        frame = self.frames.pop()
        while frame.name != name:  # left behind by something that no hook was told of
            frame = self.frames.pop()
        self.forwards[name] += output is not None
        for y in tensors(output):
            if frame.seen is not None and frame.seen() is y or any(y is x for x in tensors(frame.inputs)):
                continue  # handed on, not made
            if not finite(y):
                raise self._error(*self._forward_cause(frame, module, y))
            if self.frames:
                self.frames[-1].seen = ref(y)
            if self.gradients and y.requires_grad:
                y.register_hook(partial(self._gradient, f"the gradient of what {name} gave"))

    def _loss(self, own: Callable[..., Tensor], logits: Tensor, targets: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        loss = own(logits, targets, *args, **kwargs)
        if not finite(loss):
            empty = not bool((targets != IGNORE).any())
            why = f"all targets are {IGNORE}, and a mean over none is nan" if empty else f"logits {span(logits)}"
            raise self._error("the loss", loss, f"forward; {why}")
        return loss

    def _gradient(self, what: str, grad: Tensor) -> None:
        task = torch._C._current_graph_task_id()
        if task != self.backward:
            self.backward, self.last = task, ""
        if not finite(grad):
            raise self._error(what, grad, f"backward; {self.last or 'the loss or what came after'} was the last finite")
        self.last = what

    # --- what is said -----------------------------------------------------------------------------------------------

    def _forward_cause(self, frame: Frame, module: nn.Module, y: Tensor) -> tuple[str, Tensor, str]:
        """Find the innermost module whose inputs were finite: it made the nan, or its own operations did."""
        where = f"forward {self.forwards[frame.name]}"
        for cause in [frame, *reversed(self.frames)]:
            if all(finite(x) for x in tensors(cause.inputs)):
                went_in = f"what went in: {span(*tensors(cause.inputs))}"
                if cause is not frame:
                    return f"{cause.name}, in what its own operations gave to {frame.name}", y, f"{where}; {went_in}"
                return f"what {frame.name} gave", y, f"{where}; {went_in}{broken(module)}"
        return f"what came into {(self.frames or [frame])[0].name} from outside", y, where

    def _error(self, what: str, x: Tensor, how: str) -> ValueError:
        return ValueError(
            f"check_finite wants finite numbers, got {found(x)} in {what}: {how}. If a weight broke, an update before "
            "was too large: a lower learning rate, a warm-up or clip=1.0; if none did, this layer overflows: try a "
            "wider dtype"
        )


def finite(x: Tensor) -> bool:
    """Tell whether there is neither nan nor inf: a sum keeps both, and reads all once without keeping anything."""
    if x.is_meta or not x.is_floating_point():
        return True
    total = x.detach().sum(dtype=torch.promote_types(x.dtype, torch.float32)).item()
    return math.isfinite(total) or bool(x.isfinite().all())  # a sum of finite numbers may overflow


def found(x: Tensor) -> str:
    return f"{int(x.isnan().sum())} nan and {int(x.isinf().sum())} inf of {x.numel()} numbers"


def span(*xs: Tensor) -> str:
    """Give the smallest and largest number, of those with a fraction if there are any."""
    known = [x.detach() for x in xs if x.numel() and not x.is_meta and x.dtype != torch.bool]
    known = [x for x in known if x.is_floating_point()] or known
    if not known:
        return "no numbers"
    return f"from {min(x.min().item() for x in known):.4g} to {max(x.max().item() for x in known):.4g}"


def broken(module: nn.Module) -> str:
    """Name a module's own weights that are not finite."""
    held = [(name, p) for name, p in module.named_parameters(recurse=False) if is_here(p)]
    return "".join(f"; its {name} has {found(p)}" for name, p in held if not finite(p))


def is_here(p: Tensor) -> bool:
    """Whether the numbers are held: between two uses ZeRO's stage 3 leaves one in the place of all."""
    return p.numel() <= 1 or any(p.stride())


def tensors(value: Any) -> Iterator[Tensor]:
    """Find the tensors in what a module takes or gives: one, or some in tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from tensors(each)
    elif isinstance(value, dict):
        yield from tensors(list(value.values()))
