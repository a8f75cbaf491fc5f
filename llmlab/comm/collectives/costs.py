"""What each algorithm costs: the exact bytes a rank sends, and the time in the latency-bandwidth model.

The model (Hockney 1994; used for all of these in Thakur, Rabenseifner and Gropp 2005, section 3): a message of n bytes
takes latency + n / bandwidth, a rank's port sends and receives one message at a time (several at once share it, and
pay one latency), and arithmetic is free. `nbytes` and `numel` are always what one rank hands over: the whole tensor for
all_reduce, reduce_scatter, broadcast, reduce and scatter, one shard for all_gather and gather, the whole list for
all_to_all.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmlab.arguments import listing, real, whole
from llmlab.comm.call import HEADER_BYTES
from llmlab.comm.collectives.algorithms import find
from llmlab.comm.collectives.halving import corners_of, folds
from llmlab.comm.collectives.messages import chunk_bounds
from llmlab.comm.collectives.tree import children_of, subtree_size


def seconds(op: str, algorithm: str, size: int, nbytes: float, latency_s: float, bytes_per_s: float) -> float:
    """Time of one collective in the latency-bandwidth model, in seconds."""
    real("seconds", "latency_s", latency_s, least=0)
    real("seconds", "bytes_per_s", bytes_per_s, above=0)
    return sum(latency_s + n / bytes_per_s for n in rounds(op, algorithm, size, nbytes))


def steps(op: str, algorithm: str, size: int) -> int:
    """How many messages follow one another on the longest path."""
    return len(rounds(op, algorithm, size, 0))


def rounds(op: str, algorithm: str, size: int, nbytes: float) -> list[float]:
    """The bytes of the longest message in each round, chunks taken as equal."""
    find(op, algorithm)
    whole(op, "size", size, least=1)
    real(op, "nbytes", nbytes, least=0)
    p, chunk = size, nbytes / size
    if p == 1:
        return []
    match op, algorithm:
        case "all_reduce", "ring":
            return [chunk] * 2 * (p - 1)
        case "all_reduce", "halving_doubling":
            swaps = _swaps(p, chunk)
            return [*_if_folded(p, nbytes), *reversed(swaps), *swaps, *_if_folded(p, nbytes)]
        case "all_reduce", _:
            return rounds("reduce", algorithm, p, nbytes) + rounds("broadcast", algorithm, p, nbytes)
        case "reduce_scatter", "halving":
            return [*_if_folded(p, nbytes), *reversed(_swaps(p, chunk)), *_if_folded(p, chunk)]
        case "reduce_scatter" | "all_to_all", "naive":
            return [chunk * (p - 1)]  # at once
        case "reduce_scatter" | "all_to_all", _:
            return [chunk] * (p - 1)
        case "all_gather", "naive":
            return [nbytes * (p - 1)]
        case "all_gather", "doubling":
            return [*_if_folded(p, nbytes), *_swaps(p, nbytes), *_if_folded(p, p * nbytes)]
        case "broadcast", "ring":
            return [chunk] * (2 * p - 2)  # the last rank gets the first of p chunks after p-1 hops
        case "broadcast" | "reduce", "tree":
            return [nbytes] * len(children_of(0, p))
        case "gather", "tree":
            return [nbytes * subtree_size(child, p) for child in reversed(children_of(0, p))]
        case "scatter", "tree":
            return [n for child in children_of(0, p) for n in (HEADER_BYTES, chunk * subtree_size(child, p))]
        case "scatter", "naive":
            return [HEADER_BYTES, chunk] * (p - 1)
        case _:
            return [nbytes] * (p - 1)


def sent_bytes(
    op: str, algorithm: str, rank: int, size: int, numel: int | Sequence[int], itemsize: int, root: int = 0
) -> int:
    """The exact bytes that one rank sends. For all_to_all, `numel` is one number per destination (or one for all)."""
    find(op, algorithm)
    whole(op, "size", size, least=1)
    for name, number in (("rank", rank), ("root", root)):
        whole(op, name, number, least=0, most=size - 1)
    whole(op, "itemsize", itemsize, least=1)
    if op == "all_to_all" and not isinstance(numel, int):
        counts = [whole(op, "each of numel", n, least=0) for n in listing(op, "numel", numel, "one number per rank")]
        if len(counts) != size:
            raise ValueError(f"{op} wants numel as one number, or one per rank ({size}); got {len(counts)}")
        return itemsize * (sum(counts) - counts[rank])
    numel = whole(op, "numel", numel, least=0)
    if op == "all_to_all":
        return itemsize * numel * (size - 1)
    if size == 1:
        return 0
    v = (rank - root) % size
    if op == "scatter":
        return _scattered(algorithm, v, size, itemsize * numel)
    return itemsize * _sent(op, algorithm, rank, v, size, numel)


def _sent(op: str, algorithm: str, rank: int, v: int, p: int, n: int) -> int:
    """Elements sent by a rank, the v-th counted from the root."""
    chunks = _sizes(chunk_bounds(n, p))
    match op, algorithm:
        case "all_reduce", "ring":  # all chunks but the one it completes, then all but the one it needs
            return 2 * n - chunks[rank] - chunks[(rank + 1) % p]
        case "all_reduce", "halving_doubling":
            return _halving(rank, p, chunks) + _doubling(rank, p, chunks)
        case "all_reduce", _:
            return _sent("reduce", algorithm, rank, rank, p, n) + _sent("broadcast", algorithm, rank, rank, p, n)
        case "reduce_scatter", "halving":  # who shares the corner gets its chunk
            return _halving(rank, p, chunks) + (chunks[rank + 1] if folds(rank + 1, p) else 0)
        case "reduce_scatter", _:
            return n - chunks[rank]
        case "all_gather", "doubling":
            return n if folds(rank, p) else _doubling(rank, p, [n] * p)
        case "all_gather", _:
            return (p - 1) * n
        case "broadcast", "tree":
            return len(children_of(v, p)) * n
        case "broadcast", "naive":
            return (p - 1) * n if v == 0 else 0
        case "broadcast", "ring":
            return n if v < p - 1 else 0
        case "gather", "tree":
            return subtree_size(v, p) * n if v else 0
    return n if v else 0  # reduce, and the naive gather: one message to the parent


def _scattered(algorithm: str, v: int, p: int, nbytes: int) -> int:
    """Bytes: a header and a block for each child."""
    if algorithm == "tree":
        return len(children_of(v, p)) * HEADER_BYTES + (subtree_size(v, p) - 1) * nbytes // p
    return (p - 1) * (HEADER_BYTES + nbytes // p) if v == 0 else 0


def _halving(rank: int, p: int, chunks: list[int]) -> int:
    """All but what stays here; who folds sends all."""
    stays = 0 if folds(rank, p) else chunks[rank] + (chunks[rank + 1] if folds(rank + 1, p) else 0)
    return sum(chunks) - stays


def _doubling(rank: int, p: int, chunks: list[int]) -> int:
    """What it holds, at each doubling; then all of it to who shares the corner."""
    if folds(rank, p):
        return 0
    corners = corners_of(p)
    starts, corner, sent, distance = [*corners, p], corners.index(rank), 0, 1
    while distance < len(corners):
        first = corner // distance * distance
        sent += sum(chunks[starts[first] : starts[first + distance]])
        distance *= 2
    return sent + (sum(chunks) if folds(rank + 1, p) else 0)


def _swaps(p: int, chunk: float) -> list[float]:
    """The longest message at each distance 1, 2, 4 ... between corners; the first corners may stand for two chunks."""
    starts = [*corners_of(p), p]
    distances = [1 << k for k in range((len(starts) - 1).bit_length() - 1)]
    return [starts[distance] * chunk for distance in distances]


def _if_folded(p: int, nbytes: float) -> list[float]:
    """One more message where p is not a power of two."""
    return [nbytes] if p & (p - 1) else []


def _sizes(bounds: list[int]) -> list[int]:
    return [b - a for a, b in zip(bounds, bounds[1:], strict=False)]
