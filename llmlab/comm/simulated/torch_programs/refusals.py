"""What a torch program asks for that a simulated rank has not: refused in words, or answered as it must be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
import torch.multiprocessing as mp


class Replaced:
    """Attributes replaced for a run, and put back afterwards."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def put(self, owner: Any, name: str, value: Any, new: bool = False) -> None:
        """Replace `owner.name`, where this torch has it (or new: where it has not)."""
        if new or hasattr(owner, name):
            self._before.append((owner, name, vars(owner).get(name, _INHERITED)))
            setattr(owner, name, value)

    def undo(self) -> None:
        for owner, name, value in reversed(self._before):
            if value is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


_INHERITED = object()


@contextmanager
def replaced() -> Iterator[Replaced]:
    changes = Replaced()
    try:
        yield changes
    finally:
        changes.undo()


def no_gpu(call: str) -> Callable[..., NoReturn]:
    """Make what stands for a call of torch.cuda. One function each: torch's own tables take them for keys."""

    def refuse_gpu(*_: Any, **__: Any) -> NoReturn:
        raise ValueError(
            f"{call}: simulated ranks compute on CPU tensors, under the clock and memory of the modelled GPU. Write "
            'device="cpu" where the program says "cuda", or ask torch.cuda.is_available(), which is False here'
        )

    return refuse_gpu


def no_spawn(name: str) -> Callable[..., NoReturn]:
    def refuse_spawn(*_: Any, **__: Any) -> NoReturn:
        raise ValueError(
            f"torch.multiprocessing.{name}: the simulator starts the ranks itself. Give it the function they run, "
            "Simulator(ranks=...).run_torch(function, *args)"
        )

    return refuse_spawn


def not_compiled(model: Any = None, *_: Any, **__: Any) -> Any:
    """torch.compile on simulated ranks: the function itself. What a compiler would fuse is not modelled."""
    return (lambda function: function) if model is None else model


def refuse(changes: Replaced, store: Callable[..., dist.Store]) -> None:
    """Put refusals and answers where torch has what a simulated rank has not. store: makes the ranks' common one."""
    for name in ("set_device", "synchronize", "current_device"):
        changes.put(torch.cuda, name, no_gpu(f"torch.cuda.{name}"))
    changes.put(torch.cuda, "_lazy_init", no_gpu("a tensor or module on cuda"))
    changes.put(torch.cuda, "is_available", lambda: False)
    changes.put(torch.cuda, "device_count", lambda: 0)
    changes.put(torch.accelerator, "is_available", lambda: False)
    changes.put(torch.accelerator, "current_accelerator", lambda *_, **__: None)
    changes.put(torch, "compile", not_compiled)
    changes.put(torch.nn.Module, "compile", lambda *_, **__: None)
    for name in ("spawn", "start_processes"):
        refuse_spawn = no_spawn(name)
        changes.put(mp, name, refuse_spawn)
        changes.put(sys.modules["torch.multiprocessing.spawn"], name, refuse_spawn)
    for module in (dist, c10d):
        for name in ("TCPStore", "FileStore"):
            changes.put(module, name, store)
