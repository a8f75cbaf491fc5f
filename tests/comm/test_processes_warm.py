"""Where ranks cannot be forked they are interpreters, started once and kept. Forced here; not run on macOS yet."""

from __future__ import annotations

import os
import time

import pytest
import torch

from llmlab.comm.errors import RankDied
from llmlab.comm.processes import Processes, close_warm


@pytest.fixture(scope="module", autouse=True)
def none_left():
    yield
    close_warm()


def pid(world):
    return os.getpid()


def test_warm_ranks_serve_every_engine_of_their_size():
    def worker(world):
        print("hello")
        return world.all_reduce(torch.ones(1)).item(), torch.rand(1).item()

    first = Processes(2, launch="warm").run(worker)
    assert [r[0] for r in first.results] == [2, 2] and first.output == ["hello\n"] * 2
    before = Processes(2, launch="warm").run(pid).results
    begun = time.monotonic()
    again = Processes(2, launch="warm").run(worker)
    assert time.monotonic() - begun < 1, "no interpreter was started"
    assert again.results == first.results, "seeded anew"
    assert Processes(2, launch="warm").run(pid).results == before


def test_warm_ranks_that_failed_are_replaced():
    def worker(world):
        if world.rank == 1:
            os._exit(4)
        world.recv(torch.zeros(1), 1)

    with pytest.raises(RankDied, match="^rank 1: its process ended itself with exit code 4"):
        Processes(2, launch="warm").run(worker)
    assert Processes(2, launch="warm").run(lambda world: world.rank).results == [0, 1]


def test_windows_is_refused_with_a_way_out(monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(OSError, match="use WSL2, or Simulator"):
        Processes(2)


def test_macos_keeps_its_ranks_warm(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert Processes(2).launch == "warm"


def test_closing_warm_ranks_leaves_nothing():
    run = Processes(2, launch="warm").run(lambda world: (os.getpid(), os.environ["TMPDIR"]))
    close_warm()
    for number, folder in run.results:
        assert not os.path.exists(f"/proc/{number}") and not os.path.exists(os.path.dirname(folder))
