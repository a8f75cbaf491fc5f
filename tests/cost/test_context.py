"""What context parallelism costs a step: what a ring does not hide, and what Ulysses exchanges."""

from __future__ import annotations

import pytest

from llmlab.cost import predict
from llmlab.hardware import cluster
from llmlab.parallel.layout import Layout


def context_step(context, cp, **more):
    layout = Layout(dp=8 // cp, cp=cp, tp=4, pp=4, sequence_parallel=True, microbatches=16, context=context)
    return predict("llama3-70b", layout, "h100", global_batch=128, seq=8192, **more)


def test_context_parallelism_is_not_free_and_ulysses_hides_nothing():
    plain, ring, ulysses = context_step("ring", 1), context_step("ring", 4), context_step("ulysses", 4)
    assert plain.breakdown["context_parallel"] == 0 < ring.breakdown["context_parallel"]
    assert ring.hidden["context_parallel"] > 0 == ulysses.hidden["context_parallel"]
    assert ulysses.breakdown["context_parallel"] > ring.breakdown["context_parallel"]


def test_a_ring_adds_up_its_steps_as_counted_by_hand():
    ring = context_step("ring", 2, stack="ideal")
    on = cluster("h100")
    device = on.device
    # one step beside the first: 2 x 4096 tokens of 64 heads of 128 over tp=4, three quarters of the rows; bf16 and fp32
    q, kv = 64 * 128 / 4, 8 * 128 / 4
    moved = 0.75 * 2 * 4096 * ((2 + 8) * q + 3 * 2 * (q + 2 * kv))
    layers, microbatches = 20, 16
    seconds = layers * microbatches * moved / (device.memory_bytes_per_s * device.memory_efficiency)
    assert ring.breakdown["context_parallel"] == pytest.approx(seconds, rel=1e-6)  # its hops are all hidden
