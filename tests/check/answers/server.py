"""The parameter server: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.server import server_against_ring, server_bytes, stale_bounded, stale_descent


def bounded(keep):
    """The waiting workers for which keep(their pushes, all pushes, bound)."""
    return lambda pushed, waiting, bound: [w for w in waiting if keep(pushed[w], pushed, bound)]


def descend(delayed, sign=-1):
    def answer(w, lr, staleness):
        weights = [w]
        for t, delay in enumerate(staleness):
            weights.append(weights[t] + sign * lr * weights[t - delay * delayed])
        return weights[-1]

    return answer


RIGHT = [
    (server_bytes, lambda n, workers, servers: (4 * n, workers * 4 * n // servers)),
    (stale_bounded, bounded(lambda mine, pushed, bound: mine <= min(pushed) + bound)),
    (stale_descent, descend(True)),
    (server_against_ring, lambda n, s: max(n / s, 1) * n / (n - 1)),
]
WRONG = [
    (server_bytes, lambda n, workers, servers: (n, workers * n // servers), "these are numbers"),
    (server_bytes, lambda n, workers, servers: (4 * n, 4 * n // servers), "as many times as there are workers"),
    (server_bytes, lambda n, workers, servers: (4 * n, workers * 4 * n), "each server holds only its share"),
    (server_bytes, lambda n, workers, servers: (4 * n * servers, workers * 4 * n // servers), "to one server only"),
    (server_bytes, lambda n, workers, servers: (4 * n // workers, workers * 4 * n // servers), "as long as the model"),
    (server_bytes, lambda n, workers, servers: (workers * 4 * n // servers, 4 * n), "the worker first"),
    (server_bytes, lambda n, workers, servers: (8 * n, workers * 8 * n // servers), "receives it does not hand over"),
    (server_bytes, lambda n, workers, servers: (1, 1), "a worker hands over each gradient once"),
    (stale_bounded, bounded(lambda mine, pushed, bound: mine < min(pushed) + bound), "still allowed: <="),
    (stale_bounded, lambda pushed, waiting, bound: list(waiting), "the asynchronous server"),
    (stale_bounded, bounded(lambda mine, pushed, bound: mine >= max(pushed) - bound), "not behind the fastest"),
    (
        stale_bounded,
        lambda pushed, waiting, bound: [w for w in waiting if pushed[w] - min(pushed[o] for o in waiting) <= bound],
        "waiting or not",
    ),
    (
        stale_bounded,
        lambda pushed, waiting, bound: sorted(w for w in waiting if pushed[w] - min(pushed) <= bound),
        "the order in which they wait",
    ),
    (stale_descent, descend(False), "the newest weight: use"),
    (stale_descent, descend(True, +1), "uphill"),
    (stale_descent, lambda w, lr, staleness: descend(True)(w, lr, staleness[:-1]), "one step is missing"),
    (server_against_ring, lambda n, s: n / s * n / (n - 1), "a worker's own link"),
    (server_against_ring, lambda n, s: 2 * max(n / s, 1), "in units of P / W"),
    (server_against_ring, lambda n, s: max(n / s, 1), "push and pull are two"),
    (server_against_ring, lambda n, s: max(n / s, 1) / 2 * n / (n - 1), "weights come back too"),
    (server_against_ring, lambda n, s: (n - 1) / n / max(n / s, 1), "the other way round"),
    (server_against_ring, lambda n, s: min(n / s, 1) * n / (n - 1), "what all wait for"),
    (server_against_ring, lambda n, s: 0.0, "which link is the busiest"),
]
