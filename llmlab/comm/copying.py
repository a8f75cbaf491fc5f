"""Each rank gets its own copy of the worker, its arguments and what it captured, so that no two ranks share a model."""

from __future__ import annotations

import functools
import inspect
import io
import pickle
import pkgutil
import warnings
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from llmlab.arguments import function

LARGE = 64 * 2**20  # bytes above which copying is worth a word


class Copies:
    """A worker and its arguments, pickled once, unpickled once per rank."""

    def __init__(self, worker: Callable[..., Any], args: tuple, kwargs: dict, meta: bool = False):
        check_worker(worker)
        try:
            self.payload = pack((worker, args, kwargs), MetaPickler if meta else Pickler)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(f"the worker or its arguments cannot be copied to the ranks: {error}") from error
        if len(self.payload) > LARGE:
            size = len(self.payload) / 2**20
            text = f"each rank gets its own copy of {size:.0f} MB of arguments and captured values"
            warnings.warn(text, stacklevel=4)

    def make(self) -> tuple[Callable[..., Any], tuple, dict]:
        return pickle.loads(self.payload)


def check_worker(worker: Any) -> None:
    """Refuse what would return without having run: a coroutine function, a generator function, no function at all."""
    function("run", "worker", worker, "world, ...")
    inner = worker
    while isinstance(inner, functools.partial):
        inner = inner.func
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner) or inspect.isgeneratorfunction(inner):
        kind = "a generator" if inspect.isgeneratorfunction(inner) else "async"
        raise ValueError(f"run wants a plain function, got {inner.__name__}, which is {kind}: none of it would run")


def check_result(result: Any) -> Any:
    """Refuse a result that is work still to be done."""
    if inspect.iscoroutine(result) or inspect.isgenerator(result) or inspect.isasyncgen(result):
        close = getattr(result, "close", None)
        if close is not None:
            close()
        raise TypeError(f"the worker returned a {type(result).__name__}: its work has not been done, and would be lost")
    return result


def pack(value: Any, pickler: type[Pickler]) -> bytes:
    file = io.BytesIO()
    pickler(file, protocol=5).dump(value)
    return file.getvalue()  # and not getbuffer(), which Python 3.13's collector complains of


class Pickler(cloudpickle.Pickler):
    """cloudpickle, for tensors of every dtype; a view travels without the rest of its storage."""

    def reducer_override(self, obj: Any) -> Any:
        # torch's own kinds of module, which cloudpickle would copy; not all can be imported: torch.ops.aten
        if isinstance(obj, ModuleType) and type(obj) is not ModuleType:
            return pkgutil.resolve_name, (obj.__name__,)
        if isinstance(obj, CodeType):  # cloudpickle 3.1.3 drops its file's name: no report could show its line
            return _in_its_file, (*self.dispatch_table[CodeType](obj), obj.co_filename)
        if type(obj) in (Tensor, nn.Parameter) and obj.layout == torch.strided and not obj.is_quantized:
            if obj.device.type != "meta" and obj.dtype in _AS_BYTES:
                return _from_bytes, (_as_bytes(obj), obj.dtype, tuple(obj.shape))
            if obj.untyped_storage().nbytes() > obj.numel() * obj.element_size():
                return _compact(obj).__reduce_ex__(5)
        return super().reducer_override(obj)


def _in_its_file(make: Callable[..., CodeType], args: tuple[Any, ...], filename: str) -> CodeType:
    return make(*args).replace(co_filename=filename)


# torch pickles no storage of these
_AS_BYTES = {torch.uint16, torch.uint32, torch.uint64, torch.complex32} | {
    dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype) and "float8" in str(dtype)
}


def _compact(x: Tensor) -> Tensor:
    """The same tensor in a storage of its own size; a parameter stays one, with what is noted on it."""
    values = x.detach().clone(memory_format=torch.contiguous_format)
    if not isinstance(x, nn.Parameter):
        return values.requires_grad_(x.requires_grad)
    parameter = nn.Parameter(values, x.requires_grad)
    parameter.__dict__.update(x.__dict__)
    return parameter


def _as_bytes(x: Tensor) -> Tensor:
    return x.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _from_bytes(raw: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    return raw.view(dtype).reshape(shape)


class MetaPickler(Pickler):
    """Copies tensors as meta tensors: shape, stride and dtype without the numbers."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return _meta, (obj.shape, obj.stride(), obj.dtype, obj.requires_grad, isinstance(obj, nn.Parameter))
        return super().reducer_override(obj)


def _meta(
    shape: torch.Size, stride: tuple[int, ...], dtype: torch.dtype, requires_grad: bool, parameter: bool
) -> Tensor:
    x = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
    return nn.Parameter(x, requires_grad) if parameter else x.requires_grad_(requires_grad)
