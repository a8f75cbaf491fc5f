"""Our data parallelism beside torch's DistributedDataParallel, and beside one process with one thread.

    python benchmarks/data_parallel.py [--pairs 40] [--layers 4]

Two gloo processes; every way takes the same steps on the same weights and batches, in turns within one run, so that
what else the machine does hits all alike. Printed is the median of the paired ratios with its quartiles. Modelled
figures (the simulator, on this machine's measured profile) stand in rows of their own, with their error.
"""

from __future__ import annotations

import argparse
import os
from statistics import median, quantiles

import torch
from torch.nn.parallel import DistributedDataParallel

import llmlab as lab
from llmlab.hardware import this_machine
from llmlab.parallel.data import data_parallel, make_buckets

RANKS, BATCH, SEQ, TRACED = 2, 8, 128, 4  # BATCH: sequences, of all ranks together; TRACED: steps


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
        "one process": lab.Transformer(config),
    }
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=0.01) for name, model in models.items()}
    tokens = torch.randint(0, config.vocab_size, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(0))
    share, ways = tokens.chunk(world.size)[world.rank], list(models)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for pair in range(-3, pairs):  # the first three warm up: DDP makes its buckets anew after the first
        for name in ways if pair % 2 else ways[::-1]:
            world.barrier()
            start = world.clock()
            if name != "one process":
                take_step(models[name], optimizers[name], share)
            elif world.rank == 0:
                take_step(models[name], optimizers[name], tokens)
            slowest = world.all_reduce(torch.tensor([world.clock() - start]), "max").item()
            if pair >= 0:
                seconds[name].append(slowest)
    check_weights(models, tolerance=6e-8 * (pairs + 3))  # fp32: a rounding a step, where two add in another order
    return seconds


def check_weights(models, tolerance: float) -> None:
    """All ways train the same model, or their seconds say nothing."""
    wanted, *others = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in list(models.values())[:4])
    for other in others:
        difference = ((other - wanted).norm() / wanted.norm()).item()
        if difference > tolerance:
            raise AssertionError(f"the weights differ by {difference:.1e} of their norm")


def ratios(seconds: dict[str, list[float]], slower: str, faster: str) -> list[float]:
    return [a / b for a, b in zip(seconds[slower], seconds[faster], strict=True)]


def spread(values: list[float]) -> str:
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.3f} (quartiles {low:.3f} to {high:.3f}, {len(values)} pairs)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    config = lab.Config(vocab_size=2048, d_model=256, n_layer=options.layers, n_head=8, max_seq=SEQ)
    machine = this_machine()
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    print(f"{config.n_param:,} parameters, {BATCH} x {SEQ} tokens, fp32; {os.cpu_count()} cores{load}\n")

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
    seconds, speedups = run.results[0], ratios(run.results[0], "one process", "ours")
    print(f"MEASURED  on {run.hardware}")
    for name, taken in seconds.items():
        print(f"MEASURED  seconds a step, {name:<12} {median(taken):.4f}")
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
