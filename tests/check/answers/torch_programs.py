"""Torch programs: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.torch_programs import fully_sharded_bytes, missing_ranks, reduced_bytes


def reduced(parameters, microbatches, no_sync):
    return 4 * parameters * (1 if no_sync else microbatches)


def missing(lines):
    return [rank for rank, line in sorted(lines.items()) if not line.startswith("waits in")]


RIGHT = [
    (fully_sharded_bytes, lambda parameters, ranks: 16 * parameters / ranks),
    (reduced_bytes, reduced),
    (missing_ranks, missing),
]
WRONG = [
    (fully_sharded_bytes, lambda n, ranks: 16 * n, "divide by the ranks"),
    (fully_sharded_bytes, lambda n, ranks: 8 * n / ranks, "keeps two moments"),
    (fully_sharded_bytes, lambda n, ranks: 12 * n / ranks, "two moments are kept"),
    (fully_sharded_bytes, lambda n, ranks: 4 * n + 12 * n / ranks, "splits the weights, too"),
    (fully_sharded_bytes, lambda n, ranks: n, "four numbers of 4 bytes"),
    (reduced_bytes, lambda n, m, no_sync: 4 * n, "there is one a microbatch"),
    (reduced_bytes, lambda n, m, no_sync: 4 * n * m, "only the last microbatch reduces"),
    (reduced_bytes, lambda *a: reduced(*a) // 4, "has 4 bytes"),
    (missing_ranks, lambda lines: [r for r in lines if r not in missing(lines)], "the others are who is missing"),
    (missing_ranks, lambda lines: [r for r in lines if lines[r] == "has returned"], "still be at another line"),
    (missing_ranks, lambda lines: missing(lines)[:1], "every rank's line"),
]
