"""Exercises of notebook 21: bytes of a parameter server, the stale-bounded rule, stale descent, how many servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from llmlab.check.examine import Case, Result, examine

FP32 = 4  # bytes


def server_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(n_parameters, workers, servers)`: bytes that one worker, and one server, hand over in a step, in fp32."""
    hint = "a worker hands over each gradient once, to one server or another; a server its share to every worker."
    return examine("server_bytes", answer, _bytes(answer), hint)


def _bytes(answer: Any) -> Iterator[Case]:
    for n, workers, servers in ((1000, 3, 1), (1200, 4, 3), (124_000_000, 16, 8)):
        whole = FP32 * n
        worker, server = whole, workers * whole // servers
        mistakes = [
            ([n, server // FP32], "these are numbers: each takes 4 bytes in fp32."),
            (
                [worker, whole // servers],
                "a server answers every worker: its share, as many times as there are workers.",
            ),
            ([worker, workers * whole], "each server holds only its share: divide by the servers."),
            ([servers * worker, server], "a worker sends each gradient to one server only, the one that holds it."),
            (
                [worker // workers, server],
                "a worker's gradient is as long as the model, however many workers there are.",
            ),
            ([server, worker], "the worker first, then the server."),
            ([2 * worker, 2 * server], "what a rank receives it does not hand over: count each message at its sender."),
        ]
        what = f"{n:,} parameters, {workers} workers, {servers} servers"
        yield Case(what, partial(answer, n, workers, servers), [worker, server], mistakes)


def stale_bounded(answer: Callable[..., Any]) -> Result:
    """`answer(pushed, waiting, bound)`: the list of waiting workers that may go on, in the order of `waiting`.

    pushed: how often each worker has pushed.
    """
    hint = "a worker may go on when pushed[worker] - min(pushed) <= bound."
    return examine("stale_bounded", answer, _bounds(answer), hint)


def _bounds(answer: Any) -> Iterator[Case]:
    cases = [
        ([6, 1, 3, 2], [0, 3, 2], 1),
        ([3, 1, 2], [0, 2], 1),
        ([5, 5, 5], [2, 0, 1], 0),
        ([9, 4, 6, 7], [3, 0, 2], 3),
        ([4, 3, 1], [0, 1], 2),
    ]
    for pushed, waiting, bound in cases:
        slowest, fastest = min(pushed), max(pushed)
        others = {w: min(pushed[o] for o in waiting) for w in waiting}
        mistakes = [
            ([w for w in waiting if pushed[w] - slowest < bound], "exactly `bound` ahead is still allowed: <=."),
            (
                [w for w in waiting if pushed[w] - others[w] <= bound],
                "the slowest of all workers counts, waiting or not.",
            ),
            ([w for w in waiting if fastest - pushed[w] <= bound], "ahead of the slowest, not behind the fastest."),
            (list(waiting), "all of them: that is the asynchronous server, without a bound."),
            (sorted(w for w in waiting if pushed[w] - slowest <= bound), "keep the order in which they wait."),
        ]
        expected = [w for w in waiting if pushed[w] - slowest <= bound]
        what = f"pushed {pushed}, waiting {waiting}, bound {bound}"
        yield Case(what, partial(answer, list(pushed), list(waiting), bound), expected, mistakes)


def stale_descent(answer: Callable[..., Any]) -> Result:
    """`answer(w, lr, staleness)`: the last weight of w_{t+1} = w_t - lr w_{t - staleness[t]}, from w_0 = w."""
    hint = "keep all weights in a list; step t appends weights[t] - lr * weights[t - staleness[t]]."
    return examine("stale_descent", answer, _descents(answer), hint)


def _descents(answer: Any) -> Iterator[Case]:
    for w, lr, staleness in ((1.0, 0.5, [0, 1]), (2.0, 0.1, [0, 1, 2, 2]), (1.0, 0.7, [0, 0, 1, 3, 2])):
        late = history(w, lr, staleness)
        fresh = history(w, lr, [0] * len(staleness))
        mistakes = [
            (fresh[-1], "every gradient taken at the newest weight: use weights[t - staleness[t]]."),
            (late[-1 - staleness[-1]] * (1 - lr), "the step starts from the newest weight; only the gradient is old."),
            (late[-2], "one step is missing."),
            (history(w, -lr, staleness)[-1], "uphill: subtract."),
        ]
        yield Case(
            f"w={w}, lr={lr}, staleness {staleness}", partial(answer, w, lr, list(staleness)), late[-1], mistakes
        )


def history(w: float, lr: float, staleness: Sequence[int]) -> list[float]:
    """All weights of stale descent on w² / 2."""
    weights = [w]
    for t, delay in enumerate(staleness):
        weights.append(weights[t] - lr * weights[t - delay])
    return weights


def server_against_ring(answer: Callable[..., Any]) -> Result:
    """`answer(workers, servers)`: how many times as long the exchange takes, at least, as the workers' ring all-reduce.

    All links are alike, and nothing but them takes time.
    """
    hint = (
        "which link is the busiest: a server's, with n P / S each way, or a worker's own, with P? Divide by the ring's."
    )
    return examine("server_against_ring", answer, _against_ring(answer), hint)


def _against_ring(answer: Any) -> Iterator[Case]:
    for n, servers in ((8, 1), (8, 8), (8, 10), (4, 2), (2, 16), (16, 12)):
        ring, busiest = 2 * (n - 1) / n, 2 * max(n / servers, 1)
        mistakes = [
            (2 * n / servers / ring, "a worker's own link carries its whole push, however many servers there are."),
            (busiest, "that is in units of P / W: divide by the ring's 2 (n - 1) / n."),
            (busiest / 2, "push and pull are two; and divide by the ring's 2 (n - 1) / n."),
            (busiest / 2 / ring, "weights come back too: push and pull."),
            (ring / busiest, "the other way round: the servers' time by the ring's."),
            (2 * min(n / servers, 1) / ring, "the busiest link is what all wait for: the larger of the two."),
        ]
        yield Case(f"{n} workers, {servers} servers", partial(answer, n, servers), busiest / ring, mistakes)
