"""The process group of a torch program on simulated ranks: each of torch's operations is a `Call` of ours.

It subclasses ProcessGroup, not Backend, so that DDP's reducer and the functional collectives, which are C++, reach it.
Results are written where torch wants them when the work is waited for, as a real backend has written them by then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cached_property
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from llmlab.comm.call import Call
from llmlab.comm.group import Group
from llmlab.comm.simulated.recorder import unseen
from llmlab.comm.simulated.torch_programs.work import Finish, SimulatedWork

if TYPE_CHECKING:
    from llmlab.comm.simulated.rank import Rank

REDUCTIONS = {
    dist.ReduceOp.SUM: "sum", dist.ReduceOp.AVG: "avg", dist.ReduceOp.MAX: "max", dist.ReduceOp.MIN: "min",
    dist.ReduceOp.PRODUCT: "prod",
}  # fmt: skip
_ProcessGroup: Any = dist.ProcessGroup  # whose stubs name each argument twice, the old way and the new
TORCH = os.path.dirname(torch.__file__) + os.sep
_PASSING = (  # on the way from a program's call to its post
    "group.py", "distributed_c10d.py", "c10d_logger.py", "recorder.py", "recording.py", "meta.py", "overrides.py",
)  # fmt: skip


class SimulatedGroup(_ProcessGroup):
    """Some ranks of a torch program. `members` are world ranks."""

    def __init__(self, rank: Rank, place: int, members: tuple[int, ...], name: str):
        super().__init__(place, len(members))
        self.engine, self.members = rank, members
        self._name, self._desc = name, ""
        self._groups: dict[int, Group] = {}

    # --- what torch asks of a group's names -----------------------------------------------------------------------

    @property
    def group_name(self) -> str:
        return self._name

    @property
    def group_desc(self) -> str:
        return self._desc

    def getGroupName(self) -> str:
        return self._name

    def getGroupDesc(self) -> str:
        return self._desc

    def setGroupName(self, name: str) -> None:
        self._name = name

    def setGroupDesc(self, desc: str) -> None:
        self._desc = desc

    def getBackendName(self) -> str:
        return "simulated"

    _get_backend_name = getBackendName

    @property
    def supports_splitting(self) -> bool:
        return False

    @cached_property
    def axis(self) -> str:
        """What reports and timelines call it: the axis of its mesh, or how the program made it."""
        if self._desc == "default_pg":
            return "world"
        named = self._desc.removeprefix("mesh_")
        return named if named not in ("", "undefined") else f"group {self._name}"

    def group(self, tag: int = 0) -> Group:
        """Our side of it. Messages of another tag are on a channel of their own."""
        if tag not in self._groups:
            made = self._groups[tag] = Group(self.members, self.rank(), self.axis, self.engine)
            keys = self.engine.simulation.meeting.matcher.keys
            # two groups of the same ranks are two, though both may be named "tp"
            vars(made)["_key"] = keys.setdefault((f"{self._name} {tag}", self.members), len(keys))
        return self._groups[tag]

    # --- posting --------------------------------------------------------------------------------------------------

    def _post(
        self, call: Call, outputs: Sequence[Tensor] = (), finish: Finish | None = None, tag: int = 0
    ) -> SimulatedWork:
        post = self.engine.start(self.group(tag), call)
        if begun_by_torch(sys._getframe(1)):
            del self.engine.handles[id(post)]  # torch does not wait for all it begins (Join); a program should
        return SimulatedWork(self.engine, [(post, finish)], outputs)

    def _together(self, works: Sequence[SimulatedWork], outputs: Sequence[Tensor]) -> SimulatedWork:
        return SimulatedWork(self.engine, [part for work in works for part in work.parts], outputs)

    # --- collectives ----------------------------------------------------------------------------------------------

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> SimulatedWork:
        reduce = reduction(opts)
        calls = [Call("all_reduce", (x,), reduce=reduce, out=x) for x in map(plain, tensors)]
        return self._together([self._post(call) for call in calls], tensors)

    allreduce_coalesced = allreduce

    def broadcast(self, tensors: list[Tensor], opts: Any) -> SimulatedWork:
        root = opts.rootRank
        calls = [Call("broadcast", (x,), root=root, out=x, gives=self.rank() == root) for x in map(plain, tensors)]
        return self._together([self._post(call) for call in calls], tensors)

    def reduce(self, tensors: list[Tensor], opts: Any) -> SimulatedWork:
        x, root = plain(tensors[0]), opts.rootRank
        keep = x.copy_ if self.rank() == root else None
        return self._post(Call("reduce", (x,), reduce=reduction(opts), root=root), tensors, keep)

    def all_gather_single(self, output: Tensor, x: Tensor, opts: Any = None) -> SimulatedWork:
        return self._post(Call("all_gather", (flat(x),), out=flat_view(output)), [output])

    def all_gather_single_coalesced(self, outputs: list[Tensor], xs: list[Tensor], opts: Any = None) -> SimulatedWork:
        works = [self.all_gather_single(out, x, opts) for out, x in zip(outputs, xs, strict=True)]
        return self._together(works, outputs)

    def allgather(self, outputs: list[list[Tensor]], xs: list[Tensor], opts: Any = None) -> SimulatedWork:
        wanted = [plain(out) for out in outputs[0]]
        return self._post(Call("all_gather", (flat(xs[0]),)), outputs[0], lambda got: deal(got, wanted))

    def reduce_scatter_single(self, output: Tensor, x: Tensor, opts: Any = None) -> SimulatedWork:
        call = Call("reduce_scatter", (flat(x),), reduce=reduction(opts), out=flat_view(output))
        return self._post(call, [output])

    def reduce_scatter_single_coalesced(
        self, outputs: list[Tensor], xs: list[Tensor], opts: Any = None
    ) -> SimulatedWork:
        works = [self.reduce_scatter_single(out, x, opts) for out, x in zip(outputs, xs, strict=True)]
        return self._together(works, outputs)

    def reduce_scatter(self, outputs: list[Tensor], xs: list[list[Tensor]], opts: Any = None) -> SimulatedWork:
        return self.reduce_scatter_single(outputs[0], joined(xs[0]), opts)

    def alltoall(self, outputs: list[Tensor], xs: list[Tensor], opts: Any = None) -> SimulatedWork:
        wanted = [plain(out) for out in outputs]

        def keep(got: list[Tensor]) -> None:
            for out, part in zip(wanted, got, strict=True):
                out.copy_(part.view(out.shape))

        return self._post(Call("all_to_all", tuple(map(plain, xs))), outputs, keep)

    def all_to_all_single(
        self, output: Tensor, x: Tensor, output_sizes: Sequence[int], input_sizes: Sequence[int], opts: Any = None
    ) -> SimulatedWork:
        return self.alltoall(self._cut(output, output_sizes), self._cut(x, input_sizes), opts)

    def _cut(self, x: Tensor, sizes: Sequence[int]) -> list[Tensor]:
        with unseen():
            return list(plain(x).split(list(sizes)) if len(sizes) else plain(x).chunk(self.size()))

    def gather(self, outputs: list[list[Tensor]], xs: list[Tensor], opts: Any) -> SimulatedWork:
        wanted = [plain(out) for out in outputs[0]] if self.rank() == opts.rootRank else None
        keep = None if wanted is None else lambda got: deal(got, wanted)
        return self._post(Call("gather", (flat(xs[0]),), root=opts.rootRank), outputs[0] if outputs else [], keep)

    def scatter(self, outputs: list[Tensor], xs: list[list[Tensor]], opts: Any) -> SimulatedWork:
        given = (joined(xs[0]),) if self.rank() == opts.rootRank else ()
        out = plain(outputs[0])
        return self._post(
            Call("scatter", given, root=opts.rootRank), outputs, lambda got: out.copy_(got.view(out.shape))
        )

    def barrier(self, opts: Any = None) -> SimulatedWork:
        return self._post(Call("barrier"))

    # --- messages: as bytes, whatever the shapes at both ends ---------------------------------------------------------

    def send(self, tensors: list[Tensor], to: int, tag: int) -> SimulatedWork:
        return self._post(Call("isend", (flat(tensors[0]),), peer=to), tensors, tag=tag)

    def recv(self, tensors: list[Tensor], source: int | None, tag: int) -> SimulatedWork:
        x = plain(tensors[0])
        call = Call("irecv", (flat(x),), peer=source, gives=False)
        return self._post(call, tensors, lambda got: x.copy_(got.view(x.shape)), tag)

    def recv_anysource(self, tensors: list[Tensor], tag: int) -> SimulatedWork:
        return self.recv(tensors, None, tag)

    # --- the same under the names of older torch --------------------------------------------------------------------

    _allgather_base, _reduce_scatter_base, alltoall_base = all_gather_single, reduce_scatter_single, all_to_all_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced


def begun_by_torch(frame: FrameType | None) -> bool:
    """Whether torch's own code calls for an operation, as DDP does, and not the program through `torch.distributed`."""
    while frame is not None and os.path.basename(frame.f_code.co_filename) in _PASSING:
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(TORCH)


