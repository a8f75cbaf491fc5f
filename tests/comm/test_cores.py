"""Simulated ranks, which take turns, share one core while they run, and nobody else's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import llmlab as lab
from llmlab.comm.cores import on_one_core

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a thread choose its core")


@pytest.fixture
def anywhere():
    """The cores this thread may use, all of them free."""
    cores = os.sched_getaffinity(0)
    yield cores
    assert os.sched_getaffinity(0) == cores


def where(world):
    world.barrier()
    return os.sched_getaffinity(0)


def test_ranks_share_a_core_and_their_caller_is_free_again_afterwards(anywhere):
    results = lab.Simulator(ranks=3).run(where).results
    assert results[0] == results[1] == results[2]
    assert results[0] < anywhere or results[0] == anywhere  # less, where there is one to choose


def test_a_run_that_fails_lets_its_core_go_too(anywhere):
    with pytest.raises(lab.RankError):
        lab.Simulator(ranks=2).run(lambda world: 1 / 0)


def test_nobody_gets_a_core_that_another_has(anywhere):
    with on_one_core() as first:
        os.sched_setaffinity(0, anywhere)
        with on_one_core() as second:
            assert first is None or first != second


def test_where_every_core_is_taken_threads_run_anywhere(anywhere, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: {9001, 9002})
    chosen = []
    monkeypatch.setattr(os, "sched_setaffinity", lambda thread, cores: chosen.append(cores))
    with on_one_core() as first, on_one_core() as second, on_one_core() as third:
        assert (first, second, third) == (9001, 9002, None)
    assert chosen == [{9001}, {9002}, {9001, 9002}, {9001, 9002}]
    with on_one_core() as again:
        assert again == 9001
    monkeypatch.undo()


def test_a_process_that_dies_lets_its_core_go(anywhere, monkeypatch):
    program = "from llmlab.comm import cores; import os; os.sched_getaffinity = lambda thread: {9101, 9102}; "
    program += "kept = cores._claim(); print(kept[0], flush=True); os.kill(os.getpid(), 9)"
    for _ in range(2):
        died = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert died.stdout == "9101\n" and died.returncode == -9
