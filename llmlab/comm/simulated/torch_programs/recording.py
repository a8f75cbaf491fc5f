"""How torch's own tensor subclasses are recorded: they unwrap first, and their local operations are what is charged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor, Shard

from llmlab.comm.simulated.recorder import Interceptor, Recorder, kind_of, names_device, tensors_in
from llmlab.comm.simulated.torch_programs.group import TORCH
from llmlab.comm.simulated.torch_programs.meta import FunctionalCollectives
from llmlab.comm.simulated.torch_programs.private import NAMES, find
from llmlab.comm.simulated.torch_programs.refusals import Replaced
from llmlab.comm.simulated.torch_programs.ring import ATTENTION, SEQUENCE, ring_attention

if TYPE_CHECKING:
    from llmlab.comm.simulated.rank import Rank

_FAKE = torch._C._TorchDispatchModeKey.FAKE
_NO_SUBCLASS = torch._C._disabled_torch_dispatch_impl
STARTS = ("c10d", "_c10d_functional", "_c10d_functional_autograd", "_dtensor")  # what they start, the group posts


class ProgramRecorder(Recorder):
    """A rank's recorder in a torch program."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here, and keeping dynamo out costs 20 microseconds an operation

    def __init__(self, rank: Rank):
        super().__init__(rank)
        self.functional = FunctionalCollectives() if rank.device.type == "meta" else None

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
            if self.functional is not None and isinstance(args[0], Tensor) and args[0].is_meta:
                return self.functional.run(op, args, kwargs or {})
            return op(*args, **(kwargs or {}))
        if self.functional is not None and not kind_of(op).free:
            self.functional.join(tensors_in(args))
        result = super().__torch_dispatch__(op, types, args, kwargs)
        if op.namespace == "fsdp":  # FSDP2's copies into and out of its flat buffers
            self._count_buffers([*tensors_in([result]), *tensors_in((kwargs or {}).values())])
        return result

    def _count_buffers(self, buffers: Iterable[Tensor]) -> None:
        for x in buffers:
            self.rank.meter.place(x, "communication")


class ProgramInterceptor(Interceptor):
    """Leaves to a subclass what it is called with."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self.rank.device.type == "meta":
            args, kwargs = on_meta(func, args, kwargs or {}, sys._getframe(1))
        if func is ATTENTION and all(is_split_sequence(x) for x in args[:3]):
            return ring_attention(self.rank, *args[:3], **(kwargs or {}))
        if func is ATTENTION and any(is_subclass(x) for x in args[:3]):
            return func(*args, **(kwargs or {}))
        if func is Tensor.to and is_subclass(args[0]) and names_device(args[1:], kwargs or {}):
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


def is_subclass(x: Any) -> bool:
    """Whether a tensor wraps others, as DTensor does."""
    return isinstance(x, Tensor) and type(x).__torch_dispatch__ is not _NO_SUBCLASS


def shapes_once(changes: Replaced) -> None:
    """Let DTensor work out the shape that an operation gives once for all ranks: each has caches of its own."""
    path = NAMES["DTensor's shapes worked out once for all ranks"][0]
    found = find(path)
    if found is None:
        return
    work_out, seen = found.value, dict[Any, Any]()

    def worked_out(propagator: Any, schema: Any) -> Any:
        if schema not in seen:
            seen[schema] = work_out(propagator, schema)
        return seen[schema]

    changes.put(found.owner, found.name, worked_out)


def seen_in_backward(changes: Replaced, current: Callable[[], Rank | None]) -> None:
    """Let the interceptor see what backward runs again: a call that it passes on, as backward is, is without it."""
    path = NAMES["attention that a checkpoint does again"][0]
    found = find(path)
    if found is None:
        return
    run = found.value

    def run_backward(*args: Any, **kwargs: Any) -> Any:
        rank = current()
        if rank is None or not rank.simulation.options.kernels:
            return run(*args, **kwargs)
        with rank.interceptor:
            return run(*args, **kwargs)

    changes.put(found.owner, found.name, run_backward)


def on_meta(func: Any, args: tuple, kwargs: dict[str, Any], caller: FrameType) -> tuple[tuple, dict[str, Any]]:
    """Read a program's "cpu" as where its tensors are, "meta"; torch's own "cpu" is the host, which has values."""
    if kwargs.get("generator") is not None:
        kwargs = {**kwargs, "generator": None}  # a CPU's generator draws nothing for a meta tensor
    if "device" in kwargs and is_cpu(kwargs["device"]) and not caller.f_code.co_filename.startswith(TORCH):
        kwargs = {**kwargs, "device": "meta"}
    if func is Tensor.to and len(args) > 1 and is_cpu(args[1]) and args[0].is_meta:
        args = (args[0], "meta", *args[2:])
    return args, kwargs


def is_cpu(device: Any) -> bool:
    return device == "cpu" or (isinstance(device, torch.device) and device.type == "cpu")


def is_split_sequence(x: Any) -> bool:
    """Whether a tensor is [B, H, T, K] with T split along a mesh: under torch's context parallel."""
    return isinstance(x, DTensor) and x.dim() == 4 and tuple(x.placements) == (Shard(SEQUENCE),)
