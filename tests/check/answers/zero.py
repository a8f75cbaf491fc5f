"""ZeRO: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.zero import lowest_stage, shard_bounds, sharded_step, zero_ring_bytes, zero_state_bytes


def bounds(n, rank, size):
    part = -(-n // size)
    return min(rank * part, n), min((rank + 1) * part, n)


def step(op="avg", gather=True, sign=-1.0):
    def answer(world, weights, gradient, lr):
        mine = weights.chunk(world.size)[world.rank] + sign * lr * world.reduce_scatter(gradient, op=op)
        return world.all_gather(mine) if gather else mine

    return answer


def with_all_reduce(world, weights, gradient, lr):
    return weights - lr * world.all_reduce(gradient, "avg")


def states(n_param, ranks, stage):
    parts = [2 / ranks if stage == 3 else 2, 2 / ranks if stage >= 2 else 2, 12 / ranks if stage >= 1 else 12]
    return n_param * sum(parts)


def ring(n_param, ranks, stage):
    return (3 if stage == 3 else 2) * 2 * n_param * (ranks - 1) / ranks


def lowest(n, ranks, memory, adam=12, stages=(0, 1, 2, 3)):
    held = {0: 4 + adam, 1: 4 + adam / ranks, 2: 2 + (2 + adam) / ranks, 3: (4 + adam) / ranks}
    return next((stage for stage in stages if n * held[stage] <= memory), -1)


RIGHT = [
    (shard_bounds, bounds),
    (sharded_step, step()),
    (zero_state_bytes, states),
    (zero_ring_bytes, ring),
    (lowest_stage, lowest),
]
WRONG = [
    (shard_bounds, lambda n, r, s: (r * -(-n // s), (r + 1) * -(-n // s)), "the padding is counted"),
    (shard_bounds, lambda n, r, s: (r * (n // s), (r + 1) * (n // s)), "rounded down"),
    (shard_bounds, lambda n, r, s: (r * (n // s), n if r == s - 1 else (r + 1) * (n // s)), "the last rank gets more"),
    (shard_bounds, lambda n, r, s: (r * -(-n // s), min((r + 1) * -(-n // s), n)), "start, too"),
    (shard_bounds, lambda n, r, s: (0, n), "rounded up"),
    (sharded_step, step("sum"), "the sum of the gradients"),
    (sharded_step, step(gather=False), "this is this rank's slice"),
    (sharded_step, step(sign=1.0), "uphill"),
    (sharded_step, lambda world, w, g, lr: w - lr * g, "nothing was averaged"),
    (sharded_step, with_all_reduce, "an all_reduce was called"),
    (zero_state_bytes, lambda n, p, s: 16 * n / p, "this is stage 3"),
    (zero_state_bytes, lambda n, p, s: states(n, p, min(s, 2)), "shards the weights, too"),
    (zero_state_bytes, lambda n, p, s: states(n, p, 1 if s == 2 else s), "shards the gradients, too"),
    (zero_state_bytes, lambda n, p, s: states(n, p, s) - n * (4 / p if s else 4), "Adam keeps 12"),
    (zero_ring_bytes, lambda n, p, s: 4 * n * (p - 1) / p, "gathers twice"),
    (zero_ring_bytes, lambda n, p, s: ring(n, p, s) / 2, "each takes 2 bytes"),
    (zero_ring_bytes, lambda n, p, s: ring(n, p, s) * p / (p - 1), "does not send what it keeps"),
    (zero_ring_bytes, lambda n, p, s: ring(n, p, s if s == 0 else 3), "what an all_reduce sends"),
    (zero_ring_bytes, lambda n, p, s: ring(n, p, s) * (4 / 3 if s == 3 else 1), "not gathered"),
    (lowest_stage, lambda *a: lowest(*a, stages=(3,)), "the lowest that fits"),
    (lowest_stage, lambda n, ranks, memory: min(lowest(n, ranks, memory, stages=(0, 3)), 1), "4 stay whole"),
    (lowest_stage, lambda *a: lowest(*a, adam=8), "Adam keeps 12 bytes"),
    (lowest_stage, lambda *a: lowest(*a) % 4, "does not fit even in stage 3"),
]
