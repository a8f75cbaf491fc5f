"""When a mode pays: the least size at which computing takes as long as what has to hide behind it, or be outweighed.

Each threshold is one inequality of network, compute and sizes: a roofline of network against compute (Williams et al.
2009, with the link in memory's place). The letters:

    R    FLOP/s that large matrix products reach; A the same of attention, its whole T x T counted
    W    bytes/s that large messages reach on a rank's link; w bytes of a number
    p    ranks; over one node an all-gather of S bytes takes g S seconds with g = (p - 1) / (p W)

Left out, and told by a simulated run: latency and launches, which put a threshold up; element-wise kernels, the logits
and whatever else is computed, which put it down where messages hide; and the first and the last message of a step,
which have nothing to hide behind. `counted_only` is a cluster without what is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from llmlab.arguments import choice, whole, wholes
from llmlab.hardware import Cluster, Link, cluster

Seconds = Callable[[float], float]


@dataclass(frozen=True)
class Threshold:
    """The size from which on `computing` takes at least as long as what stands `against` it.

    Both are seconds, functions of the size, for one and the same `work`. `least` is infinite where no size is enough.
    """

    mode: str
    size: str
    least: float
    work: str
    computing: Seconds
    against: Seconds
    hides: bool  # computing hides the messages; else it waits for them, and only outweighs them
    obstacle: str = "messages"


def data_parallel(on: str | Cluster = "h100", ranks: int = 8, number_bytes: int = 2) -> Threshold:
    """Tokens T per rank and step from which on backward hides the all-reduce of the gradients.

        4 N T / R  >=  2 w N g            so  T >= w R g / 2, for any model

    N parameters: two products of 2 N FLOPs a token in backward; a reduce-scatter and an all-gather of w N bytes.
    Li et al. 2020, section 3.2, for the overlap.
    """
    on, g = _gathering("data_parallel", on, ranks, number_bytes)
    R = products(on)
    return Threshold(
        "data parallelism", "tokens per rank and step", number_bytes * R * g / 2, "a billion parameters' backward",
        lambda T: 4e9 * T / R, lambda T: 2e9 * number_bytes * g, hides=True,
    )  # fmt: skip


def zero3(on: str | Cluster = "h100", ranks: int = 8, number_bytes: int = 2) -> Threshold:
    """Tokens T per rank and step from which on a block's computing hides the next one's weights.

        forward    2 N T / R  >=  w N g        backward   4 N T / R  >=  2 w N g        so  T >= w R g / 2

    An all-gather in forward; in backward another, and a reduce-scatter of the gradients: half as many bytes again as
    data parallelism, behind half as much computing again. Rajbhandari et al. 2020, section 7.
    """
    on, g = _gathering("zero3", on, ranks, number_bytes)
    R = products(on)
    return Threshold(
        "ZeRO-3", "tokens per rank and step", number_bytes * R * g / 2, "a billion parameters' forward and backward",
        lambda T: 6e9 * T / R, lambda T: 3e9 * number_bytes * g, hides=True,
    )  # fmt: skip


def tensor_parallel(
    on: str | Cluster = "h100", ranks: int = 8, number_bytes: int = 2, *, matrices: int = 2
) -> Threshold:
    """Columns f = d_ff / p of a rank's MLP from which on it computes longer than it waits for its all-reduces.

        6 M n D f / R  >=  4 w n D g       so  f >= 2 w R g / (3 M), for any width D and any n tokens

    M `matrices` (3 with a gate), a product forward and two backward each; an all-reduce in either direction. Nothing
    hides them, so at the threshold half of the time is lost. Shoeybi et al. 2019, section 3.
    """
    on, g = _gathering("tensor_parallel", on, ranks, number_bytes)
    R, M, nD = products(on), whole("tensor_parallel", "matrices", matrices, 2, 3), 4096 * 4096
    return Threshold(
        "tensor parallelism", "d_ff per rank", 2 * number_bytes * R * g / (3 * M),
        "an MLP's forward and backward on 4096 tokens of width 4096",
        lambda f: 6 * M * nD * f / R, lambda f: 4 * number_bytes * nD * g, hides=False,
    )  # fmt: skip


def context_parallel(
    on: str | Cluster = "h100", ranks: int = 8, number_bytes: int = 2, *, queries_per_key: int = 1
) -> Threshold:
    """Tokens t = T / p of a rank from which on ring attention's computing of a block hides the next block's hop.

        forward    4 t t H K / A   >=  2 w t G K / W          so  t >=      w  A / (2 q W)
        backward  10 t t H K / A   >=  2 (w + a) t G K / W    so  t >= (w + a) A / (5 q W), the larger one in 16 bits

    G key heads of q = H / G `queries_per_key`, K numbers each; a = max(w, 4) bytes of a gradient on its way. A counts
    the whole of a causal kernel, which computes half; zigzag computes half of each block, so it is counted whole, too.
    Liu et al. 2023, section 3.
    """
    on = _cluster("context_parallel", on, ranks, number_bytes)
    q = whole("context_parallel", "queries_per_key", queries_per_key, 1)
    A, W, w, a = attending(on), _bandwidth(_hop(on, ranks)), number_bytes, max(number_bytes, 4)
    flops, sent = (4, w) if w / 2 > (w + a) / 5 else (10, w + a)
    return Threshold(
        "ring attention", "tokens of a sequence per rank", 2 * sent * A / (flops * q * W),
        f"a block's {'forward' if flops == 4 else 'backward'} with 32 query heads of 128",
        lambda t: flops * t * t * 4096 / A, lambda t: 2 * sent * t * 4096 / q / W, hides=True,
    )  # fmt: skip


def pipeline_parallel(
    on: str | Cluster = "h100", ranks: int = 8, number_bytes: int = 2, *, d_model: int = 4096, blocks: int = 4
) -> Threshold:
    """Microbatches m from which on a rank computes longer than it waits, under 1F1B.

        m c  >=  (p - 1) c + 2 h ((p - 1) m / p + p - 2)
        so  m >= (p - 1 + 2 (p - 2) r) / (1 - 2 r (p - 1) / p)     with r = h / c = w R / (72 L D W)

    c = 6 n 12 L D D / R seconds of a stage of L `blocks` with n tokens; h = w n D / W of its message. The first term is
    the bubble (Narayanan et al. 2021, section 2.2); the second the messages: p microbatches are under way, and each
    round trip over the p stages has 2 (p - 1) hops. Where hops differ, the stages behind one of the ranks set the pace.
    At the threshold half of the step is lost.
    """
    on = _cluster("pipeline_parallel", on, ranks, number_bytes)
    wholes("pipeline_parallel", 1, d_model=d_model, blocks=blocks)
    p, n = ranks, 4096
    c = 72 * n * blocks * d_model**2 / products(on)
    hops = [number_bytes * n * d_model / _bandwidth(on.link(rank, rank + 1)) for rank in range(p - 1)]
    each = max(2 * sum(hops[rank:]) / (p - rank) for rank in range(p - 1))
    once = (p - 1) * c + 2 * sum(hops) * (p - 2) / (p - 1)
    return Threshold(
        "a pipeline", "microbatches", once / (c - each) if c > each else float("inf"),
        f"microbatches of 4096 tokens, stages of {blocks} blocks of width {d_model}",
        lambda m: m * c, lambda m: once + m * each, hides=False, obstacle="bubble and messages",
    )  # fmt: skip


def expert_parallel(
    on: str | Cluster = "h100", ranks: int = 8, number_bytes: int = 2, *, matrices: int = 2
) -> Threshold:
    """Width F of an expert from which on a rank computes longer than it waits for its all-to-alls.

        6 M s D F / R  >=  4 w s D e       so  F >= 2 w R e / (3 M); over one node e = (p - 1) / (p W)

    s (token, choice) pairs of width D leave a rank and as many arrive: there and back, in forward and in backward; e
    seconds for each byte handed to an all-to-all. M `matrices` of an expert (3 with a gate). Nothing hides them.
    Lepikhin et al. 2021, section 3.2.
    """
    on = _cluster("expert_parallel", on, ranks, number_bytes)
    R, M, sD, e = products(on), whole("expert_parallel", "matrices", matrices, 2, 3), 4096 * 4096, exchanging(on, ranks)
    return Threshold(
        "expert parallelism", "d_ff of an expert", 2 * number_bytes * R * e / (3 * M),
        "the experts' forward and backward on 4096 tokens of width 4096",
        lambda F: 6 * M * sD * F / R, lambda F: 4 * number_bytes * sD * e, hides=False,
    )  # fmt: skip


THRESHOLDS: dict[str, Callable[..., Threshold]] = {
    "data": data_parallel,
    "zero3": zero3,
    "tensor": tensor_parallel,
    "context": context_parallel,
    "pipeline": pipeline_parallel,
    "expert": expert_parallel,
}


def threshold(mode: str, on: str | Cluster = "h100", ranks: int = 8, **sizes: int) -> Threshold:
    """Give the threshold of a mode by its name: one of THRESHOLDS."""
    return THRESHOLDS[choice("threshold", "mode", mode, THRESHOLDS)](on, ranks, **sizes)


def counted_only(on: str | Cluster = "h100") -> Cluster:
    """Give a cluster on which only what the inequalities count takes time: products, attention, bytes on links."""
    on = cluster(on)
    device = replace(on.device, memory_bytes_per_s=float("inf"), launch_s=0.0, ramp_s=0.0)
    intra, inter = (replace(link, latency_s=0.0) for link in (on.intra, on.inter))
    return replace(on, name=f"{on.name}, products and bytes only", device=device, intra=intra, inter=inter)


def products(on: Cluster) -> float:
    """R: FLOP/s that large matrix products reach, in 16 bits."""
    return on.device.peak("bf16") * on.device.matmul_efficiency


def attending(on: Cluster) -> float:
    """A: FLOP/s that attention reaches, in 16 bits."""
    return on.device.peak("bf16") * on.device.attention_efficiency


def gathering(on: Cluster, ranks: int) -> float:
    """g: seconds for each byte of an all-gather or a reduce-scatter over neighbouring ranks.

    In a node (p - 1) / (p W). Across n nodes of k ranks each rank sends a share through its own adapter meanwhile, and
    the slower of the two sets the pace: (k - 1) / (k W) and (n - 1) / (n k V), V bytes/s between nodes.
    """
    k, n = _nodes(on, ranks)
    return max((k - 1) / k / _bandwidth(on.intra), (n - 1) / n / k / _bandwidth(on.inter))


def exchanging(on: Cluster, ranks: int) -> float:
    """e: seconds for each byte a rank hands to an all-to-all: k - 1 of p parts stay in its node, p - k leave it."""
    k, _ = _nodes(on, ranks)
    return max((k - 1) / ranks / _bandwidth(on.intra), (ranks - k) / ranks / _bandwidth(on.inter))


def _gathering(call: str, on: str | Cluster, ranks: int, number_bytes: int) -> tuple[Cluster, float]:
    on = _cluster(call, on, ranks, number_bytes)
    return on, gathering(on, ranks)


def _cluster(call: str, on: str | Cluster, ranks: int, number_bytes: int) -> Cluster:
    whole(call, "ranks", ranks, 2)
    whole(call, "number_bytes", number_bytes, 1)
    return cluster(on)


def _nodes(on: Cluster, ranks: int) -> tuple[int, int]:
    """Ranks on each node, and nodes. Raises ValueError where the last node would be filled in part."""
    local = min(on.devices_per_node, ranks)
    if ranks % local:
        raise ValueError(f"a threshold wants ranks that fill nodes of {local}; got {ranks}")
    return local, ranks // local


def _hop(on: Cluster, ranks: int) -> Link:
    """The slowest link once around the ring."""
    return on.link(0, ranks - 1)  # where there are two nodes, the last rank is not in the first one's


def _bandwidth(link: Link) -> float:
    return link.bytes_per_s * link.efficiency
