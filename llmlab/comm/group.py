"""Groups of ranks and what they say to one another: the same names on simulated ranks, processes and GPUs.

A collective's docstring is its placement change. Every call checks what it can before anything is sent, so that
bad input is the same `ValueError` on every rank. A group of size 1 makes every collective the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

REDUCTIONS = ("sum", "avg", "max", "min", "prod")


@dataclass(frozen=True)
class Call:
    """One rank's part in one operation, checked and ready to be carried out by an engine.

    op: a name of `trace.COMM_OPS`, or "isend", "irecv".  tensors: what this rank hands over (for a recv: the one it is
    like).  root: the group rank that sends or keeps, for broadcast, reduce, gather and scatter.  peer: the other group
    rank of a send or recv, None for any.  out: where the result is to be written, for in-place variants.  gives: False
    where the tensor only says what is to come.
    """

    op: str
    tensors: tuple[Tensor, ...] = ()
    reduce: str | None = None
    root: int | None = None
    peer: int | None = None
    out: Tensor | None = None
    gives: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes this rank hands over: 0 where another rank speaks for all (broadcast, scatter) and in a receive."""
        return sum(t.numel() * t.element_size() for t in self.tensors) if self.gives else 0


class Handle(Protocol):
    """What an asynchronous call returns."""

    def wait(self) -> Any:
        """Wait until the operation is done and return its result."""


@dataclass
class Done:
    """The handle of an operation that needed nobody else."""

    result: Any

    def wait(self) -> Any:
        return self.result


