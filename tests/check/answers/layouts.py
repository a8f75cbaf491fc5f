"""Layouts of several axes: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.layouts import global_norm, gradient_ranks, mesh_place, world_size


def ranks(kind, dp, tp, pp, cp, ep):
    return {"matrix": dp * cp, "expert": dp * cp // ep, "norm": dp * cp * tp}[kind]


def norm(squares):
    return sum(s / n for rank in squares for s, n in rank) ** 0.5


def place(rank, dp, tp, pp, cp):
    return rank // (tp * cp * dp), rank // (tp * cp) % dp, rank // tp % cp, rank % tp


def pp_inside(rank, dp, tp, pp, cp):
    return rank % pp, rank // pp % dp, rank // (pp * dp) % cp, rank // (pp * dp * cp)


def dp_before_cp(rank, dp, tp, pp, cp):
    return rank // (tp * cp * dp), rank // tp % dp, rank // (tp * dp) % cp, rank % tp


RIGHT = [
    (mesh_place, place),
    (world_size, lambda dp, tp, pp, cp, ep: dp * tp * pp * cp),
    (gradient_ranks, ranks),
    (global_norm, norm),
]
WRONG = [
    (mesh_place, lambda *a: place(*a)[::-1], "in another order"),
    (mesh_place, pp_inside, "its ranks are neighbours"),
    (mesh_place, dp_before_cp, "cp turns before dp"),
    (mesh_place, lambda *a: (0, 0, 0, a[0]), "an odometer"),
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
