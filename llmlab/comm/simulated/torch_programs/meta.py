"""A torch program with numerics=False: what torch asks of values is answered from shapes, or kept on the host.

Objects and pipelines' messages about shapes stay on the CPU with their values. A functional collective is C++ that no
meta tensor reaches: it is posted from here, and joined where its result is first used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import wraps
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch import Tensor

from llmlab.comm.simulated.torch_programs.private import find
from llmlab.comm.simulated.torch_programs.refusals import Replaced
from llmlab.comm.simulated.torch_programs.work import SimulatedWork

REDUCTIONS = {
    "sum": dist.ReduceOp.SUM, "avg": dist.ReduceOp.AVG, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN,
    "product": dist.ReduceOp.PRODUCT,
}  # fmt: skip


class FunctionalCollectives:
    """One rank's functional collectives on meta tensors, until their results are used."""

    def __init__(self) -> None:
        self._open: dict[int, SimulatedWork] = {}

    def run(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Give the shape that torch gives, and post what its kernel would have posted."""
        name = op._schema.name.partition("::")[2].removesuffix("_out")
        if name == "wait_tensor":
            self.join(args[:1])
            return args[0]
        if name == "_wrap_tensor_autograd":
            return torch.ops.aten.alias(args[0])
        result = op(*args, **kwargs)
        group: Any = args[-1]
        if isinstance(group, str):
            group = c10d._resolve_process_group(group)  # type: ignore[arg-type]
        post = getattr(self, f"_{name}", None)
        if post is None:
            raise ValueError(f"numerics=False does not know the functional collective {name}")
        work: SimulatedWork = post(group, result, *args[:-1])
        self._open[result.untyped_storage()._cdata] = work
        return result

    def join(self, tensors: Iterable[Tensor]) -> None:
        """Wait for those collectives whose results these are."""
        for x in tensors if self._open else ():
            work = self._open.pop(x.untyped_storage()._cdata, None)
            if work is not None:
                work.wait()

    def _all_reduce(self, group: Any, result: Tensor, x: Tensor, reduce: str) -> SimulatedWork:
        return group.allreduce([result], SimpleNamespace(reduceOp=REDUCTIONS[reduce]))

    def _broadcast(self, group: Any, result: Tensor, x: Tensor, root: int) -> SimulatedWork:
        return group.broadcast([result], SimpleNamespace(rootRank=root))

    def _all_gather_into_tensor(self, group: Any, result: Tensor, x: Tensor, size: int) -> SimulatedWork:
        return group.all_gather_single(result, x)

    def _reduce_scatter_tensor(self, group: Any, result: Tensor, x: Tensor, reduce: str, size: int) -> SimulatedWork:
        return group.reduce_scatter_single(result, x, SimpleNamespace(reduceOp=REDUCTIONS[reduce]))

    def _all_to_all_single(self, group: Any, result: Tensor, x: Tensor, out: Any, into: Any) -> SimulatedWork:
        return group.all_to_all_single(result, x, out, into)


def on_the_host(method: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline stage's messages about shapes: their tensors are on the CPU, where they keep their values."""

    @wraps(method)
    def with_values(stage: Any, *args: Any, **kwargs: Any) -> Any:
        device, stage.device = stage.device, torch.device("cpu")
        try:
            with torch.device("cpu"):
                return method(stage, *args, **kwargs)
        finally:
            stage.device = device

    return with_values


def on_meta(init: Callable[..., None]) -> Callable[..., None]:
    """A pipeline stage's device is the one its layers are on, whatever the program calls it."""

    @wraps(init)
    def with_meta(stage: Any, module: Any, index: int, total: int, device: Any, *args: Any, **kwargs: Any) -> None:
        init(stage, module, index, total, torch.device("meta"), *args, **kwargs)

    return with_meta


def with_buckets(assign: Callable[..., Any]) -> Callable[..., Any]:
    """DDP's buckets as they are from its second step on: the first has one, to learn an order from values."""

    def assign_buckets(tensors: Any, limits: list[int], sparse: Any = (), *more: Any) -> Any:
        init = sys._getframe(1).f_locals  # DDP's
        model: Any = init.get("self")
        later = init.get("bucket_size_limits_for_rebuilding")
        if limits != [sys.maxsize] or not hasattr(model, "bucket_bytes_cap"):
            return assign(tensors, limits, sparse, *more)
        later = later or [dist._DEFAULT_FIRST_BUCKET_BYTES, model.bucket_bytes_cap]
        buckets, sizes = assign(list(reversed(tensors)), later, list(reversed(sparse)), *more)
        last = len(tensors) - 1  # gradients are ready last to first, and DDP turns the list of buckets round
        return [[last - i for i in bucket] for bucket in reversed(buckets)], list(reversed(sizes))

    return assign_buckets


def _nothing(*_: Any, **__: Any) -> None:
    """A check of values that are not there."""


FSDP2 = "torch.distributed.fsdp._fully_shard"
STAGE = "torch.distributed.pipelining.stage:PipelineStage"
ANSWERS: dict[str, Callable[[Any], Any]] = {  # a private name, and what stands for it
    "torch.nn.parallel.distributed:_verify_param_shape_across_processes": lambda _: _nothing,
    "torch.distributed:_compute_bucket_assignment_by_size": with_buckets,
    "torch._C._distributed_c10d:Reducer._rebuild_buckets": lambda _: lambda self: False,
    "torch.distributed.distributed_c10d:_get_object_coll_device": lambda _: lambda group=None: "cpu",
    f"{FSDP2}._fsdp_param_group:FSDPParamGroup._validate_no_meta_params": lambda _: _nothing,
    f"{FSDP2}._fsdp_init:_get_device_from_mesh": lambda _: lambda mesh: torch.device("meta"),
    f"{FSDP2}._fully_shard:_get_device_from_mesh": lambda _: lambda mesh: torch.device("meta"),
    "torch.distributed.pipelining.stage:_PipelineStageBase.__init__": on_meta,
    f"{STAGE}._warmup_forward_vote": on_the_host,
    f"{STAGE}._warmup_backward_result": on_the_host,
    f"{STAGE}._recv_meta": on_the_host,
    f"{STAGE}._send_meta": on_the_host,
}


def answer_from_shapes(changes: Replaced) -> tuple[str, ...]:
    """Put the answers in place for a run on meta tensors; give the names this torch lacks."""
    absent = []
    for path, answer in ANSWERS.items():
        found = find(path)
        if found is None:
            absent.append(path.replace(":", "."))
        else:
            changes.put(found.owner, found.name, answer(found.value))
    changes.put(torch, "meta", torch.cpu, new=True)  # the module torch asks about streams of a "meta" device
    return tuple(absent)
