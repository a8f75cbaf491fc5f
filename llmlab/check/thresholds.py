"""Exercises of notebooks 20, 22, 23, 24, 25 and 27: the size from which on a mode pays.

R: FLOP/s that products reach; W: bytes/s of a rank's link, every rank's alike; p ranks. No latency, no launches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llmlab.check.examine import Case, Result, examine

HARDWARE = ((722e12, 328e9, 8), (722e12, 45e9, 64), (120e12, 10e9, 2))  # R, W, p


def data_threshold(answer: Callable[..., Any]) -> Result:
    """`answer(R, W, p, number_bytes)`: tokens per rank and step from which on backward hides the all-reduce.

    Backward is 4 FLOPs a parameter and token; an all-reduce is a reduce-scatter and an all-gather.
    """
    hint = "set 4 N T / R equal to 2 w N (p - 1) / (p W) and solve for T: N cancels."
    return examine("data_threshold", answer, _data(answer), hint)


def _data(answer: Any) -> Iterator[Case]:
    for (R, W, p), w in zip(HARDWARE, (2, 2, 4), strict=True):
        right = w * R * (p - 1) / (2 * p * W)
        mistakes = [
            (right / 2, "one pass over the gradients: an all-reduce is a reduce-scatter and an all-gather."),
            (right * 2 / 3, "forward counted too: only backward runs while gradients are sent."),
            (right * 2, "2 FLOPs a parameter and token, as in forward: backward has two products, 4 FLOPs."),
            (right * p / (p - 1), "a rank sends what it keeps: it is (p - 1) / p of the bytes that travel."),
            (right / w, "these are numbers: each takes number_bytes."),
        ]
        yield Case(_what(R, W, p, f"{w} bytes"), partial(answer, R, W, p, w), right, mistakes)


def zero3_threshold(answer: Callable[..., Any]) -> Result:
    """`answer(R, W, p, weight_bytes, gradient_bytes)`: tokens per rank and step that hide ZeRO-3's messages.

    Weights are gathered in forward and again in backward, where the gradients are reduce-scattered as well. Both
    directions must hide what they send.
    """
    hint = "forward: 2 N T / R against w N g; backward: 4 N T / R against (w + a) N g; the larger T of the two."
    return examine("zero3_threshold", answer, _zero3(answer), hint)


def _zero3(answer: Any) -> Iterator[Case]:
    for (R, W, p), w, a in zip(HARDWARE, (2, 1, 2), (1, 2, 4), strict=True):
        g = (p - 1) / (p * W)
        forward, backward = w * R * g / 2, (w + a) * R * g / 4
        mistakes = [
            (forward, "forward alone: backward sends gradients too, and may be the one that waits."),
            (backward, "backward alone: forward has half the products, and may be the one that waits."),
            ((2 * w + a) * R * g / 6, "the step as a whole: time left over in backward hides nothing of forward."),
            (min(forward, backward), "the smaller of the two: there one direction still waits."),
            (max(forward, backward) * p / (p - 1), "a rank sends what it keeps: (p - 1) / p of the bytes travel."),
        ]
        what = _what(R, W, p, f"weights of {w} bytes, gradients of {a}")
        yield Case(what, partial(answer, R, W, p, w, a), max(forward, backward), mistakes)


def tensor_threshold(answer: Callable[..., Any]) -> Result:
    """`answer(R, W, p, number_bytes, matrices)`: columns d_ff / p from which on an MLP computes longer than it waits.

    Forward and backward, on any number of tokens of any width; matrices: 2, or 3 with a gate.
    """
    hint = "6 M n D f / R against two all-reduces of n D numbers, each twice (p - 1) / p of them on the wire."
    return examine("tensor_threshold", answer, _tensor(answer), hint)


def _tensor(answer: Any) -> Iterator[Case]:
    for (R, W, p), w, matrices in zip(HARDWARE, (2, 2, 4), (2, 3, 3), strict=True):
        right = 2 * w * R * (p - 1) / (3 * matrices * p * W)
        mistakes = [
            (right * p, "all of d_ff: asked are a rank's columns."),
            (right / 2, "one all-reduce: there is one in forward and one in backward."),
            (right * matrices, "one matrix: each of them is a product forward and two backward."),
            (right * 3 / 2, "two products a matrix: one is forward, two are backward."),
            (right * p / (p - 1), "a rank sends what it keeps: it is (p - 1) / p of the bytes that travel."),
            (right / w, "these are numbers: each takes number_bytes."),
        ]
        what = _what(R, W, p, f"{w} bytes, {matrices} matrices")
        yield Case(what, partial(answer, R, W, p, w, matrices), right, mistakes)


def ring_threshold(answer: Callable[..., Any]) -> Result:
    """`answer(A, W, number_bytes, queries_per_key)`: tokens of a rank from which on a block's forward hides a hop.

    A: FLOP/s that attention reaches. A block is the rank's t queries with t keys: two products of 2 t t K FLOPs a head.
    """
    hint = "4 t t H K / A against 2 w t G K / W, with q = H / G: H, G, K and one t cancel."
    return examine("ring_threshold", answer, _ring(answer), hint)


def _ring(answer: Any) -> Iterator[Case]:
    for (A, W, _), w, q in zip(HARDWARE, (2, 2, 4), (1, 8, 4), strict=True):
        right = w * A / (2 * q * W)
        mistakes = [
            (right / 2, "one tensor: keys and values travel both."),
            (right * 2, "one product: scores, and then their sum over the values."),
            (right * q, "as many key heads as query heads: with grouped queries q times fewer numbers travel."),
            (right * q * q, "the other way round: grouped queries send less, so they hide sooner."),
            (right / w, "these are numbers: each takes number_bytes."),
        ]
        what = f"{A / 1e12:.0f} TFLOP/s, {W / 1e9:.0f} GB/s, {w} bytes, {q} query heads to a key head"
        yield Case(what, partial(answer, A, W, w, q), right, mistakes)


def pipeline_threshold(answer: Callable[..., Any]) -> Result:
    """`answer(p, r)`: microbatches from which on a rank computes longer than it waits, under 1F1B.

    In units of a microbatch's forward and backward on a stage: the bubble is p - 1; a hop takes r, and of hops a rank
    waits for 2 r (p - 1) / p with each microbatch and for 2 r (p - 2) once. Give the number, not rounded.
    """
    hint = "solve m = p - 1 + 2 r (p - 2) + 2 r m (p - 1) / p for m."
    return examine("pipeline_threshold", answer, _pipeline(answer), hint)


def _pipeline(answer: Any) -> Iterator[Case]:
    for p, r in ((4, 0.0), (4, 0.1), (8, 0.25), (2, 0.3)):
        once, each = p - 1 + 2 * r * (p - 2), 2 * r * (p - 1) / p
        mistakes = [
            (p - 1, "the bubble alone: hops are waited for, too."),
            (once, "the hops of a microbatch are missing: the more microbatches, the more of them."),
            ((p - 1) / (1 - each), "the hops at the step's ends are missing: the bubble grows by them."),
            (once + each * (p - 1), "hops counted for p - 1 microbatches: m is on both sides; bring it to one."),
            (once / (1 + each), "the wrong sign: hops raise the threshold."),
        ]
        yield Case(f"{p} ranks, a hop of {r:g}", partial(answer, p, r), once / (1 - each), mistakes)


def expert_threshold(answer: Callable[..., Any]) -> Result:
    """`answer(R, W, V, p, k)`: width of an expert from which on a rank computes longer than it waits for its tokens.

    p ranks, k of them in each node; W bytes/s of a rank inside its node, V between nodes, both at once. Two matrices,
    numbers of 2 bytes, forward and backward: four all-to-alls.
    """
    hint = (
        "F = 2 w R e / (3 M); of each byte (k - 1) / p stays in the node, (p - k) / p leaves it; the slower one counts."
    )
    return examine("expert_threshold", answer, _expert(answer), hint)


def _expert(answer: Any) -> Iterator[Case]:
    for R, W, V, p, k in ((722e12, 328e9, 45e9, 8, 8), (722e12, 328e9, 45e9, 64, 8), (722e12, 328e9, 200e9, 16, 8)):
        inside, outside, scale = (k - 1) / (p * W), (p - k) / (p * V), 2 * R / 3
        mistakes = [
            (scale * (p - 1) / (p * W), "one node: from p - k ranks the tokens come through the slow link."),
            (scale * (inside + outside), "one after the other: both links work at once, and the slower sets the pace."),
            (scale * max(inside, outside) / 2, "two all-to-alls: tokens go and come back, in forward and in backward."),
            (scale * max(inside, outside) * 3, "forward's products alone: backward has twice as many."),
            (scale * max((k - 1) / (k * W), outside), "all to the node's ranks: (k - 1) / p of the bytes stay in it."),
        ]
        what = f"{R / 1e12:.0f} TFLOP/s, {W / 1e9:.0f} and {V / 1e9:.0f} GB/s, {p} ranks, {k} in a node"
        yield Case(what, partial(answer, R, W, V, p, k), scale * max(inside, outside), mistakes)


def _what(R: float, W: float, p: int, sizes: str) -> str:
    return f"{R / 1e12:.0f} TFLOP/s, {W / 1e9:.0f} GB/s, {p} ranks, {sizes}"
