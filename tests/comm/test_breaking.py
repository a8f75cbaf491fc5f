"""A breakpoint on one rank: the others go on, and the cell gets the rank's variables and its operations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import llmlab as lab
from llmlab.comm.group import Group


def test_a_rank_of_a_worker_of_ours_stops_with_its_variables() -> None:
    def worker(world: Group) -> None:
        x = torch.ones(2) * world.rank
        total = world.all_reduce(x)
        for step in range(3):
            lab.break_at(rank=1, when=step == 2)
            world.barrier()
        assert total.sum() > 0

    with pytest.raises(lab.Stopped, match="rank 1 stopped at .*when=step == 2") as caught:
        lab.Simulator(ranks=3).run(worker)
    here = caught.value
    assert here.locals["step"] == 2
    assert here.locals["x"].tolist() == [1.0, 1.0]
    assert here.locals["total"].tolist() == [3.0, 3.0]
    assert here.operations == ["all_reduce on world, 8 bytes", *["barrier on world, 0 bytes"] * 2]
    assert "rank 0: waits in barrier" in str(here) or "rank 0: is at" in str(here)


def test_a_rank_of_a_torch_program_and_of_a_script_stops(tmp_path: Path) -> None:
    def worker() -> None:
        x = torch.ones(4)
        work = dist.all_reduce(x, async_op=True)
        lab.break_at(rank=0)
        work.wait()

    with pytest.raises(lab.Stopped, match=r"under way: all_reduce\(sum\) on world"):
        lab.Simulator(ranks=2).run_torch(worker)
    (tmp_path / "train.py").write_text("import llmlab as lab\nseed = 7\nlab.break_at(rank=1)")
    with pytest.raises(lab.Stopped, match=r"train\.py:3") as caught:
        lab.Simulator(ranks=2).run_script(tmp_path / "train.py")
    assert caught.value.locals["seed"] == 7
    assert not dist.is_initialized()


def test_a_breakpoint_outside_a_simulated_rank_is_refused() -> None:
    with pytest.raises(ValueError, match="inside a worker that Simulator runs"):
        lab.break_at(rank=0)


def test_ranks_that_never_come_there_are_not_stopped() -> None:
    def worker(world: Group) -> int:
        lab.break_at(rank=5)
        return world.rank

    assert lab.Simulator(ranks=2).run(worker).results == [0, 1]
