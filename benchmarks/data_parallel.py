"""Our data parallelism beside torch's DistributedDataParallel, and beside one process with one thread.

    python benchmarks/data_parallel.py [--pairs 40] [--layers 4]

Two processes; every way takes the same steps on the same weights and batches, in turns within one run, so that
what else the machine does hits all alike. Printed is the median of the paired ratios with its quartiles. Modelled
figures (the simulator, on this machine's measured profile) stand in rows of their own, with their error.
"""

from __future__ import annotations

from functools import partial
from statistics import median

import torch
from racing import check_same, print_seconds, ratios, read_options, spread, take_turns, where
from torch.nn.parallel import DistributedDataParallel

import llmlab as lab
from llmlab.hardware import this_machine
from llmlab.parallel.data import data_parallel, make_buckets

RANKS, BATCH, SEQ, TRACED = 2, 8, 128, 4  # BATCH: sequences, of all ranks together; TRACED: steps
ALONE = "one process"


def take_step(model, optimizer, tokens) -> None:
    """Forward, backward (with whatever the wrapper does in it) and SGD, on these tokens [b, T + 1]."""
    optimizer.zero_grad()
    logits = model(tokens[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step()


def train(world, config) -> None:
    """The worker both engines trace: some steps of this rank's share."""
    model = data_parallel(lab.Transformer(config), world, init_sync=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tokens = torch.randint(0, config.vocab_size, (BATCH // world.size, SEQ + 1)).to(world.device)
    for _ in range(TRACED):
        take_step(model, optimizer, tokens)


def race(world, config, pairs: int) -> dict[str, list[float]]:
    """Seconds of a step, each way, in turns: `pairs` of each. One process works alone while the other waits."""
    views = {"gradient_as_bucket_view": True}
    models = {
        "ours": data_parallel(lab.Transformer(config), world),
        "ddp": DistributedDataParallel(lab.Transformer(config)),
        "ours, views": data_parallel(lab.Transformer(config), world, **views),
        "ddp, views": DistributedDataParallel(lab.Transformer(config), **views),
        ALONE: lab.Transformer(config),
    }
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=0.01) for name, model in models.items()}
    tokens = torch.randint(0, config.vocab_size, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(0))
    share = tokens.chunk(world.size)[world.rank]
    ways = {name: partial(take_step, models[name], optimizers[name], share) for name in models}
    ways[ALONE] = partial(take_step, models[ALONE], optimizers[ALONE], tokens)
    seconds = take_turns(world, ways, pairs, alone=[ALONE])  # while it warms up, DDP makes its buckets anew
    del models[ALONE]  # rank 0 alone has trained it
    weights = {name: torch.cat([p.detach().flatten() for p in model.parameters()]) for name, model in models.items()}
    for name, got in weights.items():
        check_same(name, got, weights["ours"], 6e-8 * (pairs + 3))  # fp32: a rounding a step, added in another order
    return seconds


def main() -> None:
    options = read_options(__doc__, pairs=40, layers=4)
    config = lab.Config(vocab_size=2048, d_model=256, n_layer=options.layers, n_head=8, max_seq=SEQ)
    machine = this_machine()
    print(f"{config.n_param:,} parameters, {BATCH} x {SEQ} tokens, fp32; on {where()}\n")

    speedup = print_measured(config, options.pairs)
    modelled = {n: lab.Simulator(n, cluster=machine, cost_dtype="fp32").run(train, config) for n in (1, RANKS)}
    for n, run in modelled.items():
        print(f"MODELLED  seconds a step, {n} rank(s)     {run.seconds / TRACED:.4f}")
    predicted = modelled[1].seconds / modelled[RANKS].seconds
    print(
        f"MODELLED  speedup over one process     {predicted:.3f}, {predicted / speedup - 1:+.1%} off the measured one"
    )
    print_bytes(config, modelled[RANKS])


def print_measured(config: lab.Config, pairs: int) -> float:
    """Race, print, and give the speedup over one process."""
    run = lab.Processes(RANKS, timeout_s=900).run(race, config, pairs)
    seconds = print_seconds(run)
    speedups = ratios(seconds, ALONE, "ours")
    print(f"MEASURED  speed, ours over DDP         {spread(ratios(seconds, 'ddp', 'ours'))}")
    print(f"MEASURED  the same, gradients as views {spread(ratios(seconds, 'ddp, views', 'ours, views'))}")
    print(f"MEASURED  speedup over one process     {spread(speedups)}")
    return median(speedups)


def print_bytes(config: lab.Config, simulated: lab.Run) -> None:
    """Both engines' traces and the closed form: a bucket's bytes are its parameters'."""
    real = lab.Processes(RANKS).run(train, config)
    buckets = make_buckets(lab.Transformer(config).parameters())
    formula = TRACED * sum(p.numel() * p.element_size() for bucket in buckets for p in bucket)
    print(f"\nbytes a rank hands over in {TRACED} steps, in {len(buckets)} bucket(s) each")
    for name, run in (("processes", real), ("simulator", simulated)):
        print(f"COUNTED   {name}   {run.trace.comm_bytes(rank=0):,} in {len(run.trace.select(rank=0, stream='comm'))}")
    print(f"FORMULA               {formula:,}")


if __name__ == "__main__":
    main()
