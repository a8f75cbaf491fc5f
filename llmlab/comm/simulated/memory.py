"""What one rank's device holds: the bytes of live storages, each counted once, by category.

A storage is *placed* when a kernel or a message first touches it, or `.to(world.device)` does; a model just built is
still on the host. It leaves when the last tensor on it dies, saved activations included.
"""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from llmlab.comm.errors import OutOfDeviceMemory
from llmlab.comm.simulated.naming import Name, Names
from llmlab.comm.trace import Held, Memory

CATEGORIES = ("parameters", "gradients", "optimizer state", "activations", "communication")


_PLAIN = (Tensor, nn.Parameter)


@dataclass(frozen=True, slots=True)
class _Live:
    """A storage on the device. Frozen: what was held at the peak stays known, whatever becomes of it."""

    nbytes: int
    category: str
    ref: weakref.ref
    name: Name


@dataclass
class MemoryMeter:
    """Counts one rank's device memory. `capacity` None counts without a limit."""

    rank: int
    device_name: str
    capacity: int | None
    held: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CATEGORIES, 0))
    peaks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CATEGORIES, 0))
    at_peak: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CATEGORIES, 0))
    total: int = 0
    peak: int = 0
    names: Names = field(default_factory=Names)
    _fullest: list[_Live] | None = field(default_factory=list)  # all at the peak; None: it is now
    _live: dict[int, _Live] = field(default_factory=dict)
    _host: dict[int, weakref.ref] = field(default_factory=dict)  # made, not yet placed
    _hooks: list = field(default_factory=list)
    _hooked: dict[int, weakref.ref] = field(default_factory=dict)

    def on_host(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self._host

    def all_on_host(self, tensors: list[Tensor]) -> bool:
        return not tensors or (bool(self._host) and all(map(self.on_host, tensors)))

    def keep_on_host(self, x: Tensor) -> None:
        """A fresh tensor that nothing has used yet costs the device nothing."""
        storage = x.untyped_storage()
        key = storage._cdata
        self._drop(key)
        self._host[key] = weakref.ref(storage, lambda _: self._host.pop(key, None))

    def place_all(self, tensors: list[Tensor]) -> None:
        """Count those that are not counted yet: of what an operation touches, few."""
        for x in tensors:
            if x.untyped_storage()._cdata not in self._live:
                self.place(x)

    def place(self, x: Tensor, category: str | None = None) -> None:
        """Count a tensor's storage, once; a given category replaces the one it had. Of a DTensor, this rank's shard."""
        if type(x) not in _PLAIN:  # to look for what is not there takes torch long
            x = getattr(x, "_local_tensor", x)
        storage = x.untyped_storage()
        key = storage._cdata
        live = self._live.get(key)
        if live is None:
            self._host.pop(key, None)
            parameter = type(x) is not Tensor and isinstance(x, nn.Parameter)
            if parameter and x.requires_grad:
                self._watch_gradient(x)
            self._add(key, storage, category or ("parameters" if parameter else "activations"))
        elif category is not None and live.category != category:
            self._move(key, live, category)

    def claim(self, parameter: nn.Parameter) -> None:
        """Count a parameter as one, however it was first met: in a message, as a view; a gathered copy stays one."""
        storage = getattr(parameter, "_local_tensor", parameter).untyped_storage()
        live = self._live.get(storage._cdata)
        if live is None or live.category == "activations":
            self.place(parameter, "parameters")
            if parameter.requires_grad and parameter.is_leaf:
                self._watch_gradient(parameter)

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Count anew a storage whose size was changed."""
        live = self._live.get(storage._cdata)
        if live is None:
            return
        more = storage.nbytes() - live.nbytes
        self._check_room(max(0, more))
        self._leave_peak()
        self._live[storage._cdata] = replace(live, nbytes=storage.nbytes())
        self.held[live.category] += more
        self.total += more
        self._note_peak(live.category)

    def name(self, x: Tensor, text: str) -> None:
        """Say what a tensor is called. Several on one storage are all named; one that was gathered says so."""
        if type(x) not in _PLAIN:  # to look for what is not there takes torch long
            x = getattr(x, "_local_tensor", x)
        live = self._live.get(x.untyped_storage()._cdata)
        if live is not None:
            live.name.tensors[f"gathered {text}" if live.category == "communication" else text] = None

    def name_parameters(self, module: nn.Module) -> None:
        """Name what a module holds of its own."""
        for parameter, called in self.names.own(module):
            self.name(parameter, called)

    def name_what_steps(self, optimizer: Optimizer) -> None:
        """Name an optimizer's parameters, their gradients, and what it keeps of each."""
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            called = self.names.of(parameter)
            of_it = "" if called is None else f" of {called}"
            if called is not None:
                self.name(parameter, called)
            gradient = gradient_here(parameter)
            if gradient is not None:
                self.name(gradient, f"gradient{of_it}")
            for kept, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    self.name(value, f"{kept}{of_it}")

    def report(self) -> Memory:
        held: dict[tuple[str, str], list[int]] = {}
        for live in self._live.values() if self._fullest is None else self._fullest:
            if live.nbytes:
                held.setdefault((live.name.says(live.category), live.category), []).append(live.nbytes)
        rows = (Held(name, category, sum(sizes), len(sizes)) for (name, category), sizes in held.items())
        largest_first = tuple(sorted(rows, key=lambda row: (-row.nbytes, row.name)))
        return Memory(dict(self.peaks), dict(self.at_peak), largest_first)

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._live.clear()
        self._host.clear()

    # --- inside -------------------------------------------------------------------------------------------------

    def _add(self, key: int, storage: torch.UntypedStorage, category: str) -> None:
        nbytes = storage.nbytes()
        self._check_room(nbytes)
        self._live[key] = _Live(nbytes, category, weakref.ref(storage, lambda _: self._drop(key)), self.names.new())
        self.held[category] += nbytes
        self.total += nbytes
        self._note_peak(category)

    def _check_room(self, nbytes: int) -> None:
        if self.capacity is not None and self.total + nbytes > self.capacity:
            gc.collect()  # a tensor in a reference cycle lives until the collector runs, and here it must not count
            if self.total + nbytes > self.capacity:
                raise self._out_of_memory(nbytes)

    def _drop(self, key: int) -> None:
        if key in self._live:
            self._leave_peak()
            live = self._live.pop(key)
            self.held[live.category] -= live.nbytes
            self.total -= live.nbytes

    def _move(self, key: int, live: _Live, category: str) -> None:
        self._leave_peak()
        self._live[key] = replace(live, category=category)
        self.held[live.category] -= live.nbytes
        self.held[category] += live.nbytes
        self._note_peak(category)

    def _leave_peak(self) -> None:
        """Before what is held changes: keep all of it, if it is the most so far."""
        if self._fullest is None:
            self._fullest = list(self._live.values())

    def _note_peak(self, category: str) -> None:
        if self.held[category] > self.peaks[category]:
            self.peaks[category] = self.held[category]
        if self.total > self.peak:
            self.peak = self.total
            self.at_peak, self._fullest = dict(self.held), None

    def _watch_gradient(self, parameter: Tensor) -> None:
        key = id(parameter)
        if key in self._hooked:
            return
        self._hooked[key] = weakref.ref(parameter, lambda _: self._hooked.pop(key, None))

        def count_gradient(p: Tensor) -> None:
            grad = gradient_here(p)
            if grad is not None:
                self.place(grad, "gradients")
                if (called := self.names.of(p)) is not None:
                    self.name(grad, f"gradient of {called}")

        self._hooks.append(parameter.register_post_accumulate_grad_hook(count_gradient))

    def _out_of_memory(self, nbytes: int) -> OutOfDeviceMemory:
        rows = "\n".join(f"  {name:<16}{amount(held):>12}" for name, held in self.held.items() if held)
        text = (
            f"{self.device_name} holds {amount(self.capacity or 0)}; rank {self.rank} has {amount(self.total)} "
            f"and asked for {amount(nbytes)} more\n{rows}"
        )
        return OutOfDeviceMemory(text, dict(self.held), self.capacity or 0)


def gradient_here(parameter: Tensor) -> Tensor | None:
    """The gradient that is here, whatever a mode shows of it: ZeRO's `.grad` asks the other ranks."""
    descriptor: Any = Tensor.grad
    return descriptor.__get__(parameter)


def amount(nbytes: float) -> str:
    """Bytes in words, as memory is sold: 80 GiB is 80 x 2^30."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} TiB"
