"""Messages between ranks, and collectives made of them: right answers, and wrong ones with their hints."""

from __future__ import annotations

from math import log2

from llmlab.check.messages import all_reduce_from_send_recv, crossover_bytes, exchange, ring_bytes, ring_step


def exchange_right(world, x):
    sending = world.isend(x, 1 - world.rank)
    came = world.recv(x, 1 - world.rank)
    sending.wait()
    return came


def exchange_deadlock(world, x):
    world.send(x, 1 - world.rank)
    return world.recv(x, 1 - world.rank)


def exchange_own(world, x):
    exchange_right(world, x)
    return x


def exchange_no_wait(world, x):
    world.isend(x, 1 - world.rank)
    return world.recv(x, 1 - world.rank)


def ring_swap(world, x, way=1):
    sending = world.isend(x, (world.rank + way) % world.size)
    came = world.recv(x, (world.rank - way) % world.size)
    sending.wait()
    return came


def ring_right(world, chunks, step):
    r, p = world.rank, world.size
    came = ring_swap(world, chunks[(r - step) % p])
    chunks[(r - step - 1) % p] += came


def ring_right_returning(world, chunks, step):
    r, p = world.rank, world.size
    came = ring_swap(world, chunks[(r - step) % p])
    return [chunk + came if c == (r - step - 1) % p else chunk for c, chunk in enumerate(chunks)]


def ring_replaces(world, chunks, step):
    r, p = world.rank, world.size
    chunks[(r - step - 1) % p] = ring_swap(world, chunks[(r - step) % p])


def ring_backwards(world, chunks, step):
    r, p = world.rank, world.size
    chunks[(r - step - 1) % p] += ring_swap(world, chunks[(r - step) % p], way=-1)


def ring_into_what_was_sent(world, chunks, step):
    r, p = world.rank, world.size
    chunks[(r - step) % p] += ring_swap(world, chunks[(r - step) % p])


def ring_same_chunk(world, chunks, step):
    r, p = world.rank, world.size
    chunks[(r - 1) % p] += ring_swap(world, chunks[r])


def ring_grows(world, chunks, step):
    r, p = world.rank, world.size
    chunks[(r + step - 1) % p] += ring_swap(world, chunks[(r + step) % p])


def ring_deadlock(world, chunks, step):
    r, p = world.rank, world.size
    world.send(chunks[(r - step) % p], (r + 1) % p)
    chunks[(r - step - 1) % p] += world.recv(chunks[0], (r - 1) % p)


def star_right(world, x):
    if world.rank != 0:
        world.send(x, 0)
        return world.recv(x, 0)
    total = x.clone()
    for rank in range(1, world.size):
        total += world.recv(x, rank)
    for rank in range(1, world.size):
        world.send(total, rank)
    return total


def star_not_sent_back(world, x):
    if world.rank != 0:
        world.send(x, 0)
        return x
    return x + sum(world.recv(x, rank) for rank in range(1, world.size))


def star_cheats(world, x):
    return world.all_reduce(x)


def neighbour_only(world, x):
    return x + ring_swap(world, x)


def all_send_first(world, x):
    for rank in range(world.size):
        if rank != world.rank:
            world.send(x, rank)
    return x + sum(world.recv(x, rank) for rank in range(world.size) if rank != world.rank)


RIGHT = [
    (exchange, exchange_right),
    (ring_step, ring_right),
    (all_reduce_from_send_recv, star_right),
    (ring_bytes, lambda n, p: 2 * (p - 1) * n // p),
    (crossover_bytes, lambda p, a, b: a * b * (p - 1 - log2(p)) / (log2(p) - 1 + 1 / p)),
    (ring_step, ring_right_returning),
]
WRONG = [
    (exchange, exchange_deadlock, "if all send first"),
    (exchange, exchange_own, "its own tensor"),
    (exchange, exchange_no_wait, "each isend its wait()"),
    (ring_step, ring_replaces, "add it to what is there"),
    (ring_step, ring_backwards, "the other way"),
    (ring_step, ring_into_what_was_sent, "added to the chunk that was sent"),
    (ring_step, ring_same_chunk, "same chunk is sent at every step"),
    (ring_step, ring_grows, "it should shrink"),
    (ring_step, ring_deadlock, "if all send first"),
    (all_reduce_from_send_recv, lambda world, x: x, "nothing was added"),
    (all_reduce_from_send_recv, star_not_sent_back, "send it back to them"),
    (all_reduce_from_send_recv, star_cheats, "a simple way"),
    (all_reduce_from_send_recv, neighbour_only, "the neighbour's tensor only"),
    (all_reduce_from_send_recv, all_send_first, "if all send first"),
    (all_reduce_from_send_recv, lambda world, x: star_right(world, x) - x, "without the rank's own"),
    (ring_bytes, lambda n, p: (p - 1) * n // p, "one round"),
    (ring_bytes, lambda n, p: 2 * (p - 1) * n, "n bytes at each step"),
    (ring_bytes, lambda n, p: 2 * n, "p steps in each round"),
    (ring_bytes, lambda n, p: n / p, "how often is one sent"),
    (ring_bytes, lambda n, p: 7 * n, "two rounds of ranks - 1 steps"),
    (crossover_bytes, lambda p, a, b: a * b * (p - 1 - log2(p)) / (log2(p) - 1), "in all, not 2 n"),
    (crossover_bytes, lambda p, a, b: a * b, "latency times bandwidth"),
    (crossover_bytes, lambda p, a, b: a * b * (p - 1 - 2 * log2(p)) / (2 * log2(p) - (p - 1) / p), "a factor 2"),
]
