"""Is our pipeline as fast as torch's? `python benchmarks/pipeline_parallel.py [--pairs 20] [--layers 8]`

Ours and torch.distributed.pipelining in the same two processes, on the same model and batch, in turns, so that whatever
else the machine does hits both: GPipe, 1F1B and interleaved 1F1B. What is printed as MEASURED is wall clock; the
gradients of all ways are compared, so they are the same training. A pipeline of two stages on the two cores of one
machine is bound by its bubble, as printed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from racing import check_same, print_seconds, ratios, read_options, spread, take_turns, where
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
    held = {"ours": ours(world, config, name, tokens), "torch": torchs(world, config, name, tokens)}
    ways = {way: partial(take_step, module, run) for way, (module, run) in held.items()}
    seconds = take_turns(world, ways, pairs)  # while it warms up, torch asks for shapes
    mine, other = (gradients(module) for module, _ in held.values())
    check_same("torch", other, mine, tolerance=1e-5)  # fp32, sums of some thousand terms in another order
    return seconds


def take_step(module: nn.Module, run: Callable[[], Any]) -> None:
    module.zero_grad()
    run()


def gradients(module: nn.Module) -> torch.Tensor:
    """Those of the blocks, in one vector."""
    return torch.cat([p.grad.flatten() for name, p in module.named_parameters() if "blocks" in name])


def main() -> None:
    options = read_options(__doc__, pairs=20, layers=8)
    config = lab.Config(
        vocab_size=2048, d_model=256, n_layer=options.layers, n_head=8, max_seq=SEQ, tie_embeddings=False
    )
    print(f"{config.n_param:,} parameters, {ROWS} x {SEQ} tokens in {MICROBATCHES} microbatches, fp32; on {where()}\n")
    for name in THEIRS:
        seconds = print_seconds(lab.Processes(RANKS, timeout_s=900).run(race, config, name, options.pairs), name)
        print(f"MEASURED  {name}, speed over torch's   {spread(ratios(seconds, 'torch', 'ours'))}")
        share = bubble_share(name, RANKS, MICROBATCHES, VIRTUAL[name])
        print(f"FORMULA   {name}, bubble {share:.1%} of the step\n")


if __name__ == "__main__":
    main()
