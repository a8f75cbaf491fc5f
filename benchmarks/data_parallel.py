"""Our data parallelism beside torch's DistributedDataParallel, and beside one process with one thread.

    python benchmarks/data_parallel.py [--pairs 40] [--layers 4]

Two gloo processes; every way takes the same steps on the same weights and batches, in turns within one run, so that
what else the machine does hits all alike. What is printed is the median of the paired ratios with its quartiles. Modelled
figures (the simulator, on this machine's measured profile) stand in rows of their own, with their error.
"""

from __future__ import annotations

import argparse
from statistics import median, quantiles

import torch
from torch.nn.parallel import DistributedDataParallel

import llmlab as lab
from llmlab.hardware import this_machine
from llmlab.parallel.data import data_parallel, make_buckets

RANKS, BATCH, SEQ = 2, 8, 128  # BATCH: sequences, of all ranks together


def make_config(layers: int) -> lab.Config:
    return lab.Config(vocab_size=2048, d_model=256, n_layer=layers, n_head=8, max_seq=SEQ)


def take_step(model, optimizer, tokens) -> None:
    """Forward, backward (with whatever the wrapper does in it) and SGD, on these tokens [b, T + 1]."""
    optimizer.zero_grad()
    logits = model(tokens[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step()


def train(world, config, steps: int) -> None:
    """What the simulator models: some steps of this rank's share."""
    model = data_parallel(lab.Transformer(config), world, init_sync=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    tokens = torch.randint(0, config.vocab_size, (BATCH // world.size, SEQ + 1)).to(world.device)
    for _ in range(steps):
        take_step(model, optimizer, tokens)


def race(world, config, pairs: int) -> dict[str, list[float]]:
    """Seconds of a step, each way, in turns: `pairs` of each. One process works alone while the other waits."""
    models = {
        "ours": data_parallel(lab.Transformer(config), world),
        "ddp": DistributedDataParallel(lab.Transformer(config)),
        "one process": lab.Transformer(config),
    }
    optimizers = {name: torch.optim.SGD(model.parameters(), lr=0.01) for name, model in models.items()}
    tokens = torch.randint(0, config.vocab_size, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(0))
    share = tokens.chunk(world.size)[world.rank]
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for pair in range(-3, pairs):  # the first three warm up: DDP makes its buckets anew after the first
        order = ["ours", "ddp"] if pair % 2 else ["ddp", "ours"]
        for name in [*order, "one process"]:
            world.barrier()
            start = world.clock()
            if name != "one process":
                take_step(models[name], optimizers[name], share)
            elif world.rank == 0:
                take_step(models[name], optimizers[name], tokens)
            taken = world.clock() - start
            slowest = world.all_reduce(torch.tensor([taken]), "max").item()
            if pair >= 0:
                seconds[name].append(slowest)
    ours, theirs = (torch.cat([p.detach().flatten() for p in models[n].parameters()]) for n in ("ours", "ddp"))
    difference = (ours - theirs).norm() / theirs.norm()
    # fp32: a rounding of 6e-8 per step at most, if the two add in another order
    if difference > 6e-8 * (pairs + 3):
        raise AssertionError(f"our weights and DDP's differ by {difference:.1e} of their norm")
    return seconds


def spread(values: list[float]) -> str:
    low, _, high = quantiles(values, n=4)
    return f"{median(values):.3f} (quartiles {low:.3f} to {high:.3f}, {len(values)} pairs)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    config = make_config(options.layers)

    measured = lab.Processes(RANKS, timeout_s=600).run(race, config, options.pairs)
    seconds = measured.results[0]
    paired = list(zip(seconds["ours"], seconds["ddp"], seconds["one process"], strict=True))
    speedups = [one / ours for ours, _, one in paired]
    print(f"{config.n_param:,} parameters, {BATCH} x {SEQ} tokens, fp32, {RANKS} processes with one thread each")
    print(f"on {measured.hardware}\n")
    print(f"MEASURED  ours, seconds a step        {median(seconds['ours']):.4f}")
    print(f"MEASURED  DistributedDataParallel     {median(seconds['ddp']):.4f}")
    print(f"MEASURED  one process, one thread     {median(seconds['one process']):.4f}")
    print(f"MEASURED  speed, ours over DDP        {spread([ddp / ours for ours, ddp, _ in paired])}")
    print(f"MEASURED  speedup over one process    {spread(speedups)}")

    modelled = {
        n: lab.Simulator(n, cluster=this_machine(), cost_dtype="fp32").run(train, config, 4) for n in (1, RANKS)
    }
    predicted = modelled[1].seconds / modelled[RANKS].seconds
    error = predicted / median(speedups) - 1
    print(f"MODELLED  one process, seconds a step {modelled[1].seconds / 4:.4f}")
    print(f"MODELLED  two processes               {modelled[RANKS].seconds / 4:.4f}")
    print(f"MODELLED  speedup over one process    {predicted:.3f}, {error:+.1%} off the measured one")

    real = lab.Processes(RANKS).run(train, config, 4)
    formula = 4 * sum(4 * p.numel() for bucket in make_buckets(lab.Transformer(config).parameters()) for p in bucket)
    print("\nbytes a rank hands over in 4 steps")
    print(f"MEASURED  {real.trace.comm_bytes(rank=0):,}")
    print(f"MODELLED  {modelled[RANKS].trace.comm_bytes(rank=0):,}")
    print(f"formula   {formula:,}")


if __name__ == "__main__":
    main()
