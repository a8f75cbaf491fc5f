"""Each operation of a Group on torch.distributed: what is handed to it, and how its result is made of what came.

An operation is begun at once and gives (works, finish): what to wait for, and what to call then for the result. What is
only moved travels as bytes, so that every dtype can; what gloo adds travels in a dtype that it adds well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor

from llmlab.comm.call import MAX_DIM, Call, from_header, header, reduced
from llmlab.comm.group import Group
from llmlab.comm.shared import SharedMemoryGroup

_REDUCE = {
    "sum": dist.ReduceOp.SUM, "avg": dist.ReduceOp.AVG, "max": dist.ReduceOp.MAX,
    "min": dist.ReduceOp.MIN, "prod": dist.ReduceOp.PRODUCT,
}  # fmt: skip
_BOOL = {"sum": "max", "prod": "min", "max": "max", "min": "min"}  # True + True is True
# gloo has no int16, and would round a 16-bit sum at every hop; the definition rounds once
_WIDER = {
    torch.bool: torch.uint8,
    torch.int16: torch.int32,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}
# torch 2.13 renamed these and warns about the old names
_gather_flat = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_scatter_flat = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@runtime_checkable
class Work(Protocol):
    """Something under way: torch's own, or a `Task`."""

    def wait(self) -> Any: ...
    def is_completed(self) -> bool: ...


@dataclass
class Task:
    """Something under way in the group's own thread."""

    future: Future[Any]

    def wait(self) -> Any:
        return self.future.result()

    def is_completed(self) -> bool:
        return self.future.done()


@dataclass
class Link:
    """What one group's operations need: its process group, the one for messages, and a thread for two-step ones."""

    group: Group
    collective: dist.ProcessGroup
    message: dist.ProcessGroup  # all ranks', messages told apart by tags; NCCL has no tags: there the group's own
    background: ThreadPoolExecutor
    backend: str  # "gloo", "nccl" or "llmlab", which is shared memory

    def tag(self, use: str = "") -> int:
        """A number that the group's messages of one use carry, so that no others are taken for them."""
        return crc32(repr((use, self.group.axis, self.group.members)).encode()) & 0x7FFFFFFF

    def release(self) -> None:
        """Forget the process groups, even where a traceback keeps this link."""
        self.background.shutdown(wait=False)
        del self.collective, self.message

    @property
    def peers(self) -> list[int]:
        return [i for i in range(self.group.size) if i != self.group.rank]


Begun = tuple[Sequence[Any], Callable[[], Any]]  # works, finish


def all_reduce(link: Link, call: Call) -> Begun:
    if isinstance(link.collective, SharedMemoryGroup):
        return _all_reduce_shared(link.collective, call)
    wire, op = _summand(link, call)
    work = dist.all_reduce(wire, op, group=link.collective, async_op=True)
    return [work], lambda: _give(call, _summed(wire, call))


def _all_reduce_shared(group: SharedMemoryGroup, call: Call) -> Begun:
    assert call.reduce is not None
    x = _dense(call.tensors[0])
    total = _landing(call, x.shape)
    return [group.all_reduce_into(total, x, call.reduce, call.attended)], lambda: _give(call, total)


def reduce_scatter(link: Link, call: Call) -> Begun:
    """Every rank sends each other rank its part, and adds what comes in the order of ranks.

    gloo's own took 2.5 times as long here as its all_reduce; this is as fast as the loopback.
    """
    if link.backend != "gloo":
        return _reduce_scatter_flat(link, call)
    op = call.reduce
    assert op is not None
    parts = list(_dense(call.tensors[0]).tensor_split(link.group.size))
    came = [torch.empty_like(parts[link.group.rank]) if i in link.peers else part for i, part in enumerate(parts)]
    works = [_isend(link, parts[i], i, "reduce_scatter") for i in link.peers]
    works += [_irecv(link, came[i], i, "reduce_scatter") for i in link.peers]
    return works, lambda: _give(call, reduced(came, op))


