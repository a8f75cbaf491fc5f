"""What one operation is, said once for every engine: its parts, what its ranks must agree in, its words, its sums.

An engine carries a `Call` out; it never restates what a Call means. `reports.py` has the texts of what goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from llmlab.arguments import choice
from llmlab.comm.where import Place, describe

Result = TypeVar("Result", covariant=True)
MESSAGES = frozenset(("send", "isend", "recv", "irecv"))
ROOTED = frozenset(("broadcast", "reduce", "gather", "scatter"))  # one rank sends, or keeps, for all


@dataclass(slots=True)  # nobody changes one; frozen, it would take three times as long to make
class Call:
    """One rank's part in one operation, checked and ready to be carried out by an engine.

    op: a name of `trace.COMM_OPS`, or "isend", "irecv".  tensors: what this rank hands over (for a recv: the one it is
    like).  root: the group rank that sends or keeps, for broadcast, reduce, gather and scatter.  peer: the other group
    rank of a send or recv, None for any.  out: where the result is to be written, for in-place variants.  gives: False
    where the tensor only says what is to come.  attended: its caller waits for it at once.
    """

    op: str
    tensors: tuple[Tensor, ...] = ()
    reduce: str | None = None
    root: int | None = None
    peer: int | None = None
    out: Tensor | None = None
    gives: bool = True
    attended: bool = False

    @property
    def name(self) -> str:
        """The operation's name in a record: an isend is a send."""
        return self.op.removeprefix("i") if self.op in MESSAGES else self.op

    @property
    def is_message(self) -> bool:
        return self.op in MESSAGES

    @property
    def takes(self) -> bool:
        """Whether the tensor only says what is to come, as in a receive."""
        return self.op in ("recv", "irecv")

    @property
    def nbytes(self) -> int:
        """Bytes this rank hands over: 0 where another rank speaks for all (broadcast, scatter) and in a receive."""
        nbytes = 0
        for x in self.tensors if self.gives else ():
            nbytes += x.numel() * x.element_size()
        return nbytes


class Handle(Protocol[Result]):
    """What an asynchronous call returns."""

    def wait(self) -> Result:
        """Wait until the operation is done and return its result."""


R = TypeVar("R")


@dataclass
class Done(Generic[R]):
    """The handle of an operation that needed nobody else."""

    result: R

    def wait(self) -> R:
        return self.result


# --- what must agree, and how it is named -----------------------------------------------------------------------------


class Signature(NamedTuple):
    """What all ranks of a collective, or both ends of a message, must agree in. None: that may differ."""

    op: str  # "message" for both of its ends
    reduce: str | None = None
    root: int | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None


def signature(call: Call) -> Signature:
    """Say what a call must have in common with the others of its operation."""
    if call.op in ("barrier", "scatter"):  # in a scatter only the root knows the shape
        return Signature(call.op, root=call.root)
    x = call.tensors[0]
    dtype = _name(x.dtype)
    if call.op == "all_to_all":  # each pair may have a shape of its own
        return Signature(call.op, dtype=dtype)
    return Signature("message" if call.is_message else call.op, call.reduce, call.root, tuple(x.shape), dtype)


@cache
def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Side(NamedTuple):
    """One rank's side of an operation, as every report names it. peer: the other's rank in the world, None for any."""

    op: str
    axis: str
    signature: Signature
    peer: int | None
    place: Place

    @property
    def words(self) -> str:
        """The operation in a few words: `all_reduce(sum) on dp ((4, 5) float32)`."""
        s = self.signature
        how = ", ".join(([s.reduce] if s.reduce else []) + ([f"root {s.root}"] if s.root is not None else []))
        whom = {"send": " to ", "recv": " from "}.get(self.op, "")
        whom += "" if not whom else "any rank" if self.peer is None else f"rank {self.peer}"
        what = f" ({s.shape} {s.dtype})" if s.shape is not None else f" ({s.dtype})" if s.dtype else ""
        return f"{self.op}{f'({how})' if how else ''}{whom} on {self.axis}{what}"

    def __str__(self) -> str:
        return f"{self.words}  at {describe(self.place)}"


# --- reductions -------------------------------------------------------------------------------------------------------

REDUCTIONS = ("sum", "avg", "max", "min", "prod")
COMBINE: dict[str, Callable[..., Tensor]] = {  # of two ranks' tensors; "avg" divides the finished sum
    "sum": torch.add, "avg": torch.add, "max": torch.maximum, "min": torch.minimum, "prod": torch.mul,
}  # fmt: skip
_ADDS = (
    torch.bfloat16, torch.bool, torch.float16, torch.float32, torch.float64, torch.int16, torch.int32, torch.int64,
    torch.int8, torch.uint8,
)  # fmt: skip


def check_reduction(op: str, x: Tensor, reduce: str) -> None:
    """Refuse a reduction that not every engine can carry out, on each with the same words."""
    if type(reduce) is not str or reduce not in REDUCTIONS:
        choice(op, "op", reduce, REDUCTIONS)  # refuses it
    if x.is_complex():
        if reduce not in ("sum", "avg"):
            raise ValueError(f"{op} of complex numbers wants op='sum' or 'avg', got {reduce!r}")
    elif x.dtype not in _ADDS:
        names = ", ".join(map(_name, _ADDS))
        raise ValueError(f"{op} wants complex numbers or one of {names}; got {x.dtype}")
    elif reduce == "avg" and not x.is_floating_point():
        raise ValueError(f"{op} wants a floating-point tensor for op='avg', got {x.dtype}")


def reduced(parts: Sequence[Tensor], reduce: str) -> Tensor:
    """Reduce over ranks in rank order, so that it is the same to the bit every time; 16-bit sums are kept in fp32."""
    total = parts[0].clone()
    narrow = total.is_floating_point() and total.dtype.itemsize < 4
    total = total.float() if narrow else total
    for part in parts[1:]:
        COMBINE[reduce](total, part, out=total)
    total = total / len(parts) if reduce == "avg" else total
    return total.to(parts[0].dtype)


# --- shape and dtype as numbers, where they must travel ahead of the data -------------------------------------------

MAX_DIM = 16
HEADER_BYTES = 8 * (2 + MAX_DIM)  # [dtype, number of dimensions, sizes ...] in int64
_DTYPES = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)}, key=str)


def header(op: str, shape: Sequence[int], dtype: torch.dtype) -> list[int]:
    """Put a tensor's shape and dtype in numbers. Raises ValueError where there are more dimensions than fit."""
    if len(shape) > MAX_DIM:
        raise ValueError(f"{op} wants tensors of at most {MAX_DIM} dimensions, got {len(shape)}")
    return [_DTYPES.index(dtype), len(shape), *shape, *[0] * (MAX_DIM - len(shape))]


def from_header(numbers: Sequence[int]) -> tuple[torch.Size, torch.dtype]:
    """Read what `header` wrote."""
    dtype, dims, *sizes = numbers
    return torch.Size(sizes[:dims]), _DTYPES[dtype]


def alone(call: Call) -> Any:
    """Carry a collective out in a group of one: the identity."""
    if call.op == "barrier":
        return None
    if call.op == "all_to_all":
        return [x.clone() for x in call.tensors]
    if call.out is None:
        return call.tensors[0].clone()
    if call.out is not call.tensors[0]:
        call.out.copy_(call.tensors[0])
    return call.out
