"""What travels between the caller and its ranks: functions with their source, results, exceptions.

Cell functions go by value, and so do functions of modules that a fresh interpreter could not import; functions of
importable modules go by reference.
"""

from __future__ import annotations

import importlib.machinery
import linecache
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle
import torch

from llmlab.comm.copying import Copies, Pickler, check_result, pack
from llmlab.comm.where import COMM, Place, describe


class PeerLost(RuntimeError):
    """A communication broke under this rank; the cause is elsewhere (a peer died, or took part with another shape)."""


_LONG = 30  # lines of a traceback


@dataclass(frozen=True)
class Failure:
    """An exception on its way home. `when` is seconds on the machine's monotonic clock."""

    error: bytes
    text: str  # the rank's own traceback
    summary: str
    when: float
    echo: bool  # raised because somebody else failed


# --- to the ranks ----------------------------------------------------------------------------------------------------


def pack_call(worker: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Pickle a call once for all ranks. Warns above 64 MB: every rank gets its own copy."""
    strangers = [m for m in _modules_of(worker, *args, *kwargs.values()) if not importable(m)]
    for module in strangers:
        cloudpickle.register_pickle_by_value(module)
    try:
        return Copies(worker, args, kwargs).payload
    finally:
        for module in strangers:
            cloudpickle.unregister_pickle_by_value(module)


def _modules_of(*values: Any) -> list[ModuleType]:
    """The modules in which the given functions and classes (or the given objects' classes) were defined."""
    named = (v if hasattr(v, "__qualname__") else type(v) for v in values)
    names = {str(getattr(v, "__module__", "")) for v in named} - {"__main__", "builtins"}
    return [sys.modules[name] for name in sorted(names) if name in sys.modules]


def importable(module: ModuleType) -> bool:
    """Say whether a fresh interpreter with our sys.path would find this very module under its name."""
    if module.__name__.partition(".")[0] == __name__.partition(".")[0]:
        return True  # ranks run this package, however it was installed: a class of ours must be theirs, not a copy
    file, path = getattr(module, "__file__", None), None
    if file is None:  # built in, frozen, or a namespace
        return getattr(module, "__spec__", None) is not None
    parts, origin = module.__name__.split("."), None
    for i in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: i + 1]), path)
        if spec is None:
            return False
        path, origin = spec.submodule_search_locations, spec.origin
    return origin is not None and os.path.realpath(origin) == os.path.realpath(file)


def cell_sources() -> dict[str, list[str]]:
    """The source of code that is in no file (notebook cells), so that a rank's traceback can show its lines."""
    return {
        name: list(entry[2])
        for name, entry in list(linecache.cache.items())
        if len(entry) == 4 and not os.path.exists(name)
    }


def know_sources(sources: dict[str, list[str]]) -> None:
    for name, lines in sources.items():
        # mtime None: linecache.checkcache leaves the entry alone although there is no such file
        linecache.cache[name] = (sum(map(len, lines)), None, lines, name)


# --- and back --------------------------------------------------------------------------------------------------------


class _ResultPickler(Pickler):
    """Results come home on the CPU, so that the caller needs no GPU to read them."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor) and obj.device.type not in ("cpu", "meta"):
            return torch.clone, (obj.detach().cpu(),)
        return super().reducer_override(obj)


def pack_result(result: Any) -> bytes:
    """Pickle what a worker returned. Raises TypeError that says so when it cannot be."""
    check_result(result)
    try:
        return pack(result, _ResultPickler)
    except Exception as error:
        raise TypeError(f"the worker's result ({type(result).__name__}) cannot be sent back: {error}") from error


def pack_failure(error: BaseException, when: float) -> Failure:
    """Pickle an exception with its traceback. One that cannot travel keeps its words, and its type where it can."""
    text = "\n".join(_story(error))
    summary = f"{type(error).__name__}: {error}".rstrip(": ")
    packed = b""
    for whole in (True, False):
        try:
            packed = _pack_error(error, whole)
            break
        except Exception:
            continue
    return Failure(packed or cloudpickle.dumps(RuntimeError(summary)), text, summary, when, isinstance(error, PeerLost))


def _pack_error(error: BaseException, whole: bool) -> bytes:
    """Pickle an exception so that it comes back without its constructor's being called: its arguments may be others.

    whole: with its arguments and attributes; else with its words alone.
    """
    kind = type(error)
    if whole and not isinstance(kind.__init__, FunctionType):  # Python's own exceptions know how
        packed = cloudpickle.dumps(error)
    else:
        args, state = (error.args, vars(error)) if whole else ((str(error),), {})
        packed = cloudpickle.dumps(_Revival(kind, args, state))
    unpack_error(packed)  # what fails here must not fail in the caller
    return packed


@dataclass
class _Revival:
    """What an exception is made of."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    state: dict[str, Any]

    def revive(self) -> BaseException:
        error = self.kind.__new__(self.kind, *self.args)
        error.args = self.args
        error.__dict__.update(self.state)
        str(error)
        return error


def unpack_error(packed: bytes) -> BaseException:
    found = cloudpickle.loads(packed)
    return found.revive() if isinstance(found, _Revival) else found


def _story(error: BaseException, depth: int = 3) -> list[str]:
    """The rank's traceback, in the words of every other report: `cell:3 in worker: world.send(x, 1)`.

    The same on every machine and under every Python, so that a notebook can show it and be checked.
    """
    frames = traceback.extract_tb(error.__traceback__)
    while len(frames) > 1 and frames[0].filename.startswith(COMM):
        del frames[0]  # ours, which called the worker
    lines = ["  " + describe(Place(f.filename, f.lineno or 0, f.name)) for f in frames]
    if len(lines) > _LONG:
        lines[_LONG // 2 : -_LONG // 2] = ["  ..."]
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is None or depth == 0:
        return lines
    return [*_story(earlier, depth - 1), f"{type(earlier).__name__}: {earlier}", "then", *lines]


def unpack_failure(failure: Failure) -> BaseException:
    try:
        return unpack_error(failure.error)
    except Exception:
        return RuntimeError(failure.summary)
