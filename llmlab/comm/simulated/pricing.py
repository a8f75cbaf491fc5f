"""What a message or a collective costs on a cluster: steps of latency, and bytes through each rank's ports.

The latency-bandwidth model (Thakur, Rabenseifner & Gropp 2005), as communication libraries use it: for each operation
the cheapest of a ring, a tree and a two-level algorithm (inside the node, then across nodes) is chosen by size.
Every device has one port inside its node and one into the network, each with two directions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from llmlab.comm.simulated.clock import Port, picoseconds
from llmlab.hardware import Cluster, Link


@dataclass(frozen=True)
class Plan:
    """One way to carry an operation out: seconds of latency, and bytes per port in each direction."""

    algorithm: str
    latency_s: float
    port_bytes: float = 0.0  # through the port inside the node
    net_bytes: float = 0.0  # through the port into the network


@dataclass(frozen=True)
class Price:
    """What the timeline needs: picoseconds of latency, of transfer when alone, and each port's share of use."""

    algorithm: str
    latency_ps: int
    transfer_ps: int
    loads: dict[Port, float]

    @property
    def alone_ps(self) -> int:
        return self.latency_ps + self.transfer_ps


def collective(
    cluster: Cluster,
    op: str,
    members: tuple[int, ...],
    nbytes: int,
    root: int | None = None,
    ports: frozenset[int] | None = None,
) -> Price:
    """Price a collective. nbytes: the whole payload, that is, what the largest rank holds (all_gather: what it gets).

    ports: the members whose ports are told apart; None for all.
    """
    plans = {"all_to_all": _exchanges, "gather": _rooted, "scatter": _rooted}.get(op, _rings_and_trees)
    shape = _Shape.of(cluster, members)
    best = min(plans(shape, op, nbytes), key=lambda plan: _alone_seconds(shape, plan))
    ranks = members if op not in ("gather", "scatter") or root is None else (members[root],)
    if ports is not None:
        ranks = tuple(rank for rank in ranks if rank in ports)
    return _price(shape, best, ranks)


def message(cluster: Cluster, src: int, dst: int, nbytes: int) -> Price:
    """Price one message between two ranks."""
    link = cluster.link(src, dst)
    port = "port" if link is cluster.intra else "net"
    loads: dict[Port, float] = {(port, "out", src): 1.0, (port, "in", dst): 1.0}
    return Price("message", picoseconds(link.latency_s), picoseconds(nbytes / bandwidth(link)), loads)


def bandwidth(link: Link) -> float:
    """Bytes per second that large messages reach."""
    return link.bytes_per_s * link.efficiency


@dataclass(frozen=True)
class _Shape:
    """How a group lies on the nodes: `local` ranks on each of `nodes` (1 where the nodes are filled unevenly)."""

    intra: Link
    inter: Link
    size: int
    nodes: int
    local: int

    @staticmethod
    def of(cluster: Cluster, members: tuple[int, ...]) -> _Shape:
        per_node = Counter(cluster.node(rank) for rank in members)
        even = len(set(per_node.values())) == 1
        local = min(per_node.values()) if even else 1
        return _Shape(cluster.intra, cluster.inter, len(members), len(per_node), local)

    def hops(self, p: int) -> float:
        """Seconds of latency once around a ring of p ranks."""
        across = self.nodes if self.nodes > 1 else 0
        return across * self.inter.latency_s + (p - across) * self.intra.latency_s

    @property
    def slowest(self) -> float:
        return self.inter.latency_s if self.nodes > 1 else self.intra.latency_s


def _rings_and_trees(shape: _Shape, op: str, n: int) -> Iterator[Plan]:
    """all_reduce goes round twice; reduce_scatter, all_gather, broadcast and reduce once; a barrier carries nothing."""
    p, g = shape.size, shape.local
    rounds = 2 if op in ("all_reduce", "barrier") else 1
    n = 0 if op == "barrier" else n
    share = rounds * n * (p - 1) / p
    across = share / g if shape.nodes > 1 else 0.0
    yield Plan("ring", rounds * shape.hops(p) * (p - 1) / p, share if g > 1 else 0.0, across)
    if op not in ("reduce_scatter", "all_gather"):
        depth = (p - 1).bit_length()
        inside = (g - 1).bit_length()
        latency = inside * shape.intra.latency_s + (depth - inside) * shape.slowest
        yield Plan("tree", rounds * latency, rounds * n if g > 1 else 0.0, rounds * n / g if shape.nodes > 1 else 0.0)
    if shape.nodes > 1 and g > 1:
        inside_s, outside_s = (g - 1) * shape.intra.latency_s, (shape.nodes - 1) * shape.inter.latency_s
        both = 2 * n * (g - 1) / g if op in ("broadcast", "reduce") else rounds * n * (g - 1) / g
        plan = Plan(
            "two_level", rounds * (inside_s + outside_s), both, rounds * n / g * (shape.nodes - 1) / shape.nodes
        )
        yield plan


def _exchanges(shape: _Shape, op: str, n: int) -> Iterator[Plan]:
    """all_to_all: each rank keeps 1/p of its n bytes, sends (g-1)/p inside its node and the rest across."""
    p, g = shape.size, shape.local
    inside, across = n * (g - 1) / p, n * (p - g) / p
    yield Plan("pairwise", shape.hops(p) * (p - 1) / p, inside, across)
    depth = (p - 1).bit_length()
    half = n / 2 * depth  # Bruck 1997: each of log2 p rounds carries half the data
    yield Plan("bruck", depth * shape.slowest, 0.0 if shape.nodes > 1 else half, half if shape.nodes > 1 else 0.0)


def _rooted(shape: _Shape, op: str, n: int) -> Iterator[Plan]:
    """gather, scatter: everything passes the root's ports."""
    p, g = shape.size, shape.local
    depth = (p - 1).bit_length()
    yield Plan("tree", depth * shape.slowest, n * (g - 1) / p, n * (p - g) / p)


def _alone_seconds(shape: _Shape, plan: Plan) -> float:
    return plan.latency_s + max(plan.port_bytes / bandwidth(shape.intra), plan.net_bytes / bandwidth(shape.inter))


def _price(shape: _Shape, plan: Plan, ranks: tuple[int, ...]) -> Price:
    port, net = plan.port_bytes / bandwidth(shape.intra), plan.net_bytes / bandwidth(shape.inter)
    longest = max(port, net)
    loads: dict[Port, float] = {}
    for name, seconds in (("port", port), ("net", net)):
        for rank in ranks if seconds else ():
            for way in ("out", "in"):
                loads[name, way, rank] = seconds / longest
    return Price(plan.algorithm, picoseconds(plan.latency_s), picoseconds(longest), loads)
