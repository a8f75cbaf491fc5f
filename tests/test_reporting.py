"""The page on a run: its numbers are the trace's, and the command line prints it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import llmlab as lab
from llmlab.comm.group import Group
from llmlab.commands import main

SCRIPT = """
import sys, torch, torch.distributed as dist
dist.init_process_group()
x = torch.ones(int(sys.argv[1]))
dist.all_reduce(x)
if len(sys.argv) > 2 and dist.get_rank() == 0:
    dist.all_reduce(x)
"""


def trains() -> None:
    model = nn.parallel.DistributedDataParallel(nn.Sequential(*(nn.Linear(64, 64) for _ in range(4))))
    for _ in range(2):
        model(torch.ones(32, 64)).sum().backward()


def test_its_numbers_are_those_of_the_trace() -> None:
    run = lab.Simulator(ranks=2).run_torch(trains)
    page = lab.report(run)
    assert sum(page.handed_over.values()) == run.trace.comm_bytes() / 2
    assert page.handed_over["all_reduce", "world"] == run.trace.comm_bytes(rank=0, op="all_reduce")
    assert page.computing == pytest.approx((run.trace.busy(0) + run.trace.busy(1)) / 2)
    shares = lab.exposed_by_axis(run)  # of operations that do not overlap one another: they add up
    assert sum(page.exposed.values()) / run.seconds == pytest.approx(sum(shares.values()))
    rank, memory = page.busiest
    assert memory.total == max(each.total for each in run.memory)
    assert memory is run.memory[rank]
    assert f"the fullest, rank {rank}, holds" in str(page)
    assert "parameters 65 KiB" in str(page)  # 4 layers of 64 x 64 + 64 in fp32


def test_a_run_without_communication_has_no_table_of_it() -> None:
    def worker(world: Group) -> None:
        torch.ones(4).add(1)

    page = str(lab.report(lab.Simulator(ranks=1).run(worker)))
    assert "operation" not in page
    assert page.startswith("1 ranks, ")


def test_the_command_line_runs_a_script_and_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    script, timeline = str(tmp_path / "train.py"), tmp_path / "trace.json"
    assert main(["simulate", "--ranks", "3", "--trace", str(timeline), script, "--", "256"]) == 0
    printed = capsys.readouterr().out
    assert "3 ranks, " in printed
    assert re.search(r"all_reduce +world +1 KiB", printed)
    assert any(row["name"] == "all_reduce" for row in json.loads(timeline.read_text())["traceEvents"])


def test_the_command_line_names_a_hang_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    assert main(["simulate", "--ranks", "2", str(tmp_path / "train.py"), "--", "256", "again"]) == 1
    said = capsys.readouterr().err
    assert "rank 1: has returned" in said
    assert "train.py:7" in said
    assert not dist.is_initialized()
