"""Pipeline parallelism: right answers, and wrong ones with their hints."""

from __future__ import annotations

import math

from llmlab.check.pipeline import (
    _with_weights,
    bubble_share,
    held_microbatches,
    message_count,
    microbatches_needed,
    own_schedule,
    quickest_split,
    split_by_speed,
    zero_bubble_wait,
)
from llmlab.parallel.schedules import make_schedule


def microbatches(p, share):
    return math.ceil((p - 1) * (1 - share) / share - 1e-9) or 1


def equal(n, speeds):
    return [n // len(speeds) + (i < n % len(speeds)) for i in range(len(speeds))]


def weights_at_the_end(p, m):
    rows = make_schedule("1f1b", p, m).actions
    return "\n".join(" ".join([*map(str, row), *(f"W{i}@{r}" for i in range(m))]) for r, row in enumerate(rows))


RIGHT = [
    (bubble_share, lambda p, m: (p - 1) / (m + p - 1)),
    (microbatches_needed, microbatches),
    (held_microbatches, lambda rank, p, m: min(p - rank, m)),
    (split_by_speed, quickest_split),
    (message_count, lambda p, m, v: 2 * (p * v - 1) * m),
    (own_schedule, lambda p, m: str(make_schedule("zb_h1", p, m))),
    (zero_bubble_wait, lambda p, m, f, b, w: (p - 1) * (f + b) - (min(m, p) - 1) * w),
]
WRONG = [
    (bubble_share, lambda p, m: (p - 1) / m, "beside the work"),
    (bubble_share, lambda p, m: m / (m + p - 1), "in which it works"),
    (bubble_share, lambda p, m: 0.3, "waits for (p - 1)"),
    (microbatches_needed, lambda p, share: microbatches(p, share) - 1, "round up"),
    (microbatches_needed, lambda p, share: math.ceil((p - 1) / share - 1e-9), "beside the work"),
    (microbatches_needed, lambda p, share: p, "solve (p - 1) / (m + p - 1)"),
    (held_microbatches, lambda rank, p, m: m, "that is GPipe"),
    (held_microbatches, lambda rank, p, m: min(rank + 1, m), "other way round"),
    (held_microbatches, lambda rank, p, m: p - rank, "cannot hold more than there are"),
    (split_by_speed, equal, "equal stages"),
    (split_by_speed, lambda n, speeds: [n * v / sum(speeds) for v in speeds], "whole numbers"),
    (split_by_speed, lambda n, speeds: "all", "in proportion"),
    (message_count, lambda p, m, v: (p * v - 1) * m, "forward only"),
    (message_count, lambda p, m, v: 2 * p * v * m, "borders"),
    (message_count, lambda p, m, v: 2 * (p - 1) * m, "v times as many"),
    (own_schedule, lambda p, m: str(_with_weights(make_schedule("1f1b", p, m))), "that is 1F1B"),
    (own_schedule, lambda p, m: "B0 F0 W0", "does not run"),
    (own_schedule, lambda p, m: str(make_schedule("1f1b", p, m)), "each with F, B and W"),
    (own_schedule, weights_at_the_end, "holds all of them"),
    (zero_bubble_wait, lambda p, m, f, b, w: (p - 1) * (f + b - w), "from m = p on"),
    (zero_bubble_wait, lambda p, m, f, b, w: (p - 1) * (f + b) - min(m, p - 1) * w, "one W too many"),
    (zero_bubble_wait, lambda p, m, f, b, w: (p - 1) * (f + b + w), "that is 1F1B"),
    (zero_bubble_wait, lambda p, m, f, b, w: m, "how many have come back"),
]
