"""What two processes buy, mode by mode, over one process with one thread and over one process with two.

    python benchmarks/speedup_on_two.py [--pairs 21] [--layers 4] [--width 256] [--first 1]

One model, one batch, one optimizer; every way takes the same steps in turns within one run, there and back, so that
what else the machine does hits all alike. Beside them two processes that train on half a batch each and never talk say
what two cores give to work that is merely dealt out: they share their memory, and often more. --first 1 gives each turn
real-time priority (it wants root), so that a busy machine's other work waits for some tenths of a second. `speedups`
gives the paired ratios, for whoever makes a table of them. At the end all ways but those halves must hold the same
weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from racing import check_same, print_seconds, ratios, read_options, spread, take_turns, where
from torch import Tensor, nn

import llmlab as lab
from llmlab.parallel.context import columns, context_parallel
from llmlab.parallel.data import data_parallel, reduce_gradients
from llmlab.parallel.pipeline import pipeline_parallel
from llmlab.parallel.placement import shard_of
from llmlab.parallel.tensor import tensor_parallel
from llmlab.parallel.zero import zero

RANKS, BATCH, SEQ, MICROBATCHES = 2, 8, 128, 4  # BATCH: sequences, of all ranks together
ONE, TWO = "one thread", "two threads"  # of one process
MODES = ("data", "ZeRO-3", "tensor", "pipeline", "context")
APART = "two halves, no messages"  # what two cores give to work merely dealt out


def sgd(parameters) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01)


def batch(config) -> tuple[Tensor, Tensor]:
    """Tokens and targets [B, T]."""
    text = torch.randint(0, config.vocab_size, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(0))
    return text[:, :-1], text[:, 1:]


def take_step(optimizer, backward: Callable[[], object]) -> None:
    optimizer.zero_grad()
    backward()
    optimizer.step()


def step_of(mode: str, world, config) -> tuple[nn.Module, Callable[[], None]]:
    """The model as a mode splits it, and one step of its share of the batch."""
    model, (tokens, targets) = lab.Transformer(config), batch(config)
    optimizer, run = None, None
    if mode in ("data", "ZeRO-3", APART):
        tokens, targets = (x.chunk(RANKS)[world.rank] for x in (tokens, targets))
        if mode == "data":
            data_parallel(model, world)
        elif mode == "ZeRO-3":
            optimizer = zero(model, sgd, world, 3)
    elif mode == "tensor":
        tensor_parallel(model, world)
    elif mode == "pipeline":
        run = partial(pipeline_parallel(model, world, "1f1b", MICROBATCHES).forward_backward, tokens, targets)
    elif mode == "context":
        held = columns(SEQ, world)
        context_parallel(model, world)
        reduce_gradients(model.parameters(), world)
        tokens, targets = (x[:, held].contiguous() for x in (tokens, targets))
        run = partial(backward, model, tokens, targets, held)
    optimizer = sgd(model.parameters()) if optimizer is None else optimizer
    return model, partial(take_step, optimizer, run or partial(backward, model, tokens, targets))


def backward(model, tokens: Tensor, targets: Tensor, positions: Tensor | None = None) -> None:
    model.loss(tokens, targets, positions).backward()


def with_two_threads(step: Callable[[], None]) -> None:
    torch.set_num_threads(2)
    step()
    torch.set_num_threads(1)


def race(world, config, modes, pairs: int, first: bool) -> dict[str, list[float]]:
    """Seconds of a step, each way, in turns: `pairs` of each. One process works alone while the other waits."""
    made = {mode: step_of(mode, world, config) for mode in (*modes, APART, ONE, TWO)}
    ways = {name: step for name, (_, step) in made.items()}
    ways[TWO] = partial(with_two_threads, ways[TWO])
    seconds = take_turns(world, ways, pairs, alone=[ONE, TWO], first=first)
    wanted = weights(made[ONE][0])
    for mode in modes:
        got = weights(made[mode][0])  # gathered: every rank takes part
        if world.rank == 0:
            mine, theirs = (torch.cat([x[name].flatten() for name in got]) for x in (got, wanted))
            check_same(mode, mine, theirs, tolerance=1e-6 * (pairs + 3))  # fp32: some roundings a step
    return seconds


def weights(model) -> dict[str, Tensor]:
    """What is held here of the model, by name; whole, where it is cut."""
    found = {}
    for name, parameter in model.named_parameters():
        shard, x = shard_of(parameter), parameter.detach()
        x = model.zero.whole(parameter) if hasattr(model, "zero") else shard.gather(x) if shard else x
        found[name] = x.clone()
    return found


def model_of(layers: int = 4, width: int = 256) -> lab.Config:
    return lab.Config(vocab_size=2048, d_model=width, n_layer=layers, n_head=width // 32, max_seq=SEQ)


def speedups(pairs: int = 21, layers: int = 4, width: int = 256, first: bool = False) -> dict[str, list[float]]:
    """Pair by pair: each mode, and two threads, over one process with one thread."""
    run = lab.Processes(RANKS, timeout_s=900).run(race, model_of(layers, width), MODES, pairs, first)
    return {name: ratios(run.results[0], ONE, name) for name in (*MODES, APART, TWO)}


def pipeline_bound(config: lab.Config) -> float:
    """The most that 1F1B of two stages can give, in FLOPs: the last one waits only for the first's first and last turn.

    It also has the output layer, and whole blocks do not make up for that.
    """
    two, three = (replace(config, n_layer=n).flops_per_token() for n in (2, 3))
    first = (three - two) * config.n_layer // RANKS
    last = config.flops_per_token() - first
    return (first + last) / (last + first / MICROBATCHES)


def main() -> None:
    options = read_options(__doc__, pairs=21, layers=4, width=256, first=0)
    config = model_of(options.layers, options.width)
    print(f"{config.n_param:,} parameters, {BATCH} x {SEQ} tokens, fp32; on {where()}\n")
    run = lab.Processes(RANKS, timeout_s=900).run(race, config, MODES, options.pairs, bool(options.first))
    seconds = print_seconds(run)
    for name in (*MODES, APART, TWO):
        print(f"MEASURED  speedup, {name:<23} {spread(ratios(seconds, ONE, name))}")
    print(f"FORMULA   speedup, pipeline     {pipeline_bound(config):.3f} at most, by its bubble and its output layer")
    for name in MODES:
        print(f"MEASURED  {name:<9} over two threads {spread(ratios(seconds, TWO, name))}")


if __name__ == "__main__":
    main()
