"""Reading a timeline: right answers, and wrong ones with their hints."""

from __future__ import annotations

from llmlab.check.timelines import exposed_seconds, mfu
from llmlab.comm.trace import union_seconds


def utilization(n, tokens, seconds, ranks, peak):
    return 6 * n * tokens / (seconds * ranks * peak)


def exposed(kernels, messages):
    return union_seconds(kernels + messages) - union_seconds(kernels)


def length(spans):
    return sum(b - a for a, b in spans)


def without_overlaps(kernels, messages):
    return length(messages) - sum(max(0, min(b, d) - max(a, c)) for a, b in kernels for c, d in messages)


RIGHT = [(mfu, utilization), (exposed_seconds, exposed)]
WRONG = [
    (mfu, lambda *a: utilization(*a) / 3, "the backward pass needs twice as many"),
    (mfu, lambda *a: utilization(*a) * 8 / 6, "the HFU"),
    (mfu, lambda n, tokens, seconds, ranks, peak: utilization(n, tokens, seconds, 1, peak), "one device alone"),
    (mfu, lambda n, tokens, seconds, ranks, peak: utilization(n, tokens, 1, ranks, peak), "divide by the seconds"),
    (mfu, lambda *a: 0.22, "6 FLOPs per parameter"),
    (exposed_seconds, lambda kernels, messages: union_seconds(messages), "the hidden part too."),
    (exposed_seconds, lambda kernels, messages: length(messages), "and overlaps twice"),
    (exposed_seconds, without_overlaps, "time passes once"),
    (exposed_seconds, lambda k, m: max(0.0, union_seconds(m) - union_seconds(k)), "only what is at its time"),
    (exposed_seconds, lambda kernels, messages: 7.0, "mark every moment"),
]
