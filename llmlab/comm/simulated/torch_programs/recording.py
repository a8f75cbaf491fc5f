"""How torch's own tensor subclasses are recorded: they unwrap first, and their local operations are what is charged."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from llmlab.comm.simulated.recorder import Interceptor, Recorder, names_device

_FAKE = torch._C._TorchDispatchModeKey.FAKE
_NO_SUBCLASS = torch._C._disabled_torch_dispatch_impl
STARTS = ("c10d", "_c10d_functional", "_c10d_functional_autograd", "_dtensor")  # what they start, the group posts


class ProgramRecorder(Recorder):
    """A rank's recorder in a torch program."""

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch._C._get_dispatch_mode(_FAKE) is not None:
            return op(*args, **(kwargs or {}))  # DTensor works out a shape: no work of the device
        for kind in types:
            if kind is Tensor or kind is torch.nn.Parameter:
                continue
            if issubclass(kind, FakeTensor):
                return op(*args, **(kwargs or {}))
            if kind.__torch_dispatch__ is not _NO_SUBCLASS:
                return NotImplemented  # DTensor, AsyncCollectiveTensor ...
        if op.namespace in STARTS:
            return op(*args, **(kwargs or {}))
        return super().__torch_dispatch__(op, types, args, kwargs)


class ProgramInterceptor(Interceptor):
    """Leaves to a subclass what it is called with."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention and any(is_subclass(x) for x in args[:3]):
            return func(*args, **(kwargs or {}))
        if func is Tensor.to and is_subclass(args[0]) and names_device(args[1:], kwargs or {}):
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


def is_subclass(x: Any) -> bool:
    """Whether a tensor wraps others, as DTensor does."""
    return isinstance(x, Tensor) and type(x).__torch_dispatch__ is not _NO_SUBCLASS