class Engine(Protocol):
    """One rank's way to the others. Simulator, Processes and Torchrun each provide one."""

    device: torch.device

    def start(self, group: Group, call: Call) -> Handle:
        """Begin an operation; the handle's wait() gives its result."""

    def prepare(self, families: dict[str, list[tuple[int, ...]]]) -> None:
        """Hear, on every rank alike, of the groups a Mesh is about to use: per axis, the world ranks of each."""

    def synchronize(self) -> None:
        """Let the host wait for its own device."""

    def clock(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...
    def span(self, name: str) -> AbstractContextManager[None]: ...


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

    # --- the engine's own time ------------------------------------------------------------------------------------

    def clock(self) -> float:
        """Seconds since the run began: virtual in the simulator, wall elsewhere."""
        return self.engine.clock()

    def sleep(self, seconds: float) -> None:
        """Let this rank's host do nothing for so many seconds of the engine's own time."""
        if not seconds >= 0:
            raise ValueError(f"sleep wants seconds >= 0, got {seconds}")
        self.engine.sleep(seconds)

    def span(self, name: str) -> AbstractContextManager[None]:
        """Mark what happens inside as one named stretch of this rank's timeline (stream "host")."""
        return self.engine.span(name)

    # --- collectives: every member calls them, in the same order ----------------------------------------------------

    def all_reduce(self, x: Tensor, op: str = "sum", *, async_op: bool = False, algorithm: str | None = None) -> Any:
        """Partial -> Replicate: every rank gets the sum (avg, max, min, prod) over ranks.

        `algorithm`: None for the engine's own; "ring", "tree", "halving_doubling" or "naive" runs the one written out
        in `comm/collectives`, message by message.
        """
        self._check("all_reduce", x, reduce=op)
        return self._collective(Call("all_reduce", (x,), reduce=op), async_op, algorithm)

    def all_reduce_(self, x: Tensor, op: str = "sum", *, async_op: bool = False) -> Any:
        """Partial -> Replicate, written into x."""
        self._check("all_reduce_", x, reduce=op)
        return self._collective(Call("all_reduce", (x,), reduce=op, out=x), async_op)

    def reduce_scatter(
        self, x: Tensor, op: str = "sum", *, async_op: bool = False, algorithm: str | None = None
    ) -> Any:
        """Partial -> Shard(0): rank i gets the i-th slice, along dimension 0, of the sum over ranks."""
        self._check("reduce_scatter", x, reduce=op)
        self._check_splits("reduce_scatter", x)
        return self._collective(Call("reduce_scatter", (x,), reduce=op), async_op, algorithm)

    def reduce_scatter_tensor(self, output: Tensor, x: Tensor, op: str = "sum", *, async_op: bool = False) -> Any:
        """Partial -> Shard(0), written into `output`."""
        self._check("reduce_scatter_tensor", x, reduce=op)
        self._check_splits("reduce_scatter_tensor", x)
        self._check_output("reduce_scatter_tensor", output, x, (x.shape[0] // self.size, *x.shape[1:]))
        return self._collective(Call("reduce_scatter", (x,), reduce=op, out=output), async_op)

    def all_gather(self, x: Tensor, *, async_op: bool = False, algorithm: str | None = None) -> Any:
        """Shard(0) -> Replicate: the ranks' tensors, one after another along dimension 0."""
        self._check("all_gather", x, rows=True)
        return self._collective(Call("all_gather", (x,)), async_op, algorithm)

    def all_gather_into_tensor(self, output: Tensor, x: Tensor, *, async_op: bool = False) -> Any:
        """Shard(0) -> Replicate, written into `output`."""
        self._check("all_gather_into_tensor", x, rows=True)
        self._check_output("all_gather_into_tensor", output, x, (x.shape[0] * self.size, *x.shape[1:]))
        return self._collective(Call("all_gather", (x,), out=output), async_op)

    def all_to_all(self, xs: Sequence[Tensor], *, async_op: bool = False, algorithm: str | None = None) -> Any:
        """Shard(i) -> Shard(j): hand xs[j] to rank j; get the list of what each rank had for this one."""
        if isinstance(xs, Tensor) or len(xs) != self.size:
            got = f"one tensor of shape {tuple(xs.shape)}" if isinstance(xs, Tensor) else f"{len(xs)}"
            raise ValueError(f"all_to_all wants a list with one tensor per rank ({self.size}), got {got}")
        for x in xs:
            self._check("all_to_all", x)
        if len({x.dtype for x in xs}) > 1:
            raise ValueError(f"all_to_all wants one dtype, got {sorted({str(x.dtype) for x in xs})}")
        return self._collective(Call("all_to_all", tuple(xs)), async_op, algorithm)

    def broadcast(self, x: Tensor, src: int, *, async_op: bool = False, algorithm: str | None = None) -> Any:
        """One -> Replicate: every rank gets src's x; the others' x only says the shape and dtype."""
        self._check("broadcast", x, root=src)
        return self._collective(Call("broadcast", (x,), root=src, gives=self.rank == src), async_op, algorithm)

    def broadcast_(self, x: Tensor, src: int, *, async_op: bool = False) -> Any:
        """One -> Replicate, written into x."""
        self._check("broadcast_", x, root=src)
        return self._collective(Call("broadcast", (x,), root=src, out=x, gives=self.rank == src), async_op)

    def reduce(
        self, x: Tensor, dst: int, op: str = "sum", *, async_op: bool = False, algorithm: str | None = None
    ) -> Any:
        """Partial -> One: dst gets the sum over ranks, the others None."""
        self._check("reduce", x, reduce=op, root=dst)
        return self._collective(Call("reduce", (x,), reduce=op, root=dst), async_op, algorithm)

    def gather(self, x: Tensor, dst: int, *, async_op: bool = False, algorithm: str | None = None) -> Any:
        """Shard(0) -> One: dst gets the ranks' tensors one after another along dimension 0, the others None."""
        self._check("gather", x, root=dst, rows=True)
        return self._collective(Call("gather", (x,), root=dst), async_op, algorithm)

    def scatter(self, x: Tensor | None, src: int, *, async_op: bool = False, algorithm: str | None = None) -> Any:
        """One -> Shard(0): rank i gets the i-th slice, along dimension 0, of src's x; the others pass None."""
        self._check_root("scatter", src)
        if self.rank != src:
            return self._collective(Call("scatter", (), root=src), async_op, algorithm)
        if x is None:
            raise ValueError(f"scatter wants a tensor on src={src}, got None")
        self._check("scatter", x, root=src)
        self._check_splits("scatter", x)
        return self._collective(Call("scatter", (x,), root=src), async_op, algorithm)

    def barrier(self, *, async_op: bool = False) -> Any:
        """Wait until every rank is here, and its device has done what it was given."""
        if self.size == 1:
            self.engine.synchronize()
        return self._collective(Call("barrier"), async_op)

    # --- between two ranks ------------------------------------------------------------------------------------------

    def send(self, x: Tensor, dst: int) -> None:
        """Hand x to dst; return when dst has taken it."""
        self._check("send", x)
        self._check_peer("send", dst)
        self.engine.start(self, Call("send", (x,), peer=dst)).wait()

    def isend(self, x: Tensor, dst: int) -> Handle:
        """Begin to hand x to dst. Leave x alone until the handle's wait() returns."""
        self._check("isend", x)
        self._check_peer("isend", dst)
        return self.engine.start(self, Call("isend", (x,), peer=dst))

    def recv(self, like: Tensor, src: int | None = None) -> Tensor:
        """Take the next tensor from src (None: from whoever's is earliest); it has like's shape and dtype."""
        self._check("recv", like, takes=True)
        if src is not None:
            self._check_peer("recv", src)
        return self.engine.start(self, Call("recv", (like,), peer=src, gives=False)).wait()

    def irecv(self, like: Tensor, src: int | None = None) -> Handle:
        """Begin to take a tensor from src; the handle's wait() returns it."""
        self._check("irecv", like, takes=True)
        if src is not None:
            self._check_peer("irecv", src)
        return self.engine.start(self, Call("irecv", (like,), peer=src, gives=False))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _collective(self, call: Call, async_op: bool, algorithm: str | None = None) -> Any:
        if algorithm is not None:
            from llmlab.comm import collectives  # they are written on top of Group

            if async_op:
                raise ValueError(
                    f"{call.op} with algorithm={algorithm!r} runs message by message: async_op must be False"
                )
            return collectives.run(self, call, algorithm)
        handle = Done(_alone(call)) if self.size == 1 else self.engine.start(self, call)
        return handle if async_op else handle.wait()

    def _check(self, op, x, *, reduce=None, root=None, takes=False, rows=False) -> None:
        if not isinstance(x, Tensor):
            raise ValueError(f"{op} wants a tensor, got {type(x).__name__}")
        if x.layout != torch.strided:
            raise ValueError(f"{op} wants a dense tensor, got {x.layout}")
        if x.device.type != self.device.type:
            raise ValueError(f"{op} wants a tensor on this rank's device ({self.device}), got one on {x.device}")
        if x.requires_grad and torch.is_grad_enabled() and not takes:
            raise ValueError(
                f"{op} wants a tensor without gradient, got one with requires_grad=True: its gradient would silently "
                "vanish. Use llmlab.comm.autograd, or detach() it"
            )
        if reduce is not None and reduce not in REDUCTIONS:
            raise ValueError(f"{op} wants op in {', '.join(REDUCTIONS)}; got {reduce!r}")
        if reduce == "avg" and not (x.is_floating_point() or x.is_complex()):
            raise ValueError(f"{op} wants a floating-point tensor for op='avg', got {x.dtype}")
        if rows and x.dim() == 0:
            raise ValueError(
                f"{op} works along dimension 0 and wants at least one dimension, got a scalar: reshape(1) it"
            )
        if root is not None:
            self._check_root(op, root)

    def _check_root(self, op, root) -> None:
        if not isinstance(root, int) or not 0 <= root < self.size:
            raise ValueError(f"{op} wants a rank of the group (0 to {self.size - 1}), got {root!r}")

    def _check_peer(self, op, peer) -> None:
        self._check_root(op, peer)
        if peer == self.rank:
            raise ValueError(f"{op} wants another rank, got this one ({peer})")

    def _check_splits(self, op, x) -> None:
        if x.dim() == 0 or x.shape[0] % self.size:
            got = "a scalar" if x.dim() == 0 else f"size {x.shape[0]}"
            raise ValueError(f"{op} splits dimension 0 over {self.axis}={self.size}: it must divide, got {got}")

    def _check_output(self, op, output, x, shape) -> None:
        if tuple(output.shape) != tuple(shape) or output.dtype != x.dtype:
            raise ValueError(
                f"{op} wants an output of shape {tuple(shape)} and {x.dtype}, "
                f"got {tuple(output.shape)} and {output.dtype}"
            )


def _alone(call: Call) -> Any:
    """The result of a collective in a group of one: the identity."""
    if call.op == "barrier":
        return None
    if call.op == "all_to_all":
        return [x.clone() for x in call.tensors]
    if call.out is None:
        return call.tensors[0].clone()
    if call.out is not call.tensors[0]:
        call.out.copy_(call.tensors[0])
    return call.out


class Mesh:
    """The ranks of a world laid out along named axes; the last axis has neighbouring ranks.

    `Mesh(world, pp=2, dp=2, tp=2)["tp"]` is the Group of this rank's neighbours along tp; `mesh["dp", "tp"]` is the
    Group over both axes together. Make it on every rank, in the same order.
    """

    def __init__(self, world: Group, **axes: int):
        bad = {name: n for name, n in axes.items() if not isinstance(n, int) or n < 1}
        if bad or not axes:
            raise ValueError(f"Mesh wants axes with sizes of at least 1, got {bad or 'no axis'}")
        if prod(axes.values()) != world.size:
            sizes = " x ".join(f"{k}={v}" for k, v in axes.items())
            raise ValueError(
                f"Mesh wants axes that multiply to the world's {world.size} ranks, got {sizes} = {prod(axes.values())}"
            )
        self.world, self.axes = world, dict(axes)
        self.coordinate = self._place(world.rank)
        self._groups: dict[tuple[str, ...], Group] = {}
        world.engine.prepare({name: self._family((name,)) for name in axes})

    def __getitem__(self, names: str | tuple[str, ...]) -> Group:
        names = (names,) if isinstance(names, str) else tuple(names)
        unknown = [name for name in names if name not in self.axes]
        if unknown:
            raise ValueError(f"Mesh has axes {', '.join(self.axes)}; got {unknown[0]!r}")
        if names not in self._groups:
            self._groups[names] = self._group(names)
        return self._groups[names]

    def __repr__(self) -> str:
        return f"Mesh({', '.join(f'{k}={v}' for k, v in self.axes.items())}; here {self.coordinate})"

    def _place(self, rank: int) -> dict[str, int]:
        """Where a rank of the world lies on each axis."""
        place = {}
        for name, n in reversed(self.axes.items()):
            rank, place[name] = divmod(rank, n)
        return place

    def _family(self, names: tuple[str, ...]) -> list[tuple[int, ...]]:
        """All groups along these axes, each the world ranks that differ in these axes only."""
        rows: dict[tuple[int, ...], list[tuple[tuple[int, ...], int]]] = {}
        for rank, member in enumerate(self.world.members):
            place = self._place(rank)
            others = tuple(i for name, i in place.items() if name not in names)
            rows.setdefault(others, []).append((tuple(place[name] for name in names), member))
        return [tuple(member for _, member in sorted(row)) for row in rows.values()]

    def _group(self, names: tuple[str, ...]) -> Group:
        me = self.world.members[self.world.rank]
        members = next(row for row in self._family(names) if me in row)
        return Group(members, members.index(me), "x".join(names), self.world.engine)
