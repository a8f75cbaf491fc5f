"""Starting ranks: ours beside torch.multiprocessing.spawn, torchrun and ipyparallel, to a first finished all-reduce.

    python benchmarks/launching_beside.py [--ranks 2] [--rounds 7]

The interpreter that starts them has torch imported, as a notebook's kernel has; ours has run before in it, so that the
process from which ranks are forked is there (the very first start is in launching.py). Every way ends with all ranks
gone. ipyparallel takes part where it is installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.distributed as dist
from racing import Race, race, read_options, where

import llmlab as lab

INIT = 'dist.init_process_group("gloo")'
SCRIPT = f"""
import torch, torch.distributed as dist
{INIT}
dist.all_reduce(torch.ones(1))
dist.destroy_process_group()
"""


def reduce_once(world: lab.Group) -> None:
    world.all_reduce(torch.ones(1))


def reduce_with_gloo(rank: int, ranks: int, store: str) -> None:
    """What a program of torch's own does in each process."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    dist.all_reduce(torch.ones(1))
    dist.destroy_process_group()


def spawn(ranks: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(reduce_with_gloo, (ranks, f"{folder}/store"), ranks)


def torchrun(ranks: int, script: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", script]
    subprocess.run(command, check=True, capture_output=True)


def with_ipyparallel(ranks: int) -> None:
    import ipyparallel

    with ipyparallel.Cluster(n=ranks, log_level=40) as engines, tempfile.TemporaryDirectory() as folder:
        engines.wait_for_engines(ranks)
        meet = "dist.init_process_group('gloo', init_method='file://{}/store', rank={}, world_size={})"
        programs = (SCRIPT.replace(INIT, meet.format(folder, rank, ranks)) for rank in range(ranks))
        asked = [engines[rank].execute(program, block=False) for rank, program in enumerate(programs)]
        for each in asked:
            each.get()


def race_starts(ranks: int, rounds: int) -> Race:
    """Start and end so many ranks each way, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text(SCRIPT, encoding="utf-8")
        ways: dict[str, Callable[[], object]] = {
            "ours": lambda: lab.Processes(ranks).run(reduce_once),
            "torch's spawn": partial(spawn, ranks),
            "torchrun": partial(torchrun, ranks, str(script)),
        }
        if find_spec("ipyparallel") is not None:
            ways["ipyparallel"] = partial(with_ipyparallel, ranks)
        return race(ways, rounds, warm_up=1)


def main() -> None:
    options = read_options(__doc__, ranks=2, rounds=7)
    print(where())
    race_starts(options.ranks, options.rounds).report("ours")


if __name__ == "__main__":
    main()
