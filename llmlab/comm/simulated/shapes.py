"""Results without numbers, remembered: what an operation gives on meta tensors depends on shapes alone.

torch works a meta result out in Python, in about half a millisecond; a model's layers ask the same again and again. The
first time an operation meets these shapes torch runs it, with all its checks; from then on its result is made anew from
what was seen.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Any

import torch
from torch import Tensor

Spec = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]  # shape, stride, dtype
_seen: dict[Hashable, tuple[Spec, ...] | None] = {}  # None: the first argument, written in place


def run_meta(op: torch._ops.OpOverload, args: tuple, kwargs: dict) -> Any:
    """Run an operation on meta tensors."""
    makes_new, writes_first = _result_of(op)
    if not (makes_new or writes_first):  # a view, say
        return op(*args, **kwargs)
    try:
        key = (op, _key(args), _key(tuple(kwargs.items())))
        known = _seen.get(key, False)
    except TypeError:  # an argument that cannot be a key
        return op(*args, **kwargs)
    if isinstance(known, bool):
        result = op(*args, **kwargs)
        if writes_first:
            _seen[key] = None
        elif (specs := _specs(result)) and not _shares(result, (*args, *kwargs.values())):
            _seen[key] = specs
        return result
    if known is None:
        return args[0]
    made = tuple(torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in known)
    return made if len(made) > 1 else made[0]


@cache
def _result_of(op: torch._ops.OpOverload) -> tuple[bool, bool]:
    """Whether it makes new tensors, as add does; whether it writes its first argument and gives it back, as add_."""
    arguments, returns = op._schema.arguments, op._schema.returns
    if not any(a.alias_info is not None for a in (*arguments, *returns)):
        return True, False
    first = arguments[0].alias_info if arguments else None
    others = any(a.alias_info is not None for a in arguments[1:])
    shapes = (
        torch.Tag.inplace_view in op.tags
    )  # squeeze_, resize_ ...: it is the first argument's shape that they write
    return False, first is not None and first.is_write and not others and len(returns) == 1 and not shapes


def _key(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise TypeError("a tensor on the host has values")
        return value.shape, value.stride(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(_key(v) for v in value)
    return type(value), value


def _shares(result: Any, given: tuple) -> bool:
    """Whether a result lies in what was given, whatever the schema says: FSDP2's copies into its buffers do."""
    results, inputs = result if isinstance(result, tuple) else (result,), list(given)
    for value in given:
        inputs += value if isinstance(value, (list, tuple)) else []
    storages = {x.untyped_storage()._cdata for x in inputs if isinstance(x, Tensor)}
    return any(x.untyped_storage()._cdata in storages for x in results)


def _specs(result: Any) -> tuple[Spec, ...]:
    """What to make again; nothing where a result is not all tensors."""
    results = result if isinstance(result, tuple) else (result,)
    if not results or not all(isinstance(x, Tensor) and x.is_meta for x in results):
        return ()
    return tuple((tuple(x.shape), x.stride(), x.dtype) for x in results)
