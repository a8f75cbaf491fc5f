"""Task parallelism: every task once, results in order, failures told, and first-free gives to whoever is free."""

from __future__ import annotations

import heapq
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.comm.errors import RankDied
from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.parallel.task import TaskFailure, TasksFailed, map_tasks

SCHEDULES = ("static", "first_free")


def squares(world, n, schedule, chunk=1):
    return map_tasks(lambda i: (i * i, world.rank), list(range(n)), world, schedule, chunk)


def planted(world, schedule, keep=False):
    def task(i):
        if i in (1, 4):
            raise KeyError("planted")
        return i

    return map_tasks(task, list(range(6)), world, schedule, keep_failures=keep)


@pytest.fixture(scope="module")
def processes():
    with Processes(ranks=3) as workers:
        yield workers


@settings(max_examples=20)
@given(ranks=st.integers(1, 5), n=st.integers(0, 12), chunk=st.integers(1, 5), schedule=st.sampled_from(SCHEDULES))
def test_every_rank_gets_all_results_in_the_order_of_the_items(ranks, n, chunk, schedule):
    for results in Simulator(ranks).run(squares, n, schedule, chunk).results:
        assert [value for value, _ in results] == [i * i for i in range(n)]


def test_real_processes_give_the_same_results(processes):
    for schedule in SCHEDULES:
        for results in processes.run(squares, 7, schedule, 2).results:
            assert [value for value, _ in results] == [i * i for i in range(7)]


def test_static_deals_chunks_in_turn():
    owners = [rank for _, rank in Simulator(3).run(squares, 8, "static", 2).results[0]]
    assert owners == [0, 0, 1, 1, 2, 2, 0, 0]


def test_rank_0_only_hands_out_unless_it_is_alone(processes):
    for engine in (Simulator(3), processes):
        assert 0 not in {rank for _, rank in engine.run(squares, 9, "first_free").results[0]}
    assert {rank for _, rank in Simulator(1).run(squares, 3, "first_free").results[0]} == {0}


def nap(world, seconds, schedule):
    """Tasks that only take time: their owners, and when the last one was done."""

    def task(s):
        world.sleep(s)
        return world.rank, world.clock()

    done = map_tasks(task, seconds, world, schedule)
    return [rank for rank, _ in done], max(stop for _, stop in done)


@settings(max_examples=6)
@given(ranks=st.integers(2, 5), tasks=st.permutations(range(1, 13)))
def test_first_free_ends_when_grahams_list_scheduling_does(ranks, tasks):
    free = [0.0] * (ranks - 1)
    for seconds in tasks:
        heapq.heapreplace(free, free[0] + seconds)
    _, end = Simulator(ranks).run(nap, [float(s) for s in tasks], "first_free").results[0]
    assert end == pytest.approx(max(free), abs=0.01)  # 12 tasks, three messages of some 100 microseconds each
    best = max(sum(tasks) / (ranks - 1), max(tasks))
    assert end <= (2 - 1 / (ranks - 1)) * best + 0.01


def test_first_free_leaves_a_slow_rank_fewer_tasks():
    def worker(world):
        def task(i):
            x = torch.ones(200, 200)
            return world.rank, (x @ x)[0, 0].item()

        return [rank for rank, _ in map_tasks(task, range(20), world, "first_free")]

    owners = Simulator(3, speeds={2: 0.25}).run(worker).results[0]
    assert owners.count(1) > 2 * owners.count(2) > 0


def test_first_free_sends_one_request_per_chunk_and_one_more_per_rank():
    trace = Simulator(4).run(squares, 10, "first_free", 3).trace
    requests = len(trace.select(op="send")) - len(trace.select(op="send", rank=0))
    assert requests == len(trace.select(op="send", rank=0)) == 4 + 3
    assert trace.comm_bytes(op="send") == 2 * 7 * 8


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_failures_are_reported_on_every_engine_and_cost_no_other_result(schedule, processes):
    for engine in (Simulator(3), processes):
        with pytest.raises(TasksFailed, match="2 of 6 tasks failed") as caught:
            engine.run(planted, schedule)
        first = caught.value.failures[0]
        assert (first.index, first.error) == (1, "KeyError: 'planted'")
        assert str(first).startswith(f"task 1 on rank {first.rank}: ") and "in task" in first.traceback
        assert [r for r in caught.value.results if not isinstance(r, TaskFailure)] == [0, 2, 3, 5]


def test_failures_can_be_kept_in_the_results_place():
    for results in Simulator(2).run(planted, "static", keep=True).results:
        assert [r if isinstance(r, int) else r.rank for r in results] == [0, 1, 2, 3, 0, 5]


def test_a_result_that_cannot_travel_is_a_failure_of_its_task():
    def worker(world):
        return map_tasks(lambda i: (_ for _ in range(i)) if i == 1 else i, range(3), world)

    with pytest.raises(TasksFailed, match="task 1 on rank 1: TypeError: .*a generator: its work has not been done"):
        Simulator(2).run(worker)


def test_a_rank_that_dies_in_a_task_ends_the_run():
    def worker(world):
        return map_tasks(lambda i: os._exit(3) if i == 1 else i, range(4), world)

    with pytest.raises(RankDied, match="^rank 1"):
        Processes(ranks=2).run(worker)


def test_tensors_come_back_as_they_are():
    def worker(world):
        return map_tasks(lambda i: torch.full((i, 2), i, dtype=torch.float64).mT, range(3), world)

    for tensors in Simulator(2).run(worker).results:
        assert all(torch.equal(t, torch.full((2, i), i, dtype=torch.float64)) for i, t in enumerate(tensors))


def test_the_timeline_names_every_task_on_the_rank_that_did_it():
    run = Simulator(2).run(nap, [1.0, 2.0, 3.0], "static")
    spans = {event.op: (event.rank, round(event.seconds, 4)) for event in run.trace.select(stream="host")}
    assert spans == {"task 0": (0, 1.0), "task 1": (1, 2.0), "task 2": (0, 3.0)}


@pytest.mark.parametrize(
    "how, said",
    [
        ({"schedule": "dynamic"}, "schedule in static, first_free; got 'dynamic'"),
        ({"chunk": 0}, "chunk of at least 1, got 0"),
    ],
)
def test_a_wrong_argument_says_what_is_wanted(how, said):
    with pytest.raises(ValueError, match=said):
        Simulator(2).run(lambda world: map_tasks(abs, [1], world, **how))


def test_items_that_differ_between_ranks_are_refused_before_any_task_runs():
    def worker(world, schedule):
        return map_tasks(os._exit, [1] * (3 + world.rank), world, schedule)

    for schedule in SCHEDULES:
        with pytest.raises(ValueError, match="rank 0: 3 items, chunk 1; rank 1: 4 items, chunk 1"):
            Simulator(2).run(worker, schedule)


def test_tensors_without_numbers_are_refused():
    with pytest.raises(ValueError, match="wants values: numerics=True"):
        Simulator(2, numerics=False).run(squares, 3, "static")
