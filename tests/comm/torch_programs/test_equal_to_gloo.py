"""Programs of torch.distributed on simulated ranks give what gloo gives on two real processes, to the bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import llmlab as lab
from tests.comm.torch_programs.programs import PROGRAMS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def gloo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What every program gives on each of two processes; one launch for all."""
    folder = tmp_path_factory.mktemp("gloo")
    command = [sys.executable, "-m", "tests.comm.torch_programs.gloo", str(folder)]
    ranks = [
        subprocess.Popen([*command, str(rank)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]
    for rank in ranks:
        text, _ = rank.communicate(timeout=120)
        assert rank.returncode == 0, text
    by_rank = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    return {name: [results[name] for results in by_rank] for name in PROGRAMS}


def leaves(value: Any) -> list[Any]:
    """The values in a nest of lists and dicts, in order."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value, key=str) for leaf in [key, *leaves(value[key])]]
    if isinstance(value, (list, tuple)):
        return [leaf for each in value for leaf in leaves(each)]
    return [value]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other) and one == other


@pytest.mark.filterwarnings("ignore")  # torch's own, of its deprecated names
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_gives_what_it_gives_on_real_processes(name: str, gloo: dict[str, list[Any]]) -> None:
    simulated = lab.Simulator(ranks=2).run_torch(PROGRAMS[name]).results
    for ours, theirs in zip(simulated, gloo[name], strict=True):
        found, wanted = leaves(ours), leaves(theirs)
        assert not isinstance(theirs, str), theirs
        assert len(found) == len(wanted)
        assert [i for i, pair in enumerate(zip(found, wanted, strict=True)) if not same(*pair)] == []
