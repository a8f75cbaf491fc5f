"""Exercises of notebook 12: messages between ranks, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import log2
from typing import Any

import torch
from torch import Tensor

from llmlab.check.differences import same
from llmlab.check.examine import Case, Result, examine, on_ranks, run_on_ranks
from llmlab.comm.group import Group


def exchange(answer: Callable[..., Any]) -> Result:
    """`answer(world, x)` on two ranks: what the other one has."""
    return examine("exchange", answer, _exchanges(answer), "the other rank is 1 - world.rank; isend, recv, wait.")


def _exchanges(answer: Any) -> Iterator[Case]:
    for n in (1, 3):
        xs = [torch.arange(1.0, n + 1, dtype=torch.float64) + 10 * rank for rank in range(2)]
        mistakes = [(xs, "each rank returns its own tensor: return what recv gave.")]
        run = partial(on_ranks, answer, [(x,) for x in xs])
        yield Case(f"2 ranks with {n} numbers each", run, xs[::-1], mistakes, per_rank=True)


def ring_step(answer: Callable[..., Any]) -> Result:
    """`answer(world, chunks, step)`: one step of the ring's reduce-scatter, in place.

    Rank r sends chunk (r - step) mod p to rank r + 1, and adds what comes from rank r - 1 to chunk (r - step - 1) mod
    p; step counts from 0.
    """
    hint = "send chunk (rank - step) % size to (rank + 1) % size; receive from (rank - 1) % size and add."
    return examine("ring_step", answer, _ring_steps(answer), hint)


def _ring_steps(answer: Any) -> Iterator[Case]:
    for ranks in (2, 3, 4):
        for n in range(1, ranks):
            after = partial(_after_steps, ranks, n)
            mistakes = [
                (after(add=False), "what arrives replaces the chunk: add it to what is there."),
                (after(way=-1), "the other way round: send to (rank + 1) % size, receive from (rank - 1) % size."),
                (after(into=0), "added to the chunk that was sent: it belongs to (rank - step - 1) % size."),
                (after(moving=0), "the same chunk is sent at every step: send (rank - step) % size."),
                (after(moving=-1), "the chunk's number grows with the step; it should shrink: (rank - step) % size."),
            ]
            run = partial(on_ranks, _take_steps, [(answer, _chunks(rank, ranks), n) for rank in range(ranks)])
            yield Case(f"{ranks} ranks, after step {n - 1}", run, after(), mistakes, per_rank=True)


def _take_steps(world: Group, answer: Callable[..., Any], chunks: list[Tensor], n_step: int) -> list[Tensor] | None:
    """Take some steps; an answer may change the chunks in place or return new ones. None: it did nothing."""
    before, returned = [chunk.clone() for chunk in chunks], None
    for step in range(n_step):
        returned = answer(world, chunks, step)
        chunks = returned if isinstance(returned, list) else chunks
    return None if same(chunks, before) and (returned is None or returned is ...) else chunks


def _chunks(rank: int, ranks: int) -> list[Tensor]:
    """Chunk c of rank r holds 10^r (c + 1): the sum's digits say who is in it."""
    return [torch.tensor([(c + 1.0) * 10**rank], dtype=torch.float64) for c in range(ranks)]


def _after_steps(
    p: int, n_step: int, *, add: bool = True, way: int = 1, into: int = 1, moving: int = 1
) -> list[list[Tensor]]:
    """Every rank's chunks after n_step steps; each argument that is not its default is a mistake."""
    chunks = [_chunks(rank, p) for rank in range(p)]
    for step in range(n_step):
        sent = [chunks[rank][(rank - moving * step) % p].clone() for rank in range(p)]
        for rank in range(p):
            target, came = (rank - moving * step - into) % p, sent[(rank - way) % p]
            chunks[rank][target] = chunks[rank][target] + came if add else came
    return chunks


