"""Which algorithms are written out for which collective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmlab.comm.collectives import halving, naive, ring, tree

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


def find(op: str, algorithm: str) -> Callable[..., Any]:
    """Look an algorithm up. Raises ValueError with the known names."""
    known = ALGORITHMS.get(op, {})
    if algorithm not in known:
        raise ValueError(f"{op} wants algorithm in {', '.join(known) or 'none written out'}; got {algorithm!r}")
    return known[algorithm]
