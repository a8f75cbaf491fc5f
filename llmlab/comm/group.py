"""Groups of ranks and what they say to one another: the same names on simulated ranks, processes and GPUs.

A collective's docstring is its placement change. Every call checks what it can before anything is sent, so that
bad input is the same `ValueError` on every rank. A group of size 1 makes every collective the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal, Protocol, overload, runtime_checkable

import torch
from torch import Tensor

from llmlab.arguments import flag, real, string
from llmlab.comm import checks
from llmlab.comm.call import Call, Done, Handle, alone

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

Now = Literal[False]  # async_op: the result itself
Later = Literal[True]  # a handle, whose wait() gives the result
Written = str | None  # algorithm: the engine's own, or one written out in `comm/collectives`


class Engine(Protocol):
    """One rank's way to the others. Simulator, Processes and Torchrun each provide one."""

    device: torch.device

    def start(self, group: Group, call: Call) -> Handle[Any]:
        """Begin an operation; the handle's wait() gives its result."""

    def prepare(self, families: dict[str, list[tuple[int, ...]]]) -> None:
        """Hear, on every rank alike, of the groups a Mesh is about to use: per axis, the world ranks of each."""

    def synchronize(self) -> None:
        """Let the host wait for its own device."""

    def clock(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...
    def span(self, name: str) -> AbstractContextManager[None]: ...


@runtime_checkable
class SharesMemory(Protocol):
    """An engine whose ranks can read one another's tensors where they lie."""

    def shared_empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Group:
    """Some ranks that talk to one another. `members` are world ranks; `rank` is this one's place among them."""

    members: tuple[int, ...]
    rank: int
    axis: str
    engine: Engine

    @property
    def size(self) -> int:
        return len(self.members)

    @property
    def device(self) -> torch.device:
        return self.engine.device

    def __repr__(self) -> str:
        return f"Group({self.axis}: rank {self.rank} of {self.size})"

    if not TYPE_CHECKING:  # a type checker finds misspelt names by itself

        def __getattr__(self, name: str) -> Any:
            raise AttributeError(f"a Group has no {name!r}{_nearest(name)}")

    # --- the engine's own time ------------------------------------------------------------------------------------

    def clock(self) -> float:
        """Seconds since the run began: virtual in the simulator, wall elsewhere."""
        return self.engine.clock()

    def sleep(self, seconds: float) -> None:
        """Let this rank's host do nothing for so many seconds of the engine's own time."""
        self.engine.sleep(real("sleep", "seconds", seconds, least=0))

    def span(self, name: str) -> AbstractContextManager[None]:
        """Mark what happens inside as one named stretch of this rank's timeline (stream "host")."""
        return self.engine.span(string("span", "name", name))

    def shared_empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Make an empty tensor for what is handed over again and again: where ranks share memory `all_reduce_` of it
        copies nothing. All ranks make theirs so, or none. Elsewhere it is an ordinary tensor on this rank's device.
        """
        if self.size > 1 and isinstance(self.engine, SharesMemory):
            return self.engine.shared_empty(shape, dtype)
        return torch.empty(tuple(shape), dtype=dtype, device=self.device)

    # --- collectives: every member calls them, in the same order ----------------------------------------------------

    @overload
    def all_reduce(self, x: Tensor, op: str = ..., *, async_op: Now = ..., algorithm: Written = ...) -> Tensor: ...
    @overload
    def all_reduce(self, x: Tensor, op: str = ..., *, async_op: Later) -> Handle[Tensor]: ...
    def all_reduce(self, x: Tensor, op: str = "sum", *, async_op: bool = False, algorithm: Written = None) -> Any:
        """Partial -> Replicate: every rank gets the sum (avg, max, min, prod) over ranks.

        `algorithm`: None for the engine's own; "ring", "tree", "halving_doubling" or "naive" runs the one written out
        in `comm/collectives`, message by message.
        """
        checks.summand(self, "all_reduce", x, op)
        return self._collective(Call("all_reduce", (x,), reduce=op), async_op, algorithm)

    @overload
    def all_reduce_(self, x: Tensor, op: str = ..., *, async_op: Now = ...) -> Tensor: ...
    @overload
    def all_reduce_(self, x: Tensor, op: str = ..., *, async_op: Later) -> Handle[Tensor]: ...
    def all_reduce_(self, x: Tensor, op: str = "sum", *, async_op: bool = False) -> Any:
        """Partial -> Replicate, written into x."""
        checks.summand(self, "all_reduce_", x, op)
        return self._collective(Call("all_reduce", (x,), reduce=op, out=x), async_op)

    @overload
    def reduce_scatter(self, x: Tensor, op: str = ..., *, async_op: Now = ..., algorithm: Written = ...) -> Tensor: ...
    @overload
    def reduce_scatter(self, x: Tensor, op: str = ..., *, async_op: Later) -> Handle[Tensor]: ...
    def reduce_scatter(self, x: Tensor, op: str = "sum", *, async_op: bool = False, algorithm: Written = None) -> Any:
        """Partial -> Shard(0): rank i gets the i-th slice, along dimension 0, of the sum over ranks."""
        checks.summand(self, "reduce_scatter", x, op)
        checks.splits(self, "reduce_scatter", x)
        return self._collective(Call("reduce_scatter", (x,), reduce=op), async_op, algorithm)

    @overload
    def reduce_scatter_tensor(self, output: Tensor, x: Tensor, op: str = ..., *, async_op: Now = ...) -> Tensor: ...
    @overload
    def reduce_scatter_tensor(self, output: Tensor, x: Tensor, op: str = ..., *, async_op: Later) -> Handle[Tensor]: ...
    def reduce_scatter_tensor(self, output: Tensor, x: Tensor, op: str = "sum", *, async_op: bool = False) -> Any:
        """Partial -> Shard(0), written into `output`."""
        checks.summand(self, "reduce_scatter_tensor", x, op)
        checks.splits(self, "reduce_scatter_tensor", x)
        checks.output(self, "reduce_scatter_tensor", output, x, (x.shape[0] // self.size, *x.shape[1:]))
        return self._collective(Call("reduce_scatter", (x,), reduce=op, out=output), async_op)

    @overload
    def all_gather(self, x: Tensor, *, async_op: Now = ..., algorithm: Written = ...) -> Tensor: ...
    @overload
    def all_gather(self, x: Tensor, *, async_op: Later) -> Handle[Tensor]: ...
    def all_gather(self, x: Tensor, *, async_op: bool = False, algorithm: Written = None) -> Any:
        """Shard(0) -> Replicate: the ranks' tensors, one after another along dimension 0."""
        checks.tensor(self, "all_gather", x, rows=True)
        return self._collective(Call("all_gather", (x,)), async_op, algorithm)

    @overload
    def all_gather_into_tensor(self, output: Tensor, x: Tensor, *, async_op: Now = ...) -> Tensor: ...
    @overload
    def all_gather_into_tensor(self, output: Tensor, x: Tensor, *, async_op: Later) -> Handle[Tensor]: ...
    def all_gather_into_tensor(self, output: Tensor, x: Tensor, *, async_op: bool = False) -> Any:
        """Shard(0) -> Replicate, written into `output`."""
        checks.tensor(self, "all_gather_into_tensor", x, rows=True)
        checks.output(self, "all_gather_into_tensor", output, x, (x.shape[0] * self.size, *x.shape[1:]))
        return self._collective(Call("all_gather", (x,), out=output), async_op)

    @overload
    def all_to_all(self, xs: Sequence[Tensor], *, async_op: Now = ..., algorithm: Written = ...) -> list[Tensor]: ...
    @overload
    def all_to_all(self, xs: Sequence[Tensor], *, async_op: Later) -> Handle[list[Tensor]]: ...
    def all_to_all(self, xs: Sequence[Tensor], *, async_op: bool = False, algorithm: Written = None) -> Any:
        """Shard(i) -> Shard(j): hand xs[j] to rank j; get the list of what each rank had for this one."""
        checks.parts(self, "all_to_all", xs)
        return self._collective(Call("all_to_all", tuple(xs)), async_op, algorithm)

    @overload
    def broadcast(self, x: Tensor, src: int, *, async_op: Now = ..., algorithm: Written = ...) -> Tensor: ...
    @overload
    def broadcast(self, x: Tensor, src: int, *, async_op: Later) -> Handle[Tensor]: ...
    def broadcast(self, x: Tensor, src: int, *, async_op: bool = False, algorithm: Written = None) -> Any:
        """One -> Replicate: every rank gets src's x; the others' x only says the shape and dtype."""
        checks.tensor(self, "broadcast", x)
        checks.rank(self, "broadcast", src)
        return self._collective(Call("broadcast", (x,), root=src, gives=self.rank == src), async_op, algorithm)

    @overload
    def broadcast_(self, x: Tensor, src: int, *, async_op: Now = ...) -> Tensor: ...
    @overload
    def broadcast_(self, x: Tensor, src: int, *, async_op: Later) -> Handle[Tensor]: ...
    def broadcast_(self, x: Tensor, src: int, *, async_op: bool = False) -> Any:
        """One -> Replicate, written into x."""
        checks.tensor(self, "broadcast_", x)
        checks.rank(self, "broadcast_", src)
        return self._collective(Call("broadcast", (x,), root=src, out=x, gives=self.rank == src), async_op)

    @overload
    def reduce(
        self, x: Tensor, dst: int, op: str = ..., *, async_op: Now = ..., algorithm: Written = ...
    ) -> Tensor | None: ...
    @overload
    def reduce(self, x: Tensor, dst: int, op: str = ..., *, async_op: Later) -> Handle[Tensor | None]: ...
    def reduce(self, x: Tensor, dst: int, op: str = "sum", *, async_op: bool = False, algorithm: Written = None) -> Any:
        """Partial -> One: dst gets the sum over ranks, the others None."""
        checks.summand(self, "reduce", x, op)
        checks.rank(self, "reduce", dst)
        return self._collective(Call("reduce", (x,), reduce=op, root=dst), async_op, algorithm)

    @overload
    def gather(self, x: Tensor, dst: int, *, async_op: Now = ..., algorithm: Written = ...) -> Tensor | None: ...
    @overload
    def gather(self, x: Tensor, dst: int, *, async_op: Later) -> Handle[Tensor | None]: ...
    def gather(self, x: Tensor, dst: int, *, async_op: bool = False, algorithm: Written = None) -> Any:
        """Shard(0) -> One: dst gets the ranks' tensors one after another along dimension 0, the others None."""
        checks.tensor(self, "gather", x, rows=True)
        checks.rank(self, "gather", dst)
        return self._collective(Call("gather", (x,), root=dst), async_op, algorithm)

    @overload
    def scatter(self, x: Tensor | None, src: int, *, async_op: Now = ..., algorithm: Written = ...) -> Tensor: ...
    @overload
    def scatter(self, x: Tensor | None, src: int, *, async_op: Later) -> Handle[Tensor]: ...
    def scatter(self, x: Tensor | None, src: int, *, async_op: bool = False, algorithm: Written = None) -> Any:
        """One -> Shard(0): rank i gets the i-th slice, along dimension 0, of src's x; the others pass None."""
        checks.rank(self, "scatter", src)
        if self.rank != src:
            return self._collective(Call("scatter", (), root=src), async_op, algorithm)
        if x is None:
            raise ValueError(f"scatter wants a tensor on src={src}, got None")
        checks.tensor(self, "scatter", x)
        checks.splits(self, "scatter", x)
        return self._collective(Call("scatter", (x,), root=src), async_op, algorithm)

    @overload
    def barrier(self, *, async_op: Now = ...) -> None: ...
    @overload
    def barrier(self, *, async_op: Later) -> Handle[None]: ...
    def barrier(self, *, async_op: bool = False) -> Any:
        """Wait until every rank is here, and its device has done what it was given."""
        if self.size == 1:
            self.engine.synchronize()
        return self._collective(Call("barrier"), async_op)

    # --- between two ranks ------------------------------------------------------------------------------------------

    def send(self, x: Tensor, dst: int) -> None:
        """Hand x to dst; return when dst has taken it."""
        checks.tensor(self, "send", x)
        checks.peer(self, "send", dst)
        self.engine.start(self, Call("send", (x,), peer=dst)).wait()

    def isend(self, x: Tensor, dst: int) -> Handle[None]:
        """Begin to hand x to dst. Leave x alone until the handle's wait() returns."""
        checks.tensor(self, "isend", x)
        checks.peer(self, "isend", dst)
        return self.engine.start(self, Call("isend", (x,), peer=dst))

    def recv(self, like: Tensor, src: int | None = None) -> Tensor:
        """Take the next tensor from src (None: from whoever's is earliest); it has like's shape and dtype."""
        checks.tensor(self, "recv", like, takes=True)
        if src is not None:
            checks.peer(self, "recv", src)
        return self.engine.start(self, Call("recv", (like,), peer=src, gives=False)).wait()

    def irecv(self, like: Tensor, src: int | None = None) -> Handle[Tensor]:
        """Begin to take a tensor from src; the handle's wait() returns it."""
        checks.tensor(self, "irecv", like, takes=True)
        if src is not None:
            checks.peer(self, "irecv", src)
        return self.engine.start(self, Call("irecv", (like,), peer=src, gives=False))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _collective(self, call: Call, async_op: bool, algorithm: Written = None) -> Any:
        flag(call.op, "async_op", async_op)
        if algorithm is not None:
            from llmlab.comm import collectives  # they are written on top of Group

            if async_op:
                raise ValueError(
                    f"{call.op} with algorithm={algorithm!r} runs message by message: async_op must be False"
                )
            return collectives.run(self, call, algorithm)
        call.attended = not async_op
        handle: Handle[Any] = Done(alone(call)) if self.size == 1 else self.engine.start(self, call)
        return handle if async_op else handle.wait()


def _nearest(name: str) -> str:
    """Say which operation was meant; nothing for Python's own questions, such as `__deepcopy__`."""
    known = [each for each in dir(Group) if not each.startswith("_")] + ["rank", "axis", "members", "engine"]
    near = [] if name.startswith("_") else get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
