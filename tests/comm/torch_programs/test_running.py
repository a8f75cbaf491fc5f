"""A torch program under the Simulator: what it finds, what it is refused, and what is left of it afterwards."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch import nn

import llmlab as lab
from llmlab.comm.simulated.torch_programs import private
from llmlab.comm.simulated.torch_programs.state import kept_once

SCRIPT = """
import argparse, os, sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from beside import WIDTH

class Batch:
    pass

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int)
    asked = parser.parse_args()
    assert not dist.is_initialized()
    dist.init_process_group(backend="nccl")
    rank, world = dist.get_rank(), dist.get_world_size()
    x = torch.arange(8.0 * WIDTH).reshape(8, WIDTH)
    data = TensorDataset(x, x.sum(1, keepdim=True))
    loader = DataLoader(data, batch_size=2, sampler=DistributedSampler(data, shuffle=False))
    model = DDP(torch.nn.Linear(WIDTH, 1))
    steps = 0
    for a, b in loader:
        torch.nn.functional.mse_loss(model(a), b).backward()
        steps += 1
    kinds = [None] * world
    dist.all_gather_object(kinds, Batch())
    assert all(isinstance(kind, Batch) for kind in kinds)
    print(f"{rank} of {world}, local {os.environ['LOCAL_RANK']}: {steps} batches, --steps {asked.steps}, {sys.argv[0]}")
    dist.destroy_process_group()
    sys.exit(0)

if __name__ == "__main__":
    main()
