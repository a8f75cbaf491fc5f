"""Is our pipeline as fast as torch's? `python benchmarks/pipeline_parallel.py [--pairs 20] [--layers 8]`

Ours and torch.distributed.pipelining in the same two processes, on the same model and batch, in turns, so that whatever
else the machine does hits both: GPipe, 1F1B and interleaved 1F1B. What is printed as MEASURED is wall clock; the
gradients of all ways are compared, so they are the same training. A pipeline of two stages on the two cores of one
machine is bound by its bubble, as printed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from statistics import median, quantiles
from typing import Any

import torch
from torch import nn
from torch.distributed import pipelining

import llmlab as lab
from llmlab.cost.modes.pipeline import bubble_share
from llmlab.parallel.pipeline import pipeline_parallel

RANKS, MICROBATCHES, ROWS, SEQ = 2, 4, 8, 128
THEIRS = {
    "gpipe": pipelining.ScheduleGPipe,
    "1f1b": pipelining.Schedule1F1B,
    "interleaved": pipelining.ScheduleInterleaved1F1B,
}
VIRTUAL = {"gpipe": 1, "1f1b": 1, "interleaved": 2}


class Part(nn.Module):
    """Some blocks of a model as torch's PipelineStage wants them: a module of its own."""

    def __init__(self, model: lab.Transformer, stage: int, stages: int):
        super().__init__()
        size = len(model.blocks) // stages
        self.blocks = model.blocks[stage * size : (stage + 1) * size]
        self.embedding = model.embedding if stage == 0 else None
        self.norm, self.head = (model.norm, model.head) if stage == stages - 1 else (None, None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x if self.embedding is None else self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return x if self.head is None else self.head(self.norm(x))


def mean_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def torchs(world: Any, config: lab.Config, name: str, tokens: torch.Tensor) -> tuple[nn.Module, Callable[[], Any]]:
    """torch's own pipeline: the modules of this rank, and what takes one step."""
    stages = RANKS * VIRTUAL[name]
    numbers = range(world.rank, stages, RANKS)
    parts = nn.ModuleList(Part(lab.Transformer(config), number, stages) for number in numbers)
    held = [pipelining.PipelineStage(p, n, stages, world.device) for p, n in zip(parts, numbers, strict=True)]
    plan = THEIRS[name](held if VIRTUAL[name] > 1 else held[0], n_microbatches=MICROBATCHES, loss_fn=mean_loss)
    inputs = [tokens] if world.rank == 0 else []
    return parts, partial(plan.step, *inputs, target=tokens)


def ours(world: Any, config: lab.Config, name: str, tokens: torch.Tensor) -> tuple[nn.Module, Callable[[], Any]]:
    """llmlab's: the same, with the gradients of the mean over the batch."""
    pipe = pipeline_parallel(lab.Transformer(config), world, name, MICROBATCHES, VIRTUAL[name])
    return pipe.model, partial(pipe.forward_backward, tokens, tokens)


def race(world: Any, config: lab.Config, name: str, pairs: int) -> dict[str, list[float]]:
    """Seconds of a forward and backward of the batch, each way, in turns."""
    tokens = torch.randint(0, config.vocab_size, (ROWS, SEQ), generator=torch.Generator().manual_seed(0))
    ways = {"ours": ours(world, config, name, tokens), "torch": torchs(world, config, name, tokens)}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for pair in range(-2, pairs):  # the first two warm up: torch asks for shapes in its first step
        for way in list(ways) if pair % 2 else list(ways)[::-1]:
            module, step = ways[way]
            module.zero_grad()
            world.barrier()
            start = world.clock()
            step()
            slowest = world.all_reduce(torch.tensor([world.clock() - start]), "max").item()
            if pair >= 0:
                seconds[way].append(slowest)
    check_gradients(*(module for module, _ in ways.values()))
    return seconds


def check_gradients(mine: nn.Module, other: nn.Module) -> None:
    """Both made the same gradients of the blocks, or their seconds say nothing."""
    a, b = (
        torch.cat([p.grad.flatten() for name, p in module.named_parameters() if "blocks" in name])
        for module in (mine, other)
    )
    away = ((a - b).norm() / a.norm()).item()
    if not away < 1e-5:  # fp32, sums of some thousand terms in another order
        raise AssertionError(f"the gradients differ by {away:.1e} of their norm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    config = lab.Config(
        vocab_size=2048, d_model=256, n_layer=options.layers, n_head=8, max_seq=SEQ, tie_embeddings=False
    )
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    print(
        f"{config.n_param:,} parameters, {ROWS} x {SEQ} tokens in {MICROBATCHES} microbatches, fp32, {RANKS} processes;"
    )
    print(f"{os.cpu_count()} cores{load}; torch {torch.__version__}\n")
    for name in THEIRS:
        seconds = lab.Processes(RANKS, timeout_s=900).run(race, config, name, options.pairs).results[0]
        ratios = [theirs / mine for theirs, mine in zip(seconds["torch"], seconds["ours"], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        print(f"MEASURED  {name:<12} ours {median(seconds['ours']):.4f} s, torch {median(seconds['torch']):.4f} s")
        print(f"MEASURED  {'':<12} speed over torch's {median(ratios):.3f} (quartiles {low:.3f} to {high:.3f})")
        share = bubble_share(name, RANKS, MICROBATCHES, VIRTUAL[name])
        print(f"FORMULA   {'':<12} bubble {share:.1%} of the step\n")


if __name__ == "__main__":
    main()
