"""Post-training: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.post_training import (
    group_advantage,
    lora_parameters,
    merged_weight,
    two_group_seconds,
    weight_sync_bytes,
)


def advantage(rewards, group):
    return [r - sum(rewards[i - i % group : i - i % group + group]) / group for i, r in enumerate(rewards.tolist())]


def seconds(g, t, steps, staleness):
    return steps * (g + t) if staleness == 0 else g + (steps - 1) * max(g, t) + t


RIGHT = [
    (lora_parameters, lambda i, o, r, n: n * r * (i + o)),
    (merged_weight, lambda w, a, b, alpha: w + alpha / len(a) * (b @ a)),
    (group_advantage, lambda rewards, group: rewards.new_tensor(advantage(rewards, group))),
    (weight_sync_bytes, lambda n, steps, g, s: 4 * n * g * max(0, steps - 1 - s)),
    (two_group_seconds, seconds),
]
WRONG = [
    (lora_parameters, lambda i, o, r, n: r * (i + o), "that is one matrix"),
    (lora_parameters, lambda i, o, r, n: n * i * o, "that is the matrix itself"),
    (lora_parameters, lambda i, o, r, n: n * r * i * o, "add their sizes"),
    (lora_parameters, lambda i, o, r, n: n * r * i, "A alone"),
    (lora_parameters, lambda i, o, r, n: 2 * n * r * i, "d_out, not d_in"),
    (merged_weight, lambda w, a, b, alpha: w + alpha * b @ a, "another rank is as loud"),
    (merged_weight, lambda w, a, b, alpha: w + b @ a, "the scale is missing"),
    (merged_weight, lambda w, a, b, alpha: alpha / len(a) * (b @ a), "add it"),
    (merged_weight, lambda w, a, b, alpha: alpha / len(a) * w + b @ a, "stays as it is"),
    (group_advantage, lambda rewards, group: rewards - rewards.mean(), "one per group"),
    (
        group_advantage,
        lambda rewards, group: (rewards.view(group, -1) - rewards.view(group, -1).mean(0)).flatten(),
        "lie side by side",
    ),
    (group_advantage, lambda rewards, group: -rewards.new_tensor(advantage(rewards, group)), "better than the mean"),
    (
        group_advantage,
        lambda rewards, group: rewards - rewards.new_tensor(advantage(rewards, group)),
        "take them from the rewards",
    ),
    (weight_sync_bytes, lambda n, steps, g, s: n * g * max(0, steps - 1 - s), "these are numbers"),
    (weight_sync_bytes, lambda n, steps, g, s: 4 * n * max(0, steps - 1 - s), "that is one generator's"),
    (weight_sync_bytes, lambda n, steps, g, s: 4 * n * g * steps, "after the last update"),
    (weight_sync_bytes, lambda n, steps, g, s: 4 * n * g * (steps - s), "one too many"),
    (weight_sync_bytes, lambda n, steps, g, s: 4 * n * g * (steps - 1), "staler answers want fewer"),
    (weight_sync_bytes, lambda n, steps, g, s: 4 * n * g * (steps - 1 - s), "not less than nothing"),
    (two_group_seconds, lambda g, t, steps, s: steps * (g + t), "both groups work at once"),
    (two_group_seconds, lambda g, t, steps, s: seconds(g, t, steps, 1), "nobody works while the other does"),
    (two_group_seconds, lambda g, t, steps, s: steps * (g + t if s == 0 else max(g, t)), "add the ends"),
    (
        two_group_seconds,
        lambda g, t, steps, s: steps * (g + t) if s == 0 else (steps - 1) * max(g, t),
        "the first batch and the last update are missing",
    ),
]
