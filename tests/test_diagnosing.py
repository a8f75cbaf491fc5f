"""Where the time went: every moment of a rank has one cause, and the causes add up to the step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmlab.comm.simulator import Simulator
from llmlab.comm.trace import Event, Run, Trace
from llmlab.diagnosing import CAUSES, between, exposed_by_axis, time_spent, utilization, within


def kernel(rank: int, start: float, stop: float, flops: int = 100) -> Event:
    return Event(rank, "compute", "mm" if flops else "add", "", 0, flops, start, stop)


def comm(rank: int, start: float, stop: float, op: str = "all_reduce", axis: str = "dp", peer: int | None = None):
    return Event(rank, "comm", op, axis, 8, 0, start, stop, peer)


def run_of(*events: Event, seconds: float | None = None, clock: str = "virtual") -> Run:
    ranks = 1 + max(e.rank for e in events)
    end = max(e.stop for e in events) if seconds is None else seconds
    ordered = tuple(sorted(events, key=lambda e: (e.start, e.rank)))
    return Run([None] * ranks, end, clock, Trace(ordered, clock), [], [])  # type: ignore[arg-type]


def seconds_of(run: Run, rank: int) -> list[float]:
    return [time_spent(run).ranks[rank][cause] for cause in CAUSES]


def test_who_comes_first_waits_and_only_then_bytes_travel() -> None:
    run = run_of(kernel(0, 0, 2), comm(0, 2, 5), kernel(1, 0, 4), comm(1, 4, 5))
    assert seconds_of(run, 0) == [2, 0, 1, 2, 0]
    assert seconds_of(run, 1) == [4, 0, 1, 0, 0]


def test_a_message_travels_once_both_sides_are_there() -> None:
    sent = comm(0, 3, 6, "send", "pp", peer=1)
    taken = comm(1, 0, 6, "recv", "pp", peer=0)
    run = run_of(kernel(0, 0, 3), sent, taken, kernel(1, 6, 7))
    assert seconds_of(run, 0) == [3, 0, 3, 0, 1]
    assert seconds_of(run, 1) == [1, 0, 3, 3, 0]


def test_messages_that_end_together_between_other_ranks_do_not_meet() -> None:
    early = comm(0, 1, 6, "send", "pp", peer=1), comm(1, 1, 6, "recv", "pp", peer=0)
    late = comm(2, 5, 6, "send", "pp", peer=3), comm(3, 0, 6, "recv", "pp", peer=2)
    run = run_of(*early, *late, *(kernel(rank, 0, 1, 0) for rank in range(4)))
    assert time_spent(run).ranks[0]["communication"] == 5
    assert time_spent(run).ranks[3]["communication"] == 1


def test_what_is_hidden_behind_a_kernel_is_not_communication() -> None:
    run = run_of(kernel(0, 0, 4), comm(0, 1, 3), kernel(1, 0, 4), comm(1, 1, 3))
    assert seconds_of(run, 0) == [4, 0, 0, 0, 0]
    assert exposed_by_axis(run) == {"dp": 0}


def test_a_collective_that_queues_behind_another_of_its_group_counts_once() -> None:
    first, second = (comm(0, 0, 4), comm(1, 3, 4)), (comm(0, 1, 6), comm(1, 3, 6))
    run = run_of(*first, *second, kernel(0, 6, 7), kernel(1, 6, 7))
    assert seconds_of(run, 0) == [1, 0, 3, 3, 0]  # 0 to 3 waits for rank 1, 3 to 6 travels
    assert seconds_of(run, 1) == [1, 0, 3, 0, 3]


def test_kernels_without_flops_are_apart_and_gaps_are_the_hosts() -> None:
    run = run_of(kernel(0, 0, 1), kernel(0, 1, 3, flops=0), kernel(0, 5, 6), seconds=8)
    assert seconds_of(run, 0) == [2, 2, 0, 0, 4]
    spent = time_spent(run)
    assert spent.shares["host"] == spent.by_rank["rank 0"]["host"] == 0.5
    assert "50%" in str(spent)


def test_exposed_time_is_told_apart_by_axis() -> None:
    both = [[comm(rank, 0, 2, axis="tp"), kernel(rank, 2, 4), comm(rank, 3, 5, axis="dp")] for rank in range(2)]
    run = run_of(*both[0], *both[1], seconds=10)
    assert exposed_by_axis(run) == {"dp": 0.1, "tp": 0.2}


def worker(world, rows):
    x = torch.ones(rows[world.rank], 64)
    for name in ("first", "step"):
        world.barrier()
        with world.span(name):
            for _ in range(3):
                x = x @ torch.ones(64, 64)
            world.all_reduce(torch.ones(1000))
            world.barrier()


def test_causes_add_up_on_a_simulated_run_and_the_one_with_more_to_do_does_not_wait() -> None:
    run = within(Simulator(2).run(worker, [64, 256]), "step")
    spent = time_spent(run)
    for by_cause in spent.ranks.values():
        assert sum(by_cause.values()) == pytest.approx(run.seconds, rel=1e-9)
        assert all(seconds >= 0 for seconds in by_cause.values())
    assert spent.share("waiting", 0) > 0.3 > 0.05 > spent.share("waiting", 1)
    assert spent.flops == {0: 3 * 2 * 64**3, 1: 4 * 3 * 2 * 64**3}


def test_within_keeps_the_span_only_and_begins_at_zero() -> None:
    whole = Simulator(2).run(worker, [64, 64])
    step = within(whole, "step")
    assert len(step.trace.select(op="all_reduce")) == 2
    assert not step.trace.select(stream="host", op="step")
    assert 0 <= min(e.start for e in step.trace) < 1e-5  # the first launch
    assert step.seconds == pytest.approx(whole.seconds / 2, rel=0.1)
    with pytest.raises(ValueError, match="no span 'stop'; the worker named first, step"):
        within(whole, "stop")


def test_between_clips_what_it_cuts_through() -> None:
    run = between(run_of(kernel(0, 0, 4), kernel(0, 4, 9)), 1, 6)
    assert [(e.start, e.stop, e.flops) for e in run.trace] == [(0, 3, 100), (3, 5, 100)]
    assert run.seconds == 5
    with pytest.raises(ValueError, match="0 <= start < stop"):
        between(run, 3, 3)


def test_mfu_is_the_product_of_its_three_parts() -> None:
    peak = 1e10  # of the classroom device
    run = run_of(kernel(0, 0, 1, int(5e9)), kernel(1, 0, 1, int(5e9)), seconds=2)
    used = utilization(time_spent(run), 8e9)
    assert (used.products, used.rate, used.useful) == (0.5, 0.5, 0.8)
    assert used.mfu == pytest.approx(8e9 / (2 * 2 * peak))
    assert used.hfu == pytest.approx(1e10 / (2 * 2 * peak))
    assert str(used).startswith("MFU 20% = 50% of the time")


def test_more_than_the_device_can_do_is_refused() -> None:
    with pytest.raises(ValueError, match="an MFU of 300%: more than the devices can do"):
        utilization(time_spent(run_of(kernel(0, 0, 1))), 3e10)
    with pytest.raises(ValueError, match="wants matrix products"):
        utilization(time_spent(run_of(kernel(0, 0, 1, 0))), 3e9)


def test_a_measured_run_and_a_folded_one_are_refused() -> None:
    with pytest.raises(ValueError, match="got one of wall time"):
        time_spent(run_of(comm(0, 0, 1), clock="wall"))
    with pytest.raises(ValueError, match="with its kernels"):
        time_spent(run_of(comm(0, 0, 1)))
    with pytest.raises(ValueError, match="without fold; got 1 of 4"):
        time_spent(replace(run_of(kernel(0, 0, 1)), results=[None] * 4))