def _reduce_scatter_flat(link: Link, call: Call) -> Begun:
    wire, op = _summand(link, call, written=link.backend == "nccl")
    part = wire.new_empty(wire.shape[0] // link.group.size, *wire.shape[1:])
    work = _scatter_flat(part, wire, op, group=link.collective, async_op=_later(link, call))
    return _works(work), lambda: _give(call, _summed(part, call))


def all_gather(link: Link, call: Call) -> Begun:
    x = _dense(call.tensors[0])
    whole = _landing(call, (x.shape[0] * link.group.size, *x.shape[1:]))
    work = _gather_flat(_bytes(whole), _bytes(x), group=link.collective, async_op=_later(link, call))
    return _works(work), lambda: _give(call, whole)


def broadcast(link: Link, call: Call) -> Begun:
    assert call.root is not None
    x = call.tensors[0]
    whole = _landing(call, x.shape)
    if link.group.rank == call.root and whole is not x:
        whole.copy_(x.detach())
    src, later = link.group.members[call.root], _later(link, call)
    work = dist.broadcast(_bytes(whole), src, group=link.collective, async_op=later)
    return _works(work), lambda: _give(call, whole)


def reduce(link: Link, call: Call) -> Begun:
    assert call.root is not None
    wire, op = _summand(link, call)
    work = dist.reduce(wire, link.group.members[call.root], op, group=link.collective, async_op=True)
    return [work], lambda: _summed(wire, call) if link.group.rank == call.root else None


def gather(link: Link, call: Call) -> Begun:
    assert call.root is not None
    x, dst = _dense(call.tensors[0]), link.group.members[call.root]
    if link.group.rank != call.root:
        return [dist.gather(_bytes(x), None, dst, group=link.collective, async_op=True)], lambda: None
    whole = x.new_empty(x.shape[0] * link.group.size, *x.shape[1:])
    rows = list(_bytes(whole).view(link.group.size, -1))
    return [dist.gather(_bytes(x), rows, dst, group=link.collective, async_op=True)], lambda: whole


def barrier(link: Link, call: Call) -> Begun:
    return _works(dist.barrier(group=link.collective, async_op=_later(link, call))), lambda: None


def _later(link: Link, call: Call) -> bool:
    """Whether to begin only. Shared memory is quicker where it knows that its caller waits."""
    return not (call.attended and link.backend == "llmlab")


def _works(work: Any) -> Sequence[Any]:
    """What is left to wait for."""
    return [] if work is None else [work]


# --- between two ranks -----------------------------------------------------------------------------------------------


def send(link: Link, call: Call) -> Begun:
    """gloo hands the bytes over once the receiver has asked for them, and not before: so send waits for its recv."""
    assert call.peer is not None
    return [_isend(link, _dense(call.tensors[0]), call.peer)], lambda: None


def recv(link: Link, call: Call) -> Begun:
    if call.peer is None and link.backend == "nccl":
        raise ValueError("NCCL cannot receive from any rank: recv wants src here, got None")
    x = torch.empty(call.tensors[0].shape, dtype=call.tensors[0].dtype, device=call.tensors[0].device)
    return [_irecv(link, x, call.peer)], lambda: x


def _isend(link: Link, x: Tensor, peer: int, use: str = "") -> Work:
    return dist.isend(_bytes(x), link.group.members[peer], group=link.message, tag=link.tag(use))  # type: ignore[return-value]


def _irecv(link: Link, x: Tensor, peer: int | None, use: str = "") -> Work:
    src = None if peer is None else link.group.members[peer]
    return dist.irecv(_bytes(x), src, group=link.message, tag=link.tag(use))  # type: ignore[return-value]


# --- two steps: shapes first, then data ------------------------------------------------------------------------------
# They run in the group's own thread: an asynchronous call does not wait, and yet goes on while the rank computes.
# Shared memory tells the shape with the data: there they are one step.


def all_to_all(link: Link, call: Call) -> Begun:
    if isinstance(link.collective, SharedMemoryGroup):
        own = _copied(call.tensors[link.group.rank])
        work, came = _hand_over(link, call, dict(enumerate(call.tensors)), link.peers)
        return [work], lambda: [own if i == link.group.rank else came[i] for i in range(link.group.size)]
    return _in_background(link, _exchange, [_travels(call, x) for x in call.tensors])


def scatter(link: Link, call: Call) -> Begun:
    assert call.root is not None
    if isinstance(link.collective, SharedMemoryGroup):
        return _scatter_shared(link, call, call.root)
    if link.group.rank != call.root:
        return _in_background(link, _take_one, call.root)
    return _in_background(link, _hand_out, list(_travels(call, call.tensors[0]).tensor_split(link.group.size)))


def _scatter_shared(link: Link, call: Call, root: int) -> Begun:
    if link.group.rank != root:
        work, came = _hand_over(link, call, {}, [root])
        return [work], lambda: came[root]
    parts = call.tensors[0].tensor_split(link.group.size)
    work, _ = _hand_over(link, call, dict(enumerate(parts)), [])
    own = _copied(parts[root])
    return [work], lambda: own


def _hand_over(
    link: Link, call: Call, parts: dict[int, Tensor], sources: Sequence[int]
) -> tuple[Work, dict[int, Tensor]]:
    """Begin to hand each other rank its part; what the sources have for this one will be in the dictionary."""
    came: dict[int, Tensor] = {}

    def place(source: int, head: Sequence[int]) -> Tensor:
        shape, dtype = from_header(head)
        came[source] = torch.empty(shape, dtype=dtype, device=link.group.device)
        return came[source].view(-1)

    assert isinstance(link.collective, SharedMemoryGroup)
    leaving = {i: (header(call.op, x.shape, x.dtype), _dense(x)) for i, x in parts.items() if i != link.group.rank}
    places = {source: partial(place, source) for source in sources}
    return link.collective.hand_over(leaving, places, call.attended), came


def _in_background(link: Link, job: Callable[..., Any], *args: Any) -> Begun:
    task = Task(link.background.submit(job, link, *args))
    return [task], task.future.result


def _exchange(link: Link, xs: list[Tensor]) -> list[Tensor]:
    """Hand xs[i] to each other rank i and take what it has for this one."""
    sending = [work for i in link.peers for work in _post(link, xs[i], i)]
    taken = dict(zip(link.peers, _take(link, link.peers), strict=True))
    for work in sending:
        work.wait()
    return [taken[i] if i in taken else xs[i] for i in range(link.group.size)]


def _hand_out(link: Link, parts: list[Tensor]) -> Tensor:
    for work in [work for i in link.peers for work in _post(link, parts[i], i)]:
        work.wait()
    return parts[link.group.rank].clone()


def _take_one(link: Link, src: int) -> Tensor:
    return _take(link, [src])[0]


def _post(link: Link, x: Tensor, peer: int) -> list[Work]:
    """Begin to send a tensor after its header. An empty one is all header."""
    head = torch.tensor(header("a message", x.shape, x.dtype), device=x.device)
    works = [_isend(link, head, peer, "header")]
    return [*works, _isend(link, x, peer, "data")] if x.numel() else works


def _take(link: Link, peers: list[int]) -> list[Tensor]:
    """Receive one tensor, of any shape and dtype, from each of some ranks."""
    heads = [torch.zeros(2 + MAX_DIM, dtype=torch.int64, device=link.group.device) for _ in peers]
    for work in [_irecv(link, head, i, "header") for i, head in zip(peers, heads, strict=True)]:
        work.wait()
    xs = []
    for shape, dtype in (from_header(head.tolist()) for head in heads):
        xs.append(torch.empty(shape, dtype=dtype, device=link.group.device))
    for work in [_irecv(link, x, i, "data") for i, x in zip(peers, xs, strict=True) if x.numel()]:
        work.wait()
    return xs


def _travels(call: Call, x: Tensor) -> Tensor:
    """A copy that the group's thread may keep."""
    header(call.op, x.shape, x.dtype)  # refused here, and not in the thread
    return _copied(x)


# --- tensors as they travel ------------------------------------------------------------------------------------------


def _dense(x: Tensor) -> Tensor:
    """The same values, contiguous and without a pending conjugation; shares memory where it can."""
    return x.detach().resolve_conj().resolve_neg().contiguous()


def _copied(x: Tensor) -> Tensor:
    """The same values in memory of their own."""
    return x.detach().clone(memory_format=torch.contiguous_format).resolve_conj().resolve_neg()


def _bytes(x: Tensor) -> Tensor:
    """A contiguous tensor's memory, as bytes."""
    return x.detach().view(-1).view(torch.uint8)


def _landing(call: Call, shape: Sequence[int]) -> Tensor:
    """Where the result can be written to directly: the caller's own output if it is contiguous, or a new tensor."""
    if call.out is not None and call.out.is_contiguous():
        return call.out
    x = call.tensors[0]
    return torch.empty(shape, dtype=x.dtype, device=x.device)


def _give(call: Call, result: Tensor) -> Tensor:
    """The result, in the caller's output if it gave one."""
    if call.out is None or call.out is result:
        return result
    with torch.no_grad():
        return call.out.copy_(result)


def _summand(link: Link, call: Call, written: bool = True) -> tuple[Tensor, Any]:
    """This rank's term of a reduction, and torch's name of it. written: in memory that may be overwritten."""
    x, op = call.tensors[0], call.reduce
    assert op is not None
    if link.backend == "llmlab":  # adds every dtype as it is, and rounds once
        mine = call.out is x and x.is_contiguous() or not written
        return _dense(x) if mine else _copied(x), _REDUCE[op]
    if x.is_complex():
        return torch.view_as_real(_dense(x)).clone(), _REDUCE[op]
    op = _BOOL[op] if x.dtype == torch.bool else op
    dtype = _WIDER.get(x.dtype, x.dtype) if link.backend == "gloo" or x.dtype in (torch.bool, torch.int16) else x.dtype
    if call.out is x and x.is_contiguous() and dtype == x.dtype:
        return x.detach(), _REDUCE[op]
    return x.detach().to(dtype, copy=True, memory_format=torch.contiguous_format), _REDUCE[op]


def _summed(wire: Tensor, call: Call) -> Tensor:
    """Back from the travelling dtype; the caller's own tensor where the sum was made in it."""
    x = call.tensors[0]
    if x.is_complex() and not wire.is_complex():
        return torch.view_as_complex(wire)
    if call.out is x and wire.data_ptr() == x.data_ptr():
        return x
    return wire.to(x.dtype)


OPERATIONS: dict[str, Callable[[Link, Call], Begun]] = {
    "all_reduce": all_reduce, "reduce_scatter": reduce_scatter, "all_gather": all_gather, "all_to_all": all_to_all,
    "broadcast": broadcast, "reduce": reduce, "gather": gather, "scatter": scatter, "barrier": barrier,
    "send": send, "isend": send, "recv": recv, "irecv": recv,
}  # fmt: skip
