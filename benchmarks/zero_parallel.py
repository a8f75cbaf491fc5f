"""Our ZeRO-3 beside torch's fully_shard, and our ZeRO-1 beside torch's ZeroRedundancyOptimizer.

    python benchmarks/zero_parallel.py [--pairs 40] [--layers 4]

Two gloo processes; every way takes the same steps on the same weights and batches, in turns within one run, so that
what else the machine does hits all alike. Printed is the median of the paired ratios with its quartiles. Both shard by
blocks, with what stands around the blocks as one more unit; each re-gathers a block for backward.
"""

from __future__ import annotations

import argparse
import os
from statistics import median, quantiles
from typing import Any

import torch
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


def take_step(model, optimizer, tokens) -> None:
    """Forward, backward and SGD on these tokens [b, T + 1]."""
    optimizer.zero_grad()
    logits = model(tokens[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step()


def race(world, config, pairs: int) -> dict[str, list[float]]:
    """Seconds of a step, each way, in turns: `pairs` of each."""
    ways: dict[str, Any] = {
        "ours, stage 3": ours(config, world, 3),
        "fully_shard": fsdp(config),
        "ours, stage 1": ours(config, world, 1),
        "ZeroRedundancy": redundancy(config),
    }
    tokens = torch.randint(0, config.vocab_size, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(0))
    share, names = tokens.chunk(world.size)[world.rank], list(ways)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for pair in range(-3, pairs):  # the first three warm up
        for name in names if pair % 2 else names[::-1]:
            world.barrier()
            start = world.clock()
            take_step(*ways[name], share)
            slowest = world.all_reduce(torch.tensor([world.clock() - start]), "max").item()
            if pair >= 0:
                seconds[name].append(slowest)
    check_weights({name: model for name, (model, _) in ways.items()}, tolerance=6e-8 * (pairs + 3))
    return seconds


def check_weights(models, tolerance: float) -> None:
    """All ways train the same model, or their seconds say nothing. fp32: a rounding a step."""
    wanted, *others = [torch.cat([x.flatten() for x in weights(model)]) for model in models.values()]
    for name, other in zip(list(models)[1:], others, strict=True):
        difference = ((other - wanted).norm() / wanted.norm()).item()
        if difference > tolerance:
            raise AssertionError(f"the weights of {name} differ by {difference:.1e} of their norm")


def weights(model) -> list[torch.Tensor]:
    """The whole weights, gathered where they are sharded."""
    if hasattr(model, "zero"):
        return [model.zero.whole(p) for p in model.parameters()]
    return [p.full_tensor().detach() if hasattr(p, "full_tensor") else p.detach() for p in model.parameters()]


def spread(values: list[float]) -> str:
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.3f} (quartiles {low:.3f} to {high:.3f}, {len(values)} pairs)"


def one_step(world, config, stage: int) -> None:
    """The worker whose bytes are counted."""
    model, optimizer = ours(config, world, stage)
    tokens = torch.zeros(BATCH // world.size, SEQ + 1, dtype=torch.long).to(world.device)
    take_step(model, optimizer, tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    config = lab.Config(vocab_size=2048, d_model=256, n_layer=options.layers, n_head=8, max_seq=SEQ)
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    print(f"{config.n_param:,} parameters, {BATCH} x {SEQ} tokens, fp32; {os.cpu_count()} cores{load}\n")
    run = lab.Processes(RANKS, timeout_s=900).run(race, config, options.pairs)
    seconds = run.results[0]
    print(f"MEASURED  on {run.hardware}; weights equal at the end")
    for name, taken in seconds.items():
        print(f"MEASURED  seconds a step, {name:<15} {median(taken):.4f}")
    for mine, theirs in (("ours, stage 3", "fully_shard"), ("ours, stage 1", "ZeroRedundancy")):
        ratio = [b / a for a, b in zip(seconds[mine], seconds[theirs], strict=True)]
        print(f"MEASURED  speed, {mine} over {theirs:<15} {spread(ratio)}")
    for stage in (1, 2, 3):
        run = lab.Processes(RANKS).run(one_step, config, stage)
        print(f"COUNTED   stage {stage}   {run.trace.comm_bytes(rank=0):,} bytes a rank hands over in a step")
        print(f"FORMULA             {step_bytes(config, RANKS, stage):,}")


if __name__ == "__main__":
    main()
