"""When a mode pays: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.thresholds import (
    data_threshold,
    expert_threshold,
    pipeline_threshold,
    ring_threshold,
    tensor_threshold,
    zero3_threshold,
)


def data(R, W, p, w):
    return w * R * (p - 1) / (2 * p * W)


def zero3(R, W, p, w, a, choose=max):
    g = (p - 1) / (p * W)
    return choose(w * R * g / 2, (w + a) * R * g / 4)


def tensor(R, W, p, w, matrices):
    return 2 * w * R * (p - 1) / (3 * matrices * p * W)


def ring(A, W, w, q):
    return w * A / (2 * q * W)


def pipeline(p, r):
    return (p - 1 + 2 * r * (p - 2)) / (1 - 2 * r * (p - 1) / p)


def expert(R, W, V, p, k, choose=max):
    return 2 * R / 3 * choose((k - 1) / (p * W), (p - k) / (p * V))


RIGHT = [
    (data_threshold, data),
    (zero3_threshold, zero3),
    (tensor_threshold, tensor),
    (ring_threshold, ring),
    (pipeline_threshold, pipeline),
    (expert_threshold, expert),
]
WRONG = [
    (data_threshold, lambda *x: data(*x) / 2, "a reduce-scatter and an all-gather"),
    (data_threshold, lambda *x: data(*x) * 2 / 3, "only backward runs"),
    (data_threshold, lambda *x: data(*x) * 2, "two products, 4 FLOPs"),
    (data_threshold, lambda R, W, p, w: w * R / (2 * W), "of the bytes that travel"),
    (data_threshold, lambda R, W, p, w: data(R, W, p, 1), "number_bytes"),
    (data_threshold, lambda *x: data(*x) * 5, "N cancels"),
    (zero3_threshold, lambda *x: zero3(*x, choose=lambda forward, backward: forward), "sends gradients too"),
    (zero3_threshold, lambda *x: zero3(*x, choose=lambda forward, backward: backward), "half the products"),
    (zero3_threshold, lambda *x: zero3(*x, choose=min), "still waits"),
    (zero3_threshold, lambda R, W, p, w, a: (2 * w + a) * R * (p - 1) / (6 * p * W), "hides nothing of forward"),
    (zero3_threshold, lambda R, W, p, w, a: zero3(R, W, p, w, a) * p / (p - 1), "of the bytes travel"),
    (zero3_threshold, lambda R, W, p, w, a: R / W, "the larger T"),
    (tensor_threshold, lambda R, W, p, w, m: tensor(R, W, p, w, m) * p, "a rank's columns"),
    (tensor_threshold, lambda *x: tensor(*x) / 2, "one in backward"),
    (tensor_threshold, lambda R, W, p, w, m: tensor(R, W, p, w, 1), "two backward"),
    (tensor_threshold, lambda *x: tensor(*x) * 3 / 2, "two are backward"),
    (tensor_threshold, lambda R, W, p, w, m: 2 * w * R / (3 * m * W), "of the bytes that travel"),
    (tensor_threshold, lambda R, W, p, w, m: tensor(R, W, p, 1, m), "number_bytes"),
    (tensor_threshold, lambda R, W, p, w, m: R / W, "two all-reduces"),
    (ring_threshold, lambda *x: ring(*x) / 2, "keys and values travel both"),
    (ring_threshold, lambda *x: ring(*x) * 2, "their sum over the values"),
    (ring_threshold, lambda A, W, w, q: ring(A, W, w, 1), "q times fewer"),
    (ring_threshold, lambda A, W, w, q: ring(A, W, w * q, 1), "hide sooner"),
    (ring_threshold, lambda A, W, w, q: ring(A, W, 1, q), "number_bytes"),
    (ring_threshold, lambda A, W, w, q: A / W, "one t cancel"),
    (pipeline_threshold, lambda p, r: p - 1, "hops are waited for"),
    (pipeline_threshold, lambda p, r: p - 1 + 2 * r * (p - 2), "the more of them"),
    (pipeline_threshold, lambda p, r: (p - 1) / (1 - 2 * r * (p - 1) / p), "the bubble grows"),
    (pipeline_threshold, lambda p, r: (p - 1 + 2 * r * (p - 2)) / (1 + 2 * r * (p - 1) / p), "raise the threshold"),
    (pipeline_threshold, lambda p, r: p - 1 + 2 * r * (p - 2) + 2 * r * (p - 1) ** 2 / p, "on both sides"),
    (pipeline_threshold, lambda p, r: p + r, "for m"),
    (expert_threshold, lambda R, W, V, p, k: expert(R, W, V, p, p), "through the slow link"),
    (expert_threshold, lambda *x: expert(*x, choose=lambda inside, outside: inside + outside), "at once"),
    (expert_threshold, lambda *x: expert(*x) / 2, "go and come back"),
    (expert_threshold, lambda *x: expert(*x) * 3, "twice as many"),
    (expert_threshold, lambda R, W, V, p, k: 2 * R / 3 * max((k - 1) / (k * W), (p - k) / (p * V)), "stay in it"),
    (expert_threshold, lambda R, W, V, p, k: R / W, "the slower one counts"),
]
