"""A mixture of experts on two processes, beside a dense model of the same FLOPs per token, and beside one process.

    python benchmarks/expert_parallel.py [--pairs 20] [--layers 2] [--experts 8] [--active 2] [--first 1]

Two processes; every way takes its steps in turns within one run, so that what else the machine does hits all
alike. torch has no expert parallelism to run beside; "torch's exchange" is ours with torch's own differentiable
all_to_all_single in the place of our exchange. The dense model's d_ff is `active` times an expert's. Printed is the
median of the paired ratios with its quartiles. Modelled figures (the simulator, on this machine's measured profile)
stand in rows of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from racing import check_same, print_seconds, ratios, read_options, spread, take_turns, where
from torch import Tensor, nn

import llmlab as lab
from llmlab.cost.modes.expert import balance_bytes, dense_param, even_load, exchange_bytes, expert_param
from llmlab.hardware import this_machine
from llmlab.model.moe import dispatch
from llmlab.parallel.data import reduce_gradients
from llmlab.parallel.expert import expert_parallel, expert_parameters, global_balance, mixtures

RANKS, BATCH, SEQ = 2, 8, 128  # BATCH: sequences, of all ranks together
OURS, THEIRS, DENSE = "experts, 2 processes", "torch's exchange", "dense, 2 processes"
ALONE, DENSE_ALONE = "experts, 1 process", "dense, 1 process"


def split(model: nn.Module, world) -> nn.Module:
    """Experts dealt out over the world; the gradients of all else are added up."""
    expert_parallel(global_balance(model, world), world)
    routed = {id(p) for p in expert_parameters(model)}
    reduce_gradients([p for p in model.parameters() if id(p) not in routed], world, op="sum")
    return model


def run_with_torch(experts: Sequence[nn.Module], tokens: Tensor, sizes: list[int]) -> Tensor:
    """What `run_across` does, with torch's functional collectives."""
    import torch.distributed as dist
    from torch.distributed._functional_collectives import all_to_all_single_autograd as exchange

    share = len(experts) // RANKS
    leaving, arriving = torch.tensor(sizes), torch.empty(len(sizes), dtype=torch.long)
    dist.all_to_all_single(arriving, leaving)
    there, back = (n.view(RANKS, share).sum(1).tolist() for n in (leaving, arriving))
    arrived = exchange(tokens, back, there, dist.group.WORLD).split(arriving.tolist())
    here = list(experts)[dist.get_rank() * share :][:share]
    outputs = [expert(torch.cat(arrived[i::share])) for i, expert in enumerate(here)]
    parts = [out.split(arriving[i::share].tolist()) for i, out in enumerate(outputs)]
    home = torch.cat([parts[i][source] for source in range(RANKS) for i in range(share)])
    return exchange(home, there, back, dist.group.WORLD)


def take_step(model, optimizer, tokens) -> None:
    """Forward, backward (with whatever the mode does in it) and SGD, on these tokens [b, T + 1]."""
    optimizer.zero_grad()
    (model.loss(tokens[:, :-1], tokens[:, 1:], reduction="sum") / (BATCH * SEQ)).backward()
    optimizer.step()


def race(world, config, dense, pairs: int, first: bool = False) -> dict[str, list[float]]:
    """Seconds of a step, each way, in turns: `pairs` of each. One process works alone while the other waits."""
    models = {OURS: split(lab.Transformer(config), world), THEIRS: split(lab.Transformer(config), world)}
    for moe in mixtures(models[THEIRS]):
        moe.dispatch = partial(dispatch, run=run_with_torch)
    models[DENSE] = lab.Transformer(dense)
    reduce_gradients(models[DENSE].parameters(), world, op="sum")
    models |= {ALONE: lab.Transformer(config), DENSE_ALONE: lab.Transformer(dense)}
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=0.01) for name, model in models.items()}
    tokens = torch.randint(0, config.vocab_size, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(0))
    share = tokens.chunk(world.size)[world.rank]
    ways = {
        name: partial(take_step, models[name], optimizers[name], tokens if "1 process" in name else share)
        for name in models
    }
    seconds = take_turns(world, ways, pairs, alone=[ALONE, DENSE_ALONE], first=first)
    if world.rank == 0:
        check_weights(models, tolerance=6e-8 * (pairs + 3) * 10)  # fp32: sums in another order, at every step
    return seconds


