"""What a rank's tensors are called: a parameter by its module, the rest by the module and operation that made them.

Modules say whose parts they are when they are put together; where that was before the run, when the whole is called.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torchs

BACKWARD, OPTIMIZER = "backward", "the optimizer"


class Name:
    """What one storage is called. It may hold several tensors: a bucket of gradients, a flat row of weights."""

    __slots__ = ("operation", "tensors", "where")

    def __init__(self, where: str, operation: str):
        self.where, self.operation = where, operation
        self.tensors: dict[str, None] = {}

    def says(self, category: str) -> str:
        """In words. A buffer of messages says no module: what is fetched ahead is another's than the one that runs."""
        if not self.tensors:
            return self.operation if category == "communication" else f"{self.where}{self.operation}"
        more = len(self.tensors) - 1
        return next(iter(self.tensors)) + (f" and {more} more" if more else "")


class Names:
    """One rank's: the modules it is in, outermost first, and what its parameters are called."""

    def __init__(self) -> None:
        self.operation = ""  # what is being placed: what this gives, or takes
        self.within: list[str] = []
        self._parents: weakref.WeakKeyDictionary[nn.Module, weakref.ref[nn.Module]] = weakref.WeakKeyDictionary()
        self._paths: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._parameters: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def put_into(self, parent: nn.Module, part: nn.Module | None) -> None:
        """A module becomes part of another. The first stays its parent: a stage of a pipeline only borrows it."""
        if part is not None and part is not parent:
            self._parents.setdefault(part, weakref.ref(parent))

    def enter(self, module: nn.Module) -> None:
        """A module is called."""
        if module not in self._paths:
            self._learn(module)
        self.within.append(self._paths[module])

    def leave(self) -> None:
        if self.within:
            self.within.pop()

    def own(self, module: nn.Module) -> list[tuple[nn.Parameter, str]]:
        """A module's own parameters, each with what it is called."""
        path = self._paths.get(module, "")
        named = []
        for name, parameter in module._parameters.items():
            if parameter is not None:
                named.append((parameter, self._note(parameter, f"{path}.{name}" if path else name)))
        return named

    def of(self, parameter: Tensor) -> str | None:
        """What a parameter is called, if that is known."""
        found = self._parameters.get(id(parameter))
        return None if found is None else found[1]

    def new(self) -> Name:
        """The name of what is being placed now, for the first time."""
        where = self.within[-1] if self.within else BACKWARD if torch._C._current_autograd_node() is not None else ""
        return Name(f"{where}: " if where else "", self.operation)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _learn(self, module: nn.Module) -> None:
        """Hear what a module's parts are called: in the whole that each belongs to, and else in this one."""
        whole = self._whole(module)
        for top in dict.fromkeys([*map(self._whole, whole.modules()), whole]):
            for path, part in top.named_modules():
                self._paths.setdefault(part, path)
            for name, parameter in top.named_parameters():
                self._note(parameter, name)
        self._paths.setdefault(module, "")

    def _whole(self, module: nn.Module) -> nn.Module:
        while (parent := self._parents.get(module)) is not None and (above := parent()) is not None:
            module = above
        return module

    def _note(self, parameter: Tensor, name: str) -> str:
        known = id(parameter)
        if known not in self._parameters:
            self._parameters[known] = weakref.ref(parameter, lambda _: self._parameters.pop(known, None)), name
        return self._parameters[known][1]


def watch_modules(after: ExitStack, current: Callable[[], Any]) -> None:
    """Tell the rank that runs (`current`) what modules are made of, and in which of them it is."""

    def registered(parent: nn.Module, name: str, part: nn.Module | None) -> None:
        if (rank := current()) is not None:
            rank.meter.names.put_into(parent, part)

    def entered(module: nn.Module, inputs: Any) -> None:
        if (rank := current()) is not None:
            rank.meter.names.enter(module)
            rank.meter.name_parameters(module)

    def left(module: nn.Module, inputs: Any, output: Any) -> None:
        if (rank := current()) is not None:
            rank.meter.name_parameters(module)  # FSDP2 may have put the gathered ones in their place by now
            rank.meter.names.leave()

    after.callback(torchs.register_module_module_registration_hook(registered).remove)
    after.callback(torchs.register_module_forward_pre_hook(entered).remove)
    after.callback(torchs.register_module_forward_hook(left, always_call=True).remove)
