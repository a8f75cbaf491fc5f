"""Our modes beside torch's on the same modelled cluster: the same bytes where the algorithm is the same.

Where they differ, the sentence why stands beside it.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import llmlab as lab
from llmlab.comm.group import Group

CONFIG = lab.Config(vocab_size=64, d_model=32, n_layer=2, n_head=4, max_seq=16, tie_embeddings=False)
RANKS = 4


def tokens(device: str | torch.device) -> torch.Tensor:
    return torch.zeros(RANKS, 16, dtype=torch.long, device=device)


def ours(world: Group, zero: int) -> int:
    layout = lab.Layout(dp=RANKS, zero=zero)
    model = lab.Transformer(CONFIG)
    count = sum(p.numel() for p in model.parameters())
    step = lab.parallelize(model, lambda params: lab.optim.SGD(params, lr=0.1), layout, world)
    step(tokens(world.device), tokens(world.device))
    return count


def torchs_ddp() -> None:
    model = lab.Transformer(CONFIG)
    wrapped = nn.parallel.DistributedDataParallel(model)
    mine = tokens("cpu").chunk(RANKS)[dist.get_rank()]
    nn.functional.cross_entropy(wrapped(mine).flatten(0, 1), mine.flatten()).backward()


def bytes_of(run: lab.Run, op: str) -> int:
    return run.trace.comm_bytes(rank=1, op=op)


def test_gradients_of_data_parallel_are_as_many_bytes_as_ddps() -> None:
    mine = lab.Simulator(ranks=RANKS).run(ours, 0)
    torchs = lab.Simulator(ranks=RANKS).run_torch(torchs_ddp)
    gradients = 4 * mine.results[0]
    assert bytes_of(torchs, "all_reduce") == gradients
    # ours adds 16 bytes: the loss's sum and the number of its targets, for the global mean; DDP leaves that to its user
    assert gradients <= bytes_of(mine, "all_reduce") <= gradients + 64
    # DDP gives rank 0's weights to all when it begins; ours are equal by their seed
    assert bytes_of(mine, "broadcast") == 0


def torchs_fsdp2() -> int:
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(4)))
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    model(torch.ones(8, 64)).sum().backward()
    return 4 * 64 * 64 * 4


@pytest.mark.filterwarnings("ignore")
def test_fully_sharded_weights_are_gathered_twice_and_gradients_scattered_once() -> None:
    run = lab.Simulator(ranks=RANKS).run_torch(torchs_fsdp2)
    weights = run.results[0]
    gathered, scattered = bytes_of(run, "all_gather"), bytes_of(run, "reduce_scatter")
    # forward gathers all; backward all again, as each layer but the root's was freed. A rank hands over its share
    assert gathered == 2 * weights // RANKS
    assert scattered == weights


def test_what_notebook_36_says_of_torchtitan_is_what_was_recorded() -> None:
    root = Path(__file__).parents[3]
    recorded, table = (
        list(csv.DictReader((root / "data" / name).read_text(encoding="utf-8").splitlines()))
        for name in ("measured/torch_programs.csv", "published/torchtitan.csv")
    )
    published = {row["row_id"]: row for row in table}
    text = " ".join((root / "notebooks/36_any_torch_program.ipynb").read_text(encoding="utf-8").split())
    for row in recorded:
        measured = float(row["measured tokens/s/GPU"])
        assert measured == float(published[row["row"]]["tokens_per_s_per_gpu"])
        assert int(row["gpus"]) == int(published[row["row"]]["gpus"])
        for kind in ("modelled", "closed form"):
            off = float(row[kind]) / measured - 1
            assert off == pytest.approx(float(row[f"{kind} error"]), abs=6e-4)
            assert f"{off:.0%}" in text
