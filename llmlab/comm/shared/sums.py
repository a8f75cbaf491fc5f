"""What reductions do to the parts of several ranks: always in the order of ranks, so that all get the same bits.

16-bit floats are added in fp32 and rounded once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

_COMBINE: dict[str, Callable[..., Tensor]] = {  # "avg" divides the finished sum
    "sum": torch.add, "avg": torch.add, "prod": torch.mul, "min": torch.minimum, "max": torch.maximum,
    "band": torch.bitwise_and, "bor": torch.bitwise_or, "bxor": torch.bitwise_xor,
}  # fmt: skip
_NAMES = {
    dist.ReduceOp.SUM: "sum", dist.ReduceOp.AVG: "avg", dist.ReduceOp.PRODUCT: "prod", dist.ReduceOp.MIN: "min",
    dist.ReduceOp.MAX: "max", dist.ReduceOp.BAND: "band", dist.ReduceOp.BOR: "bor", dist.ReduceOp.BXOR: "bxor",
}  # fmt: skip


def reduction_of(op: Any, dtype: torch.dtype) -> str:
    """Our word for torch's ReduceOp. Raises ValueError where it cannot be carried out on this dtype."""
    for each, name in _NAMES.items():
        if op == each:
            if not _can(name, dtype):
                raise ValueError(f"shared memory cannot reduce {dtype} by {name}: use another dtype, or backend gloo")
            return name
    raise ValueError(f"shared memory reduces by {', '.join(_NAMES.values())}; got {op}: use another backend")


@functools.cache
def _can(name: str, dtype: torch.dtype) -> bool:
    if name == "avg" and not (dtype.is_floating_point or dtype.is_complex):
        return False
    try:
        x = torch.ones(2, dtype=dtype)
        combine(name, [x, x.clone()], x)
    except RuntimeError:
        return False
    return True


def combine(name: str, parts: Sequence[Tensor], out: Tensor) -> None:
    """Reduce into `out`, which may be one of two parts, or the first of many."""
    function = _COMBINE[name]
    if out.dtype.itemsize == 2 and out.is_floating_point() and (len(parts) > 2 or name == "avg"):
        total = parts[0].float()
        for part in parts[1:]:
            function(total, part, out=total)
        out.copy_(total.div_(len(parts)) if name == "avg" else total)
        return
    if len(parts) == 1:
        out.copy_(parts[0])
    else:
        function(parts[0], parts[1], out=out)
    for part in parts[2:]:
        function(out, part, out=out)
    if name == "avg":
        out.div_(len(parts))
