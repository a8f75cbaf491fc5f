"""Each rank gets its own copy of the worker, its arguments and what it captured, so that no two ranks share a model."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

LARGE = 64 * 2**20  # bytes above which copying is worth a word


class Copies:
    """A worker and its arguments, pickled once, unpickled once per rank."""

    def __init__(self, worker: Callable[..., Any], args: tuple, kwargs: dict, meta: bool = False):
        if not callable(worker):
            raise ValueError(f"run wants a function worker(world, ...), got {type(worker).__name__}")
        buffer = io.BytesIO()
        try:
            (_MetaPickler if meta else cloudpickle.Pickler)(buffer).dump((worker, args, kwargs))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(f"the worker or its arguments cannot be copied to the ranks: {error}") from error
        self.payload = buffer.getbuffer()
        if len(self.payload) > LARGE:
            size = len(self.payload) / 2**20
            text = f"each rank gets its own copy of {size:.0f} MB of arguments and captured values"
            warnings.warn(text, stacklevel=4)

    def make(self) -> tuple[Callable[..., Any], tuple, dict]:
        return pickle.loads(self.payload)


class _MetaPickler(cloudpickle.Pickler):
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
