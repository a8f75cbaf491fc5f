"""Rare communication: right answers, and wrong ones with their hints."""

from __future__ import annotations

import torch

from llmlab.check.low_communication import error_feedback, federated_average, local_sgd_bytes, masked_upload


def average(world, weights, n_examples):
    total = world.all_reduce(torch.tensor(float(n_examples), dtype=torch.float64))
    return world.all_reduce(weights * n_examples) / total


def keep(x, k, size=torch.abs):
    kept = torch.zeros_like(x)
    for i in size(x).argsort(descending=True)[:k]:
        kept[i] = x[i]
    return kept


def feedback(gradients, k, size=torch.abs, late=True, all_of_it=True, whole=False):
    left_out, sent = torch.zeros_like(gradients[0]), []
    for gradient in gradients:
        x = gradient + left_out if late else gradient
        kept = keep(x, k, size)
        sent.append(gradient * (kept != 0) if whole else kept)
        left_out = x - kept if all_of_it else gradient - kept
    return sent


def upload(signs):
    """x and the masks shared with lower ranks times signs[0], with higher ranks times signs[1]."""

    def answer(world, x, mask):
        for other in range(world.size):
            if other != world.rank:
                x = x + signs[other > world.rank] * mask(world.rank, other)
        return x

    return answer


RIGHT = [
    (local_sgd_bytes, lambda n, steps, every: 4 * n * (steps // every)),
    (federated_average, average),
    (error_feedback, feedback),
    (masked_upload, upload((-1, 1))),
    (masked_upload, upload((1, -1))),
]
WRONG = [
    (local_sgd_bytes, lambda n, steps, every: n * (steps // every), "these are numbers"),
    (local_sgd_bytes, lambda n, steps, every: 4 * n * steps, "that is data parallelism"),
    (local_sgd_bytes, lambda n, steps, every: 4 * n * steps / every, "has not sent a part of one"),
    (local_sgd_bytes, lambda n, steps, every: 4 * n * -(-steps // every), "not before: round down"),
    (local_sgd_bytes, lambda n, steps, every: 8 * n * (steps // every), "what a ring sends"),
    (federated_average, lambda world, w, n: world.all_reduce(w, "avg"), "the plain mean"),
    (federated_average, lambda world, w, n: world.all_reduce(w * n), "divide by the examples"),
    (federated_average, lambda world, w, n: world.all_reduce(w * n, "avg"), "divided by the number of ranks"),
    (federated_average, lambda world, w, n: w, "nothing was communicated"),
    (
        federated_average,
        lambda world, w, n: w * n / world.all_reduce(torch.tensor(float(n), dtype=torch.float64)),
        "all_reduce that",
    ),
    (error_feedback, lambda g, k: feedback(g, k, late=False), "without memory"),
    (error_feedback, lambda g, k: feedback(g, k, size=lambda x: x), "by absolute value: -5"),
    (error_feedback, lambda g, k: feedback(g, k, whole=True), "not of the gradient alone"),
    (error_feedback, lambda g, k: g, "everything is sent"),
    (error_feedback, lambda g, k: feedback(g, k, all_of_it=False), "of earlier gradients too"),
    (masked_upload, lambda world, x, mask: x, "nothing is hidden"),
    (masked_upload, upload((1, 1)), "both of a pair add"),
    (masked_upload, upload((-1, -1)), "both of a pair subtract"),
    (masked_upload, lambda world, x, mask: 7, "for every other rank add"),
    (
        federated_average,
        lambda world, w, n: world.all_reduce(w * n) / world.all_reduce(torch.full_like(w, n)),
        "dearer than it need be",
    ),
]
