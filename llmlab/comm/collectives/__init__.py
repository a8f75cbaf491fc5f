"""Collectives written out from send, isend and recv, as the papers describe them, with their costs.

`group.all_reduce(x, algorithm="ring")` runs one. A collective's docstring is its placement change (Shard, Partial and
Replicate as in torch's DTensor); its module names the paper and draws the idea.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmlab.comm.collectives import halving, naive, ring, tree
from llmlab.comm.collectives.costs import rounds, seconds, sent_bytes, steps
from llmlab.comm.group import Call, Group

ALGORITHMS: dict[str, dict[str, Callable[..., Any]]] = {
    "all_reduce": {
        "ring": ring.all_reduce,
        "tree": tree.all_reduce,
        "halving_doubling": halving.all_reduce,
        "naive": naive.all_reduce,
    },
    "reduce_scatter": {
        "ring": ring.reduce_scatter,
        "halving": halving.reduce_scatter,
        "naive": naive.reduce_scatter,
    },
    "all_gather": {"ring": ring.all_gather, "doubling": halving.all_gather, "naive": naive.all_gather},
    "broadcast": {"tree": tree.broadcast, "ring": ring.broadcast, "naive": naive.broadcast},
    "reduce": {"tree": tree.reduce, "naive": naive.reduce},
    "gather": {"tree": tree.gather, "naive": naive.gather},
    "scatter": {"tree": tree.scatter, "naive": naive.scatter},
    "all_to_all": {"pairwise": naive.all_to_all_pairwise, "naive": naive.all_to_all},
}

__all__ = ["ALGORITHMS", "rounds", "run", "seconds", "sent_bytes", "steps"]


def run(group: Group, call: Call, algorithm: str) -> Any:
    """Carry out a checked call, message by message, by the algorithm named."""
    known = ALGORITHMS.get(call.op, {})
    if algorithm not in known:
        raise ValueError(f"{call.op} wants algorithm in {', '.join(known) or 'none written out'}; got {algorithm!r}")
    if call.op == "scatter" and group.device.type == "meta":
        raise ValueError("scatter sends shapes as data and wants a device with numbers, got meta: leave algorithm out")
    if call.op == "all_to_all":
        return known[algorithm](group, call.tensors)
    arguments = [value for value in (call.reduce, call.root) if value is not None]
    result = known[algorithm](group, call.tensors[0] if call.tensors else None, *arguments)
    return result if call.out is None or result is None else call.out.copy_(result)