"""


def state() -> list[Any]:
    """All that a run swaps, as it is now."""
    tables = [dict(v) if isinstance(v, dict) else v for v in (getattr(row.owner, row.name) for row in kept_once())]
    backends = {k: v.copy() for k, v in vars(dist.Backend).items() if isinstance(v, (dict, list))}
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    names = (torch.compile, torch.cuda.is_available, torch.cuda.set_device, c10d.rendezvous, dist.TCPStore, sys.argv)
    return [tables, backends, names, environment, sys.excepthook, list(sys.path), sys.modules["__main__"]]


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was() -> Any:
    before = state()
    yield
    assert not dist.is_initialized()
    assert state() == before
    with pytest.raises(ValueError, match="not been initialized"):
        dist.get_rank()


def test_a_worker_finds_its_default_group_and_may_make_it_again() -> None:
    def worker(again: bool) -> Any:
        if again:
            dist.init_process_group("nccl")
            with pytest.raises(ValueError, match="twice"):
                dist.init_process_group("gloo")
        x = torch.ones(2) * dist.get_rank()
        dist.all_reduce(x)
        return dist.get_backend(), dist.get_world_size(), x.tolist(), os.environ["RANK"]

    for again in (False, True):
        run = lab.Simulator(ranks=3).run_torch(worker, again)
        assert run.results == [("simulated", 3, [3.0, 3.0], str(rank)) for rank in range(3)]
        assert run.trace.comm_bytes(rank=0, op="all_reduce", axis="world") == 8


def test_a_script_of_torchrun_runs_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("WIDTH = 3")
    script = str(tmp_path / "train.py")
    run = lab.Simulator(ranks=4, cluster="classroom").run_script(script, "--steps", "5")
    per_node = lab.hardware.cluster("classroom").devices_per_node
    assert [text.strip() for text in run.output] == [
        f"{rank} of 4, local {rank % per_node}: 1 batches, --steps 5, {script}" for rank in range(4)
    ]
    assert "beside" not in sys.modules


def test_a_script_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"there is none at no/train\.py"):
        lab.Simulator(ranks=2).run_script("no/train.py")


def test_what_a_script_exits_with_is_its_error(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys\nsys.exit(3)")
    with pytest.raises(SystemExit, match="rank 0: SystemExit: 3"):
        lab.Simulator(ranks=2).run_script(tmp_path / "train.py")


def skips_one() -> None:
    dist.all_reduce(torch.ones(4))
    if dist.get_rank() != 2:
        dist.all_reduce(torch.ones(4))


def another_shape() -> None:
    dist.all_reduce(torch.ones(4 if dist.get_rank() else 5))


def crossed_groups() -> None:
    a, b = dist.new_group([0, 1, 2]), dist.new_group([0, 1, 2])
    for group in (a, b) if dist.get_rank() == 0 else (b, a):
        dist.all_reduce(torch.ones(1), group=group)


def both_send() -> None:
    other = (dist.get_rank() + 1) % 3
    dist.send(torch.ones(3), other)


def reads_before_waiting() -> None:
    x = torch.ones(4)
    work = dist.all_reduce(x, async_op=True)
    assert (x * 2).sum() > 0
    work.wait()


def never_waits() -> None:
    dist.all_reduce(torch.ones(4), async_op=True)


def skips_backward() -> None:
    model = nn.parallel.DistributedDataParallel(nn.Linear(3, 2))
    loss = model(torch.ones(1, 3)).sum()
    if dist.get_rank() != 1:
        loss.backward()


def waits_for_a_key() -> None:
    store = c10d._get_default_store()
    if dist.get_rank() == 0:
        store.wait(["never"])


@pytest.mark.parametrize(
    ("worker", "error", "says"),
    [
        (skips_one, lab.DeadlockError, ["rank 2: has returned", "rank 0: waits in all_reduce", "in skips_one"]),
        (another_shape, lab.MismatchError, ["the shape is (5,) and (4,)"]),
        (crossed_groups, lab.DeadlockError, ["on group 1", "on group 2"]),
        (both_send, lab.DeadlockError, ["rank 1: waits in send to rank 2"]),
        (reads_before_waiting, lab.RaceError, ["before its wait()"]),
        (never_waits, lab.MismatchError, ["nobody waited for", "in never_waits"]),
        (skips_backward, lab.DeadlockError, ["rank 1: has returned", "loss.backward()"]),
        (waits_for_a_key, lab.DeadlockError, ["rank 0: is at", 'store.wait(["never"])']),
    ],
)
def test_a_hang_is_named_with_every_ranks_line(worker: Callable[[], None], error: Any, says: list[str]) -> None:
    with pytest.raises(error) as caught:
        lab.Simulator(ranks=3).run_torch(worker)
    for words in says:
        assert words in str(caught.value)


def test_a_rank_that_raises_is_named_and_its_error_kept() -> None:
    def worker() -> None:
        if dist.get_rank() == 1:
            raise KeyError("planted")
        dist.barrier()

    with pytest.raises(KeyError, match="rank 1: KeyError: planted"):
        lab.Simulator(ranks=2).run_torch(worker)


@pytest.mark.parametrize(
    "use",
    [
        lambda: torch.cuda.set_device(0),
        lambda: torch.ones(2, device="cuda"),
        lambda: nn.Linear(2, 2).cuda(),
        lambda: torch.ones(2).to("cuda"),
    ],
)
def test_cuda_is_refused_with_what_to_write_instead(use: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match='device="cpu"'):
        lab.Simulator(ranks=2).run_torch(use)


def test_a_spawn_inside_is_refused() -> None:
    with pytest.raises(ValueError, match="run_torch"):
        lab.Simulator(ranks=2).run_torch(lambda: torch.multiprocessing.spawn(print, nprocs=2))


def test_what_the_environment_contradicts_is_refused() -> None:
    def worker() -> None:
        dist.init_process_group("gloo", init_method="tcp://127.0.0.1:1", rank=dist.get_rank(), world_size=7)

    with pytest.raises(ValueError, match="world_size=7; this run has world_size=2"):
        lab.Simulator(ranks=2).run_torch(worker)


def test_compiling_is_left_out_and_changes_nothing() -> None:
    def worker() -> Any:
        @torch.compile(dynamic=True)
        def double(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        model = torch.compile(nn.Linear(2, 2))
        model.compile()
        return double(torch.ones(2)).tolist(), type(model).__name__

    assert lab.Simulator(ranks=1).run_torch(worker).results == [([2.0, 2.0], "Linear")]


def test_a_private_name_that_is_gone_switches_off_its_feature_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(private.NAMES, "context parallel", (f"{private.C10D}:_of_old",))
    private.missing.cache_clear()
    try:
        run = lab.Simulator(ranks=2).run_torch(dist.get_rank)
        assert run.results == [0, 1]
        off = f"context parallel: torch {torch.__version__} lacks torch.distributed.distributed_c10d._of_old"
        assert off in run.not_modelled
        monkeypatch.setitem(private.NAMES, private.ESSENTIAL, ("torch.gone:_name",))
        private.missing.cache_clear()
        with pytest.raises(ValueError, match=r"lacks torch\.gone\._name"):
            lab.Simulator(ranks=2).run_torch(dist.get_rank)
    finally:
        monkeypatch.undo()
        private.missing.cache_clear()
