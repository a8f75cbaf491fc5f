"""The gradients of data parallelism: right answers, and wrong ones with their hints."""

from __future__ import annotations

import torch

from llmlab.check.gradients import bucket_bytes, data_parallel_scale, overlapped_seconds, unequal_batches


def weighted_right(world, gradient_sum, n_tokens):
    return world.all_reduce(gradient_sum) / world.all_reduce(torch.tensor([float(n_tokens)], dtype=torch.float64))


def weighted_wide(world, gradient_sum, n_tokens):
    return world.all_reduce(gradient_sum) / world.all_reduce(torch.full_like(gradient_sum, n_tokens))


def one_by_one(n, n_bytes, backward, latency, rate, full=lambda i, n, backward: (i + 1) / n * backward):
    sent = 0.0
    for i in range(n):
        sent = max(sent, full(i, n, backward)) + latency + n_bytes / n / rate
    return sent


RIGHT = [
    (overlapped_seconds, one_by_one),
    (data_parallel_scale, lambda world, gradient: world.all_reduce(gradient) / world.size),
    (unequal_batches, weighted_right),
    (bucket_bytes, lambda n, m, no_sync: 4 * n * (1 if no_sync else m)),
]
WRONG = [
    (overlapped_seconds, lambda *a: one_by_one(*a, full=lambda i, n, backward: backward), "nothing is hidden here"),
    (overlapped_seconds, lambda n, size, b, latency, rate: b + latency + size / n / rate, "one bucket at a time"),
    (overlapped_seconds, lambda *a: one_by_one(*a, full=lambda i, n, backward: backward / n), "the link waits, too"),
    (overlapped_seconds, lambda n, size, b, latency, rate: max(b, n * latency + size / rate), "must be full before"),
    (overlapped_seconds, lambda n, size, b, latency, rate: one_by_one(n, size, b, 0, rate), "each bucket pays"),
    (overlapped_seconds, lambda n, size, b, latency, rate: one_by_one(n, size, b, 0, rate) + latency, "bucket pays"),
    (overlapped_seconds, lambda n, size, b, latency, rate: one_by_one(n, 2 * size, b, latency, rate), "go through"),
    (data_parallel_scale, lambda world, gradient: world.all_reduce(gradient), "multiply by 1 / world.size"),
    (data_parallel_scale, lambda world, gradient: world.all_reduce(gradient, "avg") / world.size, "divided twice"),
    (data_parallel_scale, lambda world, gradient: gradient, "own gradient: nothing"),
    (data_parallel_scale, lambda world, gradient: gradient / world.size, "own gradient, divided"),
    (data_parallel_scale, lambda world, gradient: world.all_reduce(gradient) * world.size, "divide by it"),
    (data_parallel_scale, lambda world, gradient: world.all_reduce(gradient) / 2, "right for 2 ranks only"),
    (
        data_parallel_scale,
        lambda world, gradient: world.all_reduce(gradient, "max"),
        "then divide by the number of ranks",
    ),
    (unequal_batches, lambda world, g, n: world.all_reduce(g / n, "avg"), "mean of the ranks' means"),
    (unequal_batches, lambda world, g, n: world.all_reduce(g), "divide by how many there are"),
    (unequal_batches, lambda world, g, n: world.all_reduce(g, "avg"), "divided by the number of ranks"),
    (unequal_batches, lambda world, g, n: world.all_reduce(g) / n, "divided by this rank's tokens"),
    (unequal_batches, lambda world, g, n: g / n, "each rank's own mean"),
    (bucket_bytes, lambda n, m, no_sync: n * (1 if no_sync else m), "these are numbers"),
    (bucket_bytes, lambda n, m, no_sync: 4 * n * (m if no_sync else 1), "the wrong way round"),
    (bucket_bytes, lambda n, m, no_sync: 4 * n * (m - 1 if no_sync else m), "one micro-batch does communicate"),
    (bucket_bytes, lambda n, m, no_sync: 2 * n * (1 if no_sync else m), "as in bf16"),
    (bucket_bytes, lambda n, m, no_sync: 8 * n * (1 if no_sync else m), "what a ring sends"),
    (data_parallel_scale, lambda world, g: weighted_wide(world, g, 1), "dearer than it need be"),
    (unequal_batches, lambda world, g, n: weighted_wide(world, g, n), "dearer than it need be"),
]
