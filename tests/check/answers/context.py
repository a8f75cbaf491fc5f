"""Context parallelism: right answers, and wrong ones with their hints."""

from __future__ import annotations

import torch

from llmlab.check.context import combine_blocks, longest_context, ring_attention, ring_attention_bytes, zigzag


def slices(seq, size):
    return [list(part) for part in torch.arange(seq).view(2 * size, -1).tolist()]


def combined(weigh=torch.exp, lse=torch.logaddexp):
    def answer(out_a, lse_a, out_b, lse_b):
        a, b = weigh(lse_a)[:, None], weigh(lse_b)[:, None]
        return (a * out_a + b * out_b) / (a + b), lse(lse_a, lse_b)

    return answer


def block(q, k, v, scale=0.5):
    scores = q @ k.T * scale
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def rings(combine=combined(), scale=0.5):  # noqa: B008 (a function is no mutable default)
    def answer(world, q, k, v):
        out, lse = block(q, k, v, scale)
        for _ in range(world.size - 1):
            sent = [world.isend(x, (world.rank + 1) % world.size) for x in (k, v)]
            k, v = (world.recv(x, (world.rank - 1) % world.size) for x in (k, v))
            for handle in sent:
                handle.wait()
            out, lse = combine(out, lse, *block(q, k, v, scale))
        return out

    return answer


def mean_of_blocks(world, q, k, v):
    everyones = zip(world.all_gather(k).chunk(world.size), world.all_gather(v).chunk(world.size), strict=True)
    return torch.stack([block(q, *theirs)[0] for theirs in everyones]).mean(0)


def hops(forward=1, backward=1, gradients=0, factor=1):
    def answer(batch, seq, ranks, heads, dim):
        return (
            factor
            * 2
            * batch
            * seq
            // ranks
            * heads
            * dim
            * ((forward + backward) * (ranks - 1) + gradients + ranks)
            * 4
        )

    return answer


def last_block(world, q, k, v):
    sent = [world.isend(x, (world.rank + 1) % world.size) for x in (k, v)]
    k, v = (world.recv(x, (world.rank - 1) % world.size) for x in (k, v))
    for handle in sent:
        handle.wait()
    return block(q, k, v)[0]


RIGHT = [
    (zigzag, lambda seq, rank, size: slices(seq, size)[rank] + slices(seq, size)[2 * size - 1 - rank]),
    (combine_blocks, combined()),
    (ring_attention, rings()),
    (ring_attention_bytes, hops()),
    (longest_context, lambda capacity, fixed, token, ranks: (capacity - fixed) // token // 2 * 2 * ranks),
]
WRONG = [
    (zigzag, lambda seq, rank, size: list(range(rank * seq // size, (rank + 1) * seq // size)), "contiguous"),
    (zigzag, lambda seq, rank, size: list(range(rank, seq, size)), "striped"),
    (zigzag, lambda seq, rank, size: slices(seq, size)[rank] + slices(seq, size)[size + rank], "Pair early with late"),
    (zigzag, lambda seq, rank, size: slices(seq, size)[2 * size - 1 - rank] + slices(seq, size)[rank], "not ascending"),
    (zigzag, lambda seq, rank, size: slices(seq, size)[rank] + slices(seq, size)[-1 - rank][::-1], "backwards"),
    (combine_blocks, combined(torch.ones_like), "the plain mean"),
    (combine_blocks, lambda a, x, b, y: (a + b, torch.logaddexp(x, y)), "each output is a mean already"),
    (combine_blocks, combined(lambda x: torch.exp(-x)), "the wrong way round"),
    (combine_blocks, combined(lse=torch.add), "not a + b"),
    (combine_blocks, combined(lse=torch.maximum), "is not the logsumexp"),
    (combine_blocks, combined(lambda x: x), "weigh by exp"),
    (ring_attention, lambda world, q, k, v: block(q, k, v)[0], "its own keys only"),
    (ring_attention, mean_of_blocks, "the plain mean of the blocks"),
    (ring_attention, lambda world, *qkv: world.size * mean_of_blocks(world, *qkv), "each is a mean already"),
    (ring_attention, rings(scale=1.0), "1 / sqrt(K)"),
    (ring_attention, last_block, "only the last block is left"),
    (ring_attention_bytes, lambda *sizes: hops()(*sizes) // 2, "two tensors"),
    (ring_attention_bytes, lambda *sizes: hops()(*sizes) // 4, "these are numbers"),
    (ring_attention_bytes, lambda b, s, c, g, k: 8 * b * s // c * g * k * (c - 1), "forward only"),
    (ring_attention_bytes, lambda b, s, c, g, k: 16 * b * s // c * g * k * (c - 1), "and the gradients"),
    (ring_attention_bytes, hops(gradients=-1), "still have to come home"),
    (ring_attention_bytes, hops(gradients=2), "need no last hop"),
    (ring_attention_bytes, lambda b, s, c, g, k: hops()(b, s * c, c, g, k), "seq / ranks"),
    (longest_context, lambda capacity, fixed, token, ranks: (capacity - fixed) * ranks // token, "uncut"),
    (longest_context, lambda capacity, fixed, token, ranks: capacity // token // 2 * 2 * ranks, "takes room too"),
    (longest_context, lambda capacity, fixed, token, ranks: (capacity - fixed) // token // 2 * 2, "one rank's tokens"),
]
