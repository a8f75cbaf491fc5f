"""Our ZeRO-3 beside torch's fully_shard, and our ZeRO-1 beside torch's ZeroRedundancyOptimizer.

    python benchmarks/zero_parallel.py [--pairs 40] [--layers 4]

Two processes; every way takes the same steps on the same weights and batches, in turns within one run, so that
what else the machine does hits all alike. Printed is the median of the paired ratios with its quartiles. Both shard by
blocks, with what stands around the blocks as one more unit; each re-gathers a block for backward.
"""

from __future__ import annotations

from functools import partial

import torch
from data_parallel import take_step
from racing import check_same, print_seconds, ratios, read_options, spread, take_turns, where
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import llmlab as lab
from llmlab.cost.modes.zero import step_bytes
from llmlab.parallel.zero import zero

RANKS, BATCH, SEQ = 2, 8, 128  # BATCH: sequences, of all ranks together
LR = 0.01


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=LR)


def ours(config, world, stage: int):
    model = lab.Transformer(config)
    return model, zero(model, sgd, world, stage)


def fsdp(config):
    model = lab.Transformer(config)
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    return model, sgd(model.parameters())


def redundancy(config):
    model = lab.Transformer(config)
    return DistributedDataParallel(model), ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=LR)


def race(world, config, pairs: int) -> dict[str, list[float]]:
    """Seconds of a step, each way, in turns: `pairs` of each."""
    held = {
        "ours, stage 3": ours(config, world, 3),
        "fully_shard": fsdp(config),
        "ours, stage 1": ours(config, world, 1),
        "ZeroRedundancy": redundancy(config),
    }
    tokens = torch.randint(0, config.vocab_size, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(0))
    share = tokens.chunk(world.size)[world.rank]
    ways = {name: partial(take_step, model, optimizer, share) for name, (model, optimizer) in held.items()}
    seconds = take_turns(world, ways, pairs)
    weights = {name: whole(model) for name, (model, _) in held.items()}
    for name, got in weights.items():
        check_same(name, got, weights["ours, stage 3"], tolerance=6e-8 * (pairs + 3))  # fp32: a rounding a step
    return seconds


def whole(model) -> torch.Tensor:
    """All weights in one vector, gathered where they are sharded. Every rank calls this."""
    if hasattr(model, "zero"):
        found = [model.zero.whole(p) for p in model.parameters()]
    else:
        found = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()]
    return torch.cat([x.detach().flatten() for x in found])


def one_step(world, config, stage: int) -> None:
    """The worker whose bytes are counted."""
    model, optimizer = ours(config, world, stage)
    tokens = torch.zeros(BATCH // world.size, SEQ + 1, dtype=torch.long).to(world.device)
    take_step(model, optimizer, tokens)


def main() -> None:
    options = read_options(__doc__, pairs=40, layers=4)
    config = lab.Config(vocab_size=2048, d_model=256, n_layer=options.layers, n_head=8, max_seq=SEQ)
    print(f"{config.n_param:,} parameters, {BATCH} x {SEQ} tokens, fp32; on {where()}\n")
    seconds = print_seconds(lab.Processes(RANKS, timeout_s=900).run(race, config, options.pairs))
    for mine, theirs in (("ours, stage 3", "fully_shard"), ("ours, stage 1", "ZeroRedundancy")):
        print(f"MEASURED  speed, {mine} over {theirs:<15} {spread(ratios(seconds, theirs, mine))}")
    for stage in (1, 2, 3):
        run = lab.Processes(RANKS).run(one_step, config, stage)
        print(f"COUNTED   stage {stage}   {run.trace.comm_bytes(rank=0):,} bytes a rank hands over in a step")
        print(f"FORMULA             {step_bytes(config, RANKS, stage):,}")


if __name__ == "__main__":
    main()
