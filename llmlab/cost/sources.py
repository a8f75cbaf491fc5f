"""Where each term of a prediction has its constant from: whose it is, how far it may be off, and how it was found."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from llmlab.arguments import instance
from llmlab.cost.ownership import found_by
from llmlab.cost.stack import Stack
from llmlab.cost.stack import stack as find_stack
from llmlab.hardware import Cluster
from llmlab.hardware import cluster as find_cluster

# the constants that a term follows, the first one most
TERMS_OF = {
    "matmul": "matmul", "attention": "attention", "elementwise": "memory", "logits": "matmul", "recompute": "matmul",
    "host": "host", "tensor_parallel": "intra", "context_parallel": "inter", "expert_parallel": "inter",
    "pipeline_messages": "inter", "data_parallel": "inter", "optimizer": "memory",
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """The constant behind a term: a factor on what is published of the device or the link.

    `uncertainty`: another factor, within which it is for two in three. `status`: MEASURED (alone, by a benchmark of
    that kernel or link), FITTED (to whole steps) or ASSUMED (nobody's rows moved it). `owners`: whose it is.
    """

    term: str
    constant: str
    value: float
    uncertainty: float
    status: str
    owners: str


def provenance(stack: str | Stack = "typical", cluster: str | Cluster = "h100") -> list[Source]:
    """Say of each term of a step where its constant is from, for this software on this cluster.

    A stack of one's own has what it says, ASSUMED; a calibrated one is FITTED to its rows.
    """
    found, on = find_stack(stack), find_cluster(cluster)
    instance("provenance", "stack", found, Stack, "or a stack's name, see lab.stacks()")
    settled = found.on(on)
    places = {"everyone": "", "generation": on.device.generation, "network": on.network, "software": found.name}
    sources = []
    for term, constant in TERMS_OF.items():
        value = getattr(settled, constant)
        if found.owners is None:
            status = "FITTED" if found.fitted_to else "ASSUMED"
            sources.append(Source(term, constant, value, exp(found.spread / 2), status, found.fitted_to or found.name))
            continue
        status, owners = found_by(constant, places)
        sigma = found.owners.sigma(constant, places)
        sources.append(Source(term, constant, value, exp(sigma), status, owners))
    return sources