def reduction(opts: Any) -> str:
    """Name a ReduceOp as we do. Raises ValueError for one that no simulated rank can carry out."""
    wanted = dist.ReduceOp.SUM if opts is None else opts.reduceOp
    for op, name in REDUCTIONS.items():
        if wanted == op:
            return name
    raise ValueError(f"simulated ranks reduce by {', '.join(REDUCTIONS.values())}, got {wanted}")


def plain(x: Tensor) -> Tensor:
    """What is communicated of a program's tensor: its values without gradient, and those of a functional collective."""
    waiting = getattr(x, "trigger_wait", None)
    with unseen():
        return (x if waiting is None else waiting()).detach()


def flat(x: Tensor) -> Tensor:
    with unseen():
        return plain(x).reshape(-1)


def flat_view(x: Tensor) -> Tensor:
    """The same memory in one dimension: what is written to it is written to x."""
    with unseen():
        return plain(x).view(-1)


def joined(xs: Sequence[Tensor]) -> Tensor:
    with unseen():
        return torch.cat([flat(x) for x in xs])


def deal(got: Tensor, outputs: Sequence[Tensor]) -> None:
    """Give each output its part of what was gathered."""
    for out, part in zip(outputs, got.chunk(len(outputs)), strict=True):
        out.copy_(part.view(out.shape))
