"""Runs every program on two real processes with gloo: `python -m tests.comm.torch_programs.gloo FOLDER RANK`."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from llmlab.comm.seeding import RandomState
from tests.comm.torch_programs.programs import PROGRAMS

warnings.simplefilter("ignore")
folder, rank = Path(sys.argv[1]), int(sys.argv[2])
os.environ.update(RANK=str(rank), WORLD_SIZE="2", GLOO_SOCKET_IFNAME="lo")
torch.set_num_threads(1)
results = {}
for name, program in PROGRAMS.items():
    print(name, flush=True)  # the last one is where it hangs
    dist.init_process_group("gloo", init_method=f"file://{folder}/{name}", rank=rank, world_size=2)
    RandomState(0, rank).enter()
    try:
        results[name] = program()
    except Exception as error:  # what torch itself refuses is a result too
        results[name] = f"{type(error).__name__}: {error}"
    dist.barrier()
    dist.destroy_process_group()
torch.save(results, folder / f"rank{rank}.pt")
