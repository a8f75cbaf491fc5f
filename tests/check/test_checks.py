"""Every exercise check: a right answer, typical wrong ones (each with its own hint), and an empty one."""

from __future__ import annotations

import heapq
import re
from math import log2
from pathlib import Path

import pytest
import torch

from llmlab import check


def empty(*args):
    """What a notebook's exercise cell begins as."""
    ...


def not_implemented(*args):
    raise NotImplementedError


# --- notebook 10 ------------------------------------------------------------------------------------------------------


def mean_right(world, part):
    return world.all_reduce(part.sum()) / world.all_reduce(torch.tensor(float(len(part)), dtype=torch.float64))


def split_right(n, workers):
    return [n // workers + (i < n % workers) for i in range(workers)]


def first_free_right(durations, workers):
    free = [0.0] * workers
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def blocks(durations, workers):
    length = -(-len(durations) // workers)
    return max(sum(durations[i : i + length]) for i in range(0, len(durations), length))


SPLIT_MERGE = {
    "mean_of_parts": (
        mean_right,
        [
            (lambda world, part: world.all_reduce(part.mean()) / world.size, "mean of the parts' means"),
            (lambda world, part: world.all_reduce(part.sum()) / world.size, "number of parts, M"),
            (lambda world, part: part.mean(), "each rank's own mean"),
            (lambda world, part: world.all_reduce(part.sum()), "how many numbers"),
        ],
    ),
    "split_evenly": (
        split_right,
        [
            (lambda n, workers: [n // workers] * workers, "the remainder is lost"),
            (lambda n, w: [n // w] * (w - 1) + [n // w + n % w], "one worker gets the whole remainder"),
            (lambda n, w: split_right(n, w)[::-1], "the longer ones come first"),
            (lambda n, w: [max(0, min(-(-n // w), n - i * -(-n // w))) for i in range(w)], "rounded up"),
        ],
    ),
    "amdahl": (
        lambda s, p: 1 / (s + (1 - s) / p),
        [
            (lambda s, p: s + (1 - s) / p, "the time, as a share"),
            (lambda s, p: s + (1 - s) * p, "Gustafson's law"),
            (lambda s, p: 1 / (1 - s + s / p), "wrong way round"),
            (lambda s, p: 1 / s, "infinitely many"),
            (lambda s, p: p, "which of the two do the workers shorten"),
        ],
    ),
    "serial_share": (
        lambda speedup, p: (1 / speedup - 1 / p) / (1 - 1 / p),
        [
            (lambda speedup, p: speedup / p, "the efficiency, speedup"),
            (lambda speedup, p: 1 - speedup / p, "lost efficiency"),
            (lambda speedup, p: 1 / speedup, "takes the parallel part to cost nothing"),
        ],
    ),
    "first_free": (
        first_free_right,
        [
            (lambda durations, workers: sum(durations) / workers, "as if tasks could be cut"),
            (lambda durations, workers: max(sum(durations[i::workers]) for i in range(workers)), "i % workers"),
            (lambda durations, workers: first_free_right(sorted(durations)[::-1], workers), "longest first"),
            (lambda durations, workers: sum(durations), "one worker's time"),
            (blocks, "a block of tasks"),
        ],
    ),
}


# --- notebook 12 ------------------------------------------------------------------------------------------------------


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


MESSAGES = {
    "exchange": (
        exchange_right,
        [
            (exchange_deadlock, "if all send first"),
            (exchange_own, "its own tensor"),
            (exchange_no_wait, "each isend its wait()"),
        ],
    ),
    "ring_step": (
        ring_right,
        [
            (ring_replaces, "add it to what is there"),
            (ring_backwards, "the other way"),
            (ring_into_what_was_sent, "added to the chunk that was sent"),
            (ring_same_chunk, "same chunk is sent at every step"),
            (ring_grows, "it should shrink"),
            (ring_deadlock, "if all send first"),
        ],
    ),
    "all_reduce_from_send_recv": (
        star_right,
        [
            (lambda world, x: x, "nothing was added"),
            (star_not_sent_back, "send it back to them"),
            (star_cheats, "a simple way"),
            (neighbour_only, "the neighbour's tensor only"),
            (all_send_first, "if all send first"),
            (lambda world, x: star_right(world, x) - x, "without the rank's own"),
        ],
    ),
    "ring_bytes": (
        lambda n, p: 2 * (p - 1) * n // p,
        [
            (lambda n, p: (p - 1) * n // p, "one round"),
            (lambda n, p: 2 * (p - 1) * n, "n bytes at each step"),
            (lambda n, p: 2 * n, "p steps in each round"),
            (lambda n, p: n / p, "how often is one sent"),
            (lambda n, p: 7 * n, "two rounds of ranks - 1 steps"),
        ],
    ),
    "crossover_bytes": (
        lambda p, a, b: a * b * (p - 1 - log2(p)) / (log2(p) - 1 + 1 / p),
        [
            (lambda p, a, b: a * b * (p - 1 - log2(p)) / (log2(p) - 1), "in all, not 2 n"),
            (lambda p, a, b: a * b, "latency times bandwidth"),
            (lambda p, a, b: a * b * (p - 1 - 2 * log2(p)) / (2 * log2(p) - (p - 1) / p), "a factor 2"),
        ],
    ),
}


# --- notebooks 00 and 20 ----------------------------------------------------------------------------------------------


def weighted_right(world, gradient_sum, n_tokens):
    return world.all_reduce(gradient_sum) / world.all_reduce(torch.tensor([float(n_tokens)], dtype=torch.float64))


GRADIENTS = {
    "data_parallel_scale": (
        lambda world, gradient: world.all_reduce(gradient) / world.size,
        [
            (lambda world, gradient: world.all_reduce(gradient), "multiply by 1 / world.size"),
            (lambda world, gradient: world.all_reduce(gradient, "avg") / world.size, "divided twice"),
            (lambda world, gradient: gradient, "own gradient: nothing"),
            (lambda world, gradient: gradient / world.size, "own gradient, divided"),
            (lambda world, gradient: world.all_reduce(gradient) * world.size, "divide by it"),
            (lambda world, gradient: world.all_reduce(gradient) / 2, "right for 2 ranks only"),
            (lambda world, gradient: world.all_reduce(gradient, "max"), "then divide by the number of ranks"),
        ],
    ),
    "unequal_batches": (
        weighted_right,
        [
            (lambda world, g, n: world.all_reduce(g / n, "avg"), "mean of the ranks' means"),
            (lambda world, g, n: world.all_reduce(g), "divide by how many there are"),
            (lambda world, g, n: world.all_reduce(g, "avg"), "divided by the number of ranks"),
            (lambda world, g, n: world.all_reduce(g) / n, "divided by this rank's tokens"),
            (lambda world, g, n: g / n, "each rank's own mean"),
        ],
    ),
    "bucket_bytes": (
        lambda n, m, no_sync: 4 * n * (1 if no_sync else m),
        [
            (lambda n, m, no_sync: n * (1 if no_sync else m), "these are numbers"),
            (lambda n, m, no_sync: 4 * n * (m if no_sync else 1), "the wrong way round"),
            (lambda n, m, no_sync: 4 * n * (m - 1 if no_sync else m), "one micro-batch does communicate"),
            (lambda n, m, no_sync: 2 * n * (1 if no_sync else m), "as in bf16"),
            (lambda n, m, no_sync: 8 * n * (1 if no_sync else m), "what a ring sends"),
        ],
    ),
}

EXERCISES = SPLIT_MERGE | MESSAGES | GRADIENTS
WRONG = [(name, wrong, hint) for name, (_, wrongs) in EXERCISES.items() for wrong, hint in wrongs]


def test_every_check_has_three_wrong_answers_here():
    assert all(len(wrongs) >= 3 for _, wrongs in EXERCISES.values())


def test_every_check_is_tried_by_a_test_beside_this_one():
    tests = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in set(check.__all__) - {"Result"} if not re.search(rf"\b{name}\b", tests)] == []


@pytest.mark.parametrize("name", EXERCISES)
def test_a_right_answer_is_right(name):
    result = getattr(check, name)(EXERCISES[name][0])
    assert result, result
    assert result.right and str(result).startswith(f"{name}: right. Tried with ")


@pytest.mark.parametrize(("name", "answer", "hint"), WRONG, ids=[f"{name}-{hint}" for name, _, hint in WRONG])
def test_a_wrong_answer_is_wrong_and_its_hint_names_the_mistake(name, answer, hint):
    result = getattr(check, name)(answer)
    assert not result
    assert hint in str(result).split("  hint ")[1], result


@pytest.mark.parametrize("answer", [None, ..., empty, not_implemented, lambda *args: ...])
@pytest.mark.parametrize("name", EXERCISES)
def test_an_empty_answer_is_met_kindly(name, answer):
    result = getattr(check, name)(answer)
    assert not result
    assert "nothing to check yet" in str(result)


def test_a_wrong_answer_is_shown_as_one_short_block():
    result = check.data_parallel_scale(lambda world, gradient: world.all_reduce(gradient))
    assert repr(result).splitlines() == [
        "data_parallel_scale: not yet.",
        "  tried     2 ranks, rank 0",
        "  expected  [1.5, -3, 9]",
        "  got       [3, -6, 18]",
        "  hint      the sum, world.size times too long: the loss is a mean, so multiply by 1 / world.size.",
    ]


def test_the_first_rank_that_differs_is_named():
    result = check.data_parallel_scale(lambda world, g: world.all_reduce(g, "avg") + 1.0 * (world.rank == 1))
    assert "2 ranks, rank 1" in str(result)


def test_an_exception_in_the_answer_is_shown_with_its_rank_and_not_thrown():
    def planted(world, gradient):
        if world.rank == 1:
            raise KeyError("planted")
        return world.all_reduce(gradient) / world.size

    result = check.data_parallel_scale(planted)
    assert not result and "rank 1: KeyError: planted" in str(result)
    assert "ZeroDivisionError" in str(check.amdahl(lambda s, p: 1 / 0))


def test_what_is_not_a_function_is_refused_in_words():
    result = check.amdahl(3.5)
    assert not result and "wants a function, got 3.5" in str(result)


def test_a_result_of_another_shape_or_kind_is_wrong_and_not_an_error():
    assert not check.data_parallel_scale(lambda world, gradient: world.all_gather(gradient))
    assert not check.data_parallel_scale(lambda world, gradient: "a string")
    assert not check.split_evenly(lambda n, workers: 3)
    assert not check.ring_step(lambda world, chunks, step: chunks[:1])


def test_a_ring_step_may_return_new_chunks():
    assert check.ring_step(ring_right_returning)