def check_weights(models, tolerance: float) -> None:
    """All three ways train the same mixture, or their seconds say nothing."""
    whole = models[ALONE].state_dict()
    for name in (OURS, THEIRS):
        state = models[name].state_dict()
        got, wanted = (torch.cat([weights[key].flatten() for key in state]) for weights in (state, whole))
        check_same(name, got, wanted, tolerance)


def train_step(world, config) -> None:
    """One step of this rank's share, for either engine to trace."""
    model = split(lab.Transformer(config), world).to(world.device)
    tokens = torch.randint(0, config.vocab_size, (BATCH // world.size, SEQ + 1)).to(world.device)
    take_step(model, torch.optim.SGD(model.parameters(), lr=0.01), tokens)


def print_bytes(config) -> None:
    """The trace and the closed form, at the even share."""
    run = lab.Simulator(RANKS, numerics=False).run(train_step, config)
    load = even_load(config, BATCH * SEQ // RANKS, RANKS, rank=0)
    sums = balance_bytes(config) + dense_param(config) * config.dtype.itemsize
    for op, formula in (("all_to_all", exchange_bytes(config, [load] * config.n_layer)), ("all_reduce", sums)):
        print(f"COUNTED   {op}, bytes a rank hands over in a step  {run.trace.comm_bytes(0, op=op):,}")
        print(f"FORMULA   {op}, bytes a rank hands over in a step  {formula:,}")


def configs(layers: int = 2, experts: int = 8, active: int = 2) -> tuple[lab.Config, lab.Config]:
    """A mixture, and the dense model of its FLOPs per token."""
    mixture = lab.Config(
        vocab_size=512, d_model=256, n_layer=layers, n_head=8, max_seq=SEQ, d_ff=512,
        n_expert=experts, n_expert_active=active,
    )  # fmt: skip
    return mixture, replace(mixture, n_expert=0, d_ff=mixture.d_ff * active)


def over_torch(pairs: int = 21, first: bool = False) -> list[float]:
    """Pair by pair: how many times as fast a step is with our exchange as with torch's, over the same transport."""
    seconds = lab.Processes(RANKS, timeout_s=900).run(race, *configs(), pairs, first).results[0]
    return ratios(seconds, THEIRS, OURS)


def main() -> None:
    options = read_options(__doc__, pairs=20, layers=2, experts=8, active=2, first=0)
    config, dense = configs(options.layers, options.experts, options.active)
    print(f"{config.n_param:,} parameters ({dense.n_param:,} dense), {BATCH} x {SEQ} tokens, fp32; on {where()}")
    print(f"FLOPs per token {config.flops_per_token():,}, dense {dense.flops_per_token():,}; ", end="")
    print(f"{expert_param(config, RANKS):,} parameters of experts on each of {RANKS} ranks\n")

    seconds = print_seconds(
        lab.Processes(RANKS, timeout_s=900).run(race, config, dense, options.pairs, bool(options.first))
    )
    print(f"MEASURED  speed, ours over torch's exchange       {spread(ratios(seconds, THEIRS, OURS))}")
    print(f"MEASURED  cost, experts over dense, 2 processes   {spread(ratios(seconds, OURS, DENSE))}")
    print(f"MEASURED  cost, experts over dense, 1 process     {spread(ratios(seconds, ALONE, DENSE_ALONE))}")
    print(f"MEASURED  speedup over one process                {spread(ratios(seconds, ALONE, OURS))}\n")
    for n in (1, RANKS):
        modelled = lab.Simulator(n, cluster=this_machine(), cost_dtype="fp32").run(train_step, config)
        print(f"MODELLED  seconds a step, experts, {n} rank(s)      {modelled.seconds:.4f}")
    print()
    print_bytes(config)


if __name__ == "__main__":
    main()
