"""Growing: strong keeps the batch, weak keeps what a replica has; a point is the predictor's."""

from __future__ import annotations

import pytest

from llmlab.cost.growing import efficiency, grow
from llmlab.cost.models import find_config
from llmlab.cost.prediction import predict
from llmlab.parallel.layout import Layout

MODEL = find_config("llama2-13b")
REPLICA = Layout(tp=4, pp=2, zero=1, sequence_parallel=True, microbatches=64)


def scaled(work, **more):
    return grow(MODEL, REPLICA, "a100", work=work, global_batch=64, seq=2048, **more)


def test_strong_scaling_keeps_the_batch_until_a_replica_has_one_sequence():
    found = scaled("strong")
    assert list(found) == [8 * 2**k for k in range(7)]  # 64 replicas of 8 GPUs: a sequence each
    assert {p.tokens for p in found.values()} == {64 * 2048}
    layout = Layout(dp=4, tp=4, pp=2, zero=1, sequence_parallel=True, microbatches=16)
    assert found[32] == predict(MODEL, layout, "a100", global_batch=64, seq=2048, recompute="selective")


def test_weak_scaling_grows_the_batch_to_16384_gpus():
    found = scaled("weak")
    assert list(found)[-1] == 16384 and all(p.tokens == gpus / 8 * 64 * 2048 for gpus, p in found.items())


def test_efficiency_is_of_the_fewest_and_strong_loses_more():
    strong, weak = efficiency(scaled("strong")), efficiency(scaled("weak"))
    assert strong[8] == weak[8] == 1 and strong[512] < weak[512] < 1


def test_interleaved_counts_without_whole_rounds_are_left_out():
    replica = Layout(tp=2, pp=4, schedule="interleaved", virtual_stages=2, microbatches=16)
    assert list(grow(MODEL, replica, "a100", global_batch=16, seq=2048)) == [8, 16, 32]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"work": "some"}, "work as one of 'strong', 'weak'; got 'some'"),
        ({"replica": Layout(dp=2, microbatches=32)}, "a replica has dp=1, got dp=2"),
        ({"most": 4}, "most wants at least the 8 GPUs of one replica, got 4"),
        ({"global_batch": 63}, "a batch of 63 does not split"),
    ],
)
def test_what_cannot_grow_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        grow(**{"config": MODEL, "replica": REPLICA, "global_batch": 64, "seq": 2048, **wrong})
