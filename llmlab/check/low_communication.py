"""Exercises of notebook 28: bytes of local SGD, the federated average, error feedback, masks that cancel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llmlab.check.examine import Case, Result, examine, on_ranks

FP32 = 4  # bytes


def local_sgd_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(n_parameters, steps, every)`: bytes a rank hands over in so many steps of local SGD, in fp32."""
    hint = "the weights are handed over once per average, and there are steps // every averages."
    return examine("local_sgd_bytes", answer, _bytes(answer), hint)


def _bytes(answer: Any) -> Iterator[Case]:
    for n, steps, every in ((1000, 12, 4), (1000, 10, 3), (70_000_000, 88_000, 500), (500, 7, 8)):
        once, meetings = FP32 * n, steps // every
        mistakes = [
            (n * meetings, "these are numbers: each takes 4 bytes in fp32."),
            (once * steps, "that is data parallelism: local SGD hands over every `every` steps only."),
            (once * steps / every, "a rank that stops between two averages has not sent a part of one: round down."),
            (once * -(-steps // every), "an average comes after `every` steps, not before: round down."),
            (2 * once * meetings, "what a ring sends for it: asked is what a rank hands over."),
        ]
        yield Case(
            f"{n:,} parameters, {steps} steps, every {every}",
            partial(answer, n, steps, every),
            once * meetings,
            mistakes,
        )


def federated_average(answer: Callable[..., Any]) -> Result:
    """`answer(world, weights, n_examples)`: the mean of the ranks' weights, weighted by their examples."""
    hint = "all_reduce weights * n_examples, all_reduce n_examples (as a tensor), and divide one by the other."
    return examine("federated_average", answer, _averages(answer), hint)


def _averages(answer: Any) -> Iterator[Case]:
    for counts in ([1, 3], [10, 0, 30], [5, 5, 2, 8]):
        ranks = len(counts)
        own = [torch.tensor([1.0 + rank, -2.0 * rank], dtype=torch.float64) for rank in range(ranks)]
        total = torch.stack([w * n for w, n in zip(own, counts, strict=True)]).sum(0)
        mistakes = [
            ([torch.stack(own).mean(0)] * ranks, "the plain mean: a rank with more examples must weigh more."),
            ([total] * ranks, "a sum: divide by the examples of all ranks."),
            ([total / ranks] * ranks, "divided by the number of ranks: the weights add up to the number of examples."),
            (own, "each rank's own weights: nothing was communicated."),
            (
                [w * n / sum(counts) for w, n in zip(own, counts, strict=True)],
                "each rank's part of it: all_reduce that.",
            ),
        ]
        what = f"{ranks} ranks with {', '.join(map(str, counts))} examples"
        run = partial(on_ranks, answer, list(zip(own, counts, strict=True)))
        most = total.nbytes + 8  # and the number of examples
        yield Case(what, run, [total / sum(counts)] * ranks, mistakes, per_rank=True, most_bytes=most)


def error_feedback(answer: Callable[..., Any]) -> Result:
    """`answer(gradients, k)`: for each of a list of gradients what is sent, the k largest entries of it + residual."""
    hint = "x = gradient + residual; keep the k largest by absolute value; residual = x - what was kept."
    return examine("error_feedback", answer, _feedback(answer), hint)


def _feedback(answer: Any) -> Iterator[Case]:
    cases = [
        ([[3.0, 1.0], [1.0, 1.5], [0.0, 0.0]], 1),
        ([[4.0, -2.0, 1.0], [0.5, -1.0, 1.5], [0.5, 0.0, 1.0]], 1),
        ([[1.0, -5.0, 2.0, 0.5], [0.5, 0.25, 2.5, 1.5]], 2),
    ]
    for rows, k in cases:
        gradients = [torch.tensor(row, dtype=torch.float64) for row in rows]
        mistakes = [
            ([largest(g, k) for g in gradients], "without memory: what was left out before must be added first."),
            (send(gradients, k, absolute=False), "the largest by absolute value: -5 counts more than 2."),
            (send(gradients, k, whole=True), "send the entries of gradient + residual, not of the gradient alone."),
            (gradients, "everything is sent: keep k entries, set the others to 0."),
            (send(gradients, k, forget=True), "the residual is all that was left out, of earlier gradients too."),
        ]
        yield Case(f"gradients {rows}, k={k}", partial(answer, list(gradients), k), send(gradients, k), mistakes)


def largest(x: Tensor, k: int, absolute: bool = True) -> Tensor:
    """Keep the k largest entries and set the others to 0."""
    where = (x.abs() if absolute else x).topk(k).indices
    return torch.zeros_like(x).index_copy(0, where, x[where])


def send(
    gradients: list[Tensor], k: int, absolute: bool = True, whole: bool = False, forget: bool = False
) -> list[Tensor]:
    """Send with error feedback, rightly or with one mistake: see the hints."""
    residual, sent = torch.zeros_like(gradients[0]), []
    for g in gradients:
        x = g + residual
        kept = largest(x, k, absolute)
        sent.append(g * (kept != 0) if whole else kept)
        residual = g - kept if forget else x - kept
    return sent


def masked_upload(answer: Callable[..., Any]) -> Result:
    """`answer(world, x, mask)`: what this rank uploads: x with masks that cancel in the sum over ranks, whole numbers.

    mask(a, b): a vector that ranks a and b share; mask(b, a) is the same.
    """
    hint = "for every other rank add mask(world.rank, other) if world.rank < other, else subtract it."
    return examine("masked_upload", answer, _masks(answer), hint)


def _masks(answer: Any) -> Iterator[Case]:
    for ranks in (2, 3, 4):
        own = [torch.tensor([5, -3, 100]) * (rank + 1) for rank in range(ranks)]
        total = torch.stack(own).sum(0)
        added = 2 * sum(shared_mask(a, b) for a in range(ranks) for b in range(a))
        mistakes = [
            ([total, 0], "the sum is right, but the uploads are the plain x: nothing is hidden."),
            ([total + added, ranks], "both of a pair add their mask: one must add it, the other subtract it."),
            ([total - added, ranks], "both of a pair subtract their mask: one must add it, the other subtract it."),
        ]
        what = f"{ranks} ranks: the sum of the uploads, and how many of them hide their x"
        yield Case(what, partial(_uploaded, answer, own), [total, ranks], mistakes)


def _uploaded(answer: Callable[..., Any], own: list[Tensor]) -> Any:
    """The sum of the uploads, and how many differ from what they hide in every place."""
    uploads = on_ranks(answer, [(x, shared_mask) for x in own])
    if not all(isinstance(upload, Tensor) and upload.shape == own[0].shape for upload in uploads):
        return uploads[0]
    hidden = sum(bool((upload != x).all()) for upload, x in zip(uploads, own, strict=True))
    return [torch.stack(uploads).sum(0), hidden]


def shared_mask(a: int, b: int) -> Tensor:
    """Three whole numbers that depend on the pair."""
    pair = torch.Generator(device="cpu").manual_seed(100 * min(a, b) + max(a, b))
    return torch.randint(1, 10**6, (3,), generator=pair)
