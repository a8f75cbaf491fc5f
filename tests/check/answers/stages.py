"""What stages hand over: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.stages import interleaved_bubble, stage_bytes


def handed_over(rank, ranks, tokens, d_model, number_bytes):
    messages = [rank < ranks - 1, rank > 0]  # activations on, gradients back
    return sum(messages) * tokens * d_model * number_bytes


def forward_only(rank, ranks, tokens, d_model, number_bytes):
    return tokens * d_model * number_bytes if rank < ranks - 1 else 0


RIGHT = [
    (stage_bytes, handed_over),
    (interleaved_bubble, lambda p, m, v: (p - 1) / v / (m + (p - 1) / v)),
]
WRONG = [
    (stage_bytes, forward_only, "forward alone"),
    (stage_bytes, lambda rank, ranks, tokens, d, size: 2 * tokens * d * size, "one alone nothing at all"),
    (stage_bytes, lambda rank, ranks, tokens, d, size: handed_over(rank, ranks, tokens, d, 1), "takes number_bytes"),
    (stage_bytes, lambda *a: 2 * handed_over(*a), "count what goes out"),
    (stage_bytes, lambda *a: handed_over(*a) * a[1], "what this one hands over"),
    (interleaved_bubble, lambda p, m, v: (p - 1) / (m + p - 1), "1F1B's"),
    (interleaved_bubble, lambda p, m, v: (p - 1) / (v * m), "both together"),
    (interleaved_bubble, lambda p, m, v: v * (p - 1) / (m + v * (p - 1)), "crossed v times as soon"),
    (interleaved_bubble, lambda p, m, v: v * m / (v * m + p - 1), "in which it works"),
]
