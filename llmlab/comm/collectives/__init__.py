"""Collectives written out from send, isend and recv, as the papers describe them, with their costs.

`group.all_reduce(x, algorithm="ring")` runs one. A collective's docstring is its placement change (Shard, Partial and
Replicate as in torch's DTensor); its module names the paper and draws the idea.
"""

from __future__ import annotations

from typing import Any

from llmlab.comm.call import Call
from llmlab.comm.collectives.algorithms import ALGORITHMS, find
from llmlab.comm.collectives.costs import rounds, seconds, sent_bytes, steps
from llmlab.comm.group import Group

__all__ = ["ALGORITHMS", "rounds", "run", "seconds", "sent_bytes", "steps"]


def run(group: Group, call: Call, algorithm: str) -> Any:
    """Carry out a checked call, message by message, by the algorithm named."""
    written_out = find(call.op, algorithm)
    if call.op == "scatter" and group.device.type == "meta":
        raise ValueError("scatter sends shapes as data and wants a device with numbers, got meta: leave algorithm out")
    if call.op == "all_to_all":
        return written_out(group, call.tensors)
    arguments = [value for value in (call.reduce, call.root) if value is not None]
    result = written_out(group, call.tensors[0] if call.tensors else None, *arguments)
    return result if call.out is None or result is None else call.out.copy_(result)