def all_reduce_from_send_recv(answer: Callable[..., Any]) -> Result:
    """`answer(world, x)`: the sum over ranks, on every rank, from send, isend, recv and irecv alone."""
    hint = "a simple way: everyone sends to rank 0, which adds and sends the sum to everyone."
    return examine("all_reduce_from_send_recv", answer, _sums(answer), hint)


def _sums(answer: Any) -> Iterator[Case]:
    for ranks, n in ((2, 1), (3, 5), (4, 2)):
        xs = [torch.arange(1.0, n + 1, dtype=torch.float64) * 10**rank for rank in range(ranks)]
        total = torch.stack(xs).sum(0)
        mistakes = [
            (xs, "each rank returns its own tensor: nothing was added."),
            ([total, *xs[1:]], "rank 0 has the sum and the others do not: send it back to them."),
            ([*xs[:-1], total], "the last rank has the sum and the others do not: send it back to them."),
            (
                [xs[r] + xs[r - 1] for r in range(ranks)],
                "the neighbour's tensor only: pass on what came, size - 1 times.",
            ),
            ([total - x for x in xs], "the others' sum, without the rank's own tensor."),
        ]
        run = partial(_without_collectives, answer, xs)
        yield Case(f"{ranks} ranks with {n} numbers each", run, [total] * ranks, mistakes, per_rank=True)


def _without_collectives(answer: Callable[..., Any], xs: list[Tensor]) -> list[Any]:
    """Run the answer, and refuse one that lets a collective do the work."""
    run = run_on_ranks(answer, [(x,) for x in xs])
    others = sorted({e.op for e in run.trace if e.stream == "comm"} - {"send", "recv"})
    if others:
        raise ValueError(f"this uses {', '.join(others)}. Only send, isend, recv and irecv are allowed here")
    return run.results


def ring_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(nbytes, ranks)`: bytes that one rank sends in a ring all-reduce of nbytes (which `ranks` divides)."""
    hint = "two rounds of ranks - 1 steps, each step one chunk of nbytes / ranks."
    return examine("ring_bytes", answer, _ring_bytes(answer), hint)


def _ring_bytes(answer: Any) -> Iterator[Case]:
    for n, p in ((1200, 2), (1200, 3), (64_000_000, 64)):
        mistakes = [
            ((p - 1) * n / p, "one round, the reduce-scatter: the all-gather goes round once more."),
            (
                2 * (p - 1) * n,
                "that is n bytes at each step: a step sends one chunk of n / p. (Or is it what all send?)",
            ),
            (2 * n, "p steps in each round: there are p - 1, for no rank sends a chunk to itself."),
            (n / p, "one chunk: how often is one sent?"),
        ]
        yield Case(f"{n:,} bytes on {p} ranks", partial(answer, n, p), 2 * (p - 1) * n / p, mistakes)


def crossover_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(ranks, latency_s, bytes_per_s)`: the bytes from which on a ring all-reduce is faster than a tree's."""
    hint = "set 2 (p - 1) (latency + n / p / bandwidth) equal to 2 log2(p) (latency + n / bandwidth); solve for n."
    return examine("crossover_bytes", answer, _crossovers(answer), hint)


def _crossovers(answer: Any) -> Iterator[Case]:
    for p, latency, bandwidth in ((64, 5e-6, 50e9), (8, 1e-5, 1e9), (1024, 2e-6, 25e9)):
        depth, unit = log2(p), latency * bandwidth
        mistakes = [
            (unit * (p - 1 - depth) / (depth - 1), "the ring carries 2 n (p - 1) / p bytes in all, not 2 n."),
            (unit, "latency times bandwidth: where the two costs of one message are equal."),
            (unit * (p - 1 - 2 * depth) / (2 * depth - (p - 1) / p), "a factor 2 is lost: both go there and back."),
        ]
        what = f"{p} ranks, {latency:g} s, {bandwidth:g} bytes/s"
        expected = unit * (p - 1 - depth) / (depth - (p - 1) / p)
        yield Case(what, partial(answer, p, latency, bandwidth), expected, mistakes)
