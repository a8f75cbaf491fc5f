"""Layouts of several axes: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.layouts import global_norm, gradient_ranks, world_size


def ranks(kind, dp, tp, pp, cp, ep):
    return {"matrix": dp * cp, "expert": dp * cp // ep, "norm": dp * cp * tp}[kind]


def norm(squares):
    return sum(s / n for rank in squares for s, n in rank) ** 0.5


RIGHT = [(world_size, lambda dp, tp, pp, cp, ep: dp * tp * pp * cp), (gradient_ranks, ranks), (global_norm, norm)]
WRONG = [
    (world_size, lambda dp, tp, pp, cp, ep: dp * tp * pp * cp * ep, "folds inside"),
    (world_size, lambda dp, tp, pp, cp, ep: dp * tp * pp, "takes ranks, too"),
    (world_size, lambda dp, tp, pp, cp, ep: dp + tp + pp + cp, "multiply"),
    (gradient_ranks, lambda kind, dp, tp, pp, cp, ep: dp * tp * pp * cp, "the whole world"),
    (gradient_ranks, lambda kind, dp, tp, pp, cp, ep: dp * cp, "its whole ep group already"),
    (gradient_ranks, lambda kind, dp, tp, pp, cp, ep: dp * cp * tp, "different slices"),
    (global_norm, lambda squares: sum(s for rank in squares for s, _ in rank) ** 0.5, "once for each of them"),
    (global_norm, lambda squares: norm(squares) ** 2, "the square of the norm"),
    (global_norm, lambda squares: norm(squares[:1]), "rank 0's share only"),
]
