"""Our tensor parallelism beside torch's `parallelize_module`, and beside one process with one thread.

    python benchmarks/tensor_parallel.py [--pairs 40] [--layers 4]

Two processes; every way takes the same steps on the same weights and batches, in turns within one run, so that
what else the machine does hits all alike. Printed is the median of the paired ratios with its quartiles. torch's table
splits what ours splits: heads, MLP, and the vocabulary at both ends, with its `loss_parallel` for the loss.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from racing import check_same, print_seconds, ratios, read_options, spread, take_turns, where
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, loss_parallel, parallelize_module

import llmlab as lab
from llmlab.cost.modes.tensor import tensor_bytes
from llmlab.parallel.placement import shard_of
from llmlab.parallel.tensor import tensor_parallel

RANKS, BATCH, SEQ = 2, 8, 128  # BATCH: sequences


def in_torch(model: lab.Transformer) -> lab.Transformer:
    """The same split by torch's own means; parameters become DTensors."""
    mesh = init_device_mesh("cpu", (RANKS,))
    model.embedding.token = nn.Embedding.from_pretrained(model.embedding.token.weight.detach(), freeze=False)
    ends = {
        "embedding.token": RowwiseParallel(input_layouts=Replicate()),
        "head": ColwiseParallel(output_layouts=Shard(-1), use_local_output=False),
    }
    columns = ("attention.query", "attention.key", "attention.value", "mlp.up")
    plan = {name: ColwiseParallel() for name in columns}
    plan |= {name: RowwiseParallel() for name in ("attention.output", "mlp.down")}
    parallelize_module(model, mesh, ends)
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
    return model


def take_step(name: str, model, optimizer, tokens: Tensor) -> Tensor:
    """Forward, backward and SGD on these tokens [B, T + 1]."""
    optimizer.zero_grad()
    with loss_parallel() if name == "torch" else nullcontext():
        logits, targets = model(tokens[:, :-1]), tokens[:, 1:]
        if name == "torch":
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        else:
            loss = model.cross_entropy(logits, targets)
        loss.backward()
    optimizer.step()
    return loss.detach()


def race(world, config, pairs: int) -> dict[str, list[float]]:
    """Seconds of a step, each way, in turns: `pairs` of each. One process works alone while the other waits."""
    models = {
        "ours": tensor_parallel(lab.Transformer(config), world),
        "torch": in_torch(lab.Transformer(config)),
        "ours, sequence": tensor_parallel(lab.Transformer(config), world, sequence_parallel=True),
        "one process": lab.Transformer(config),
    }
    # one tensor at a time: torch's DTensors and plain tensors, which both are in its model, do not mix in one call
    optimizers = {n: torch.optim.SGD(model.parameters(), lr=0.01, foreach=False) for n, model in models.items()}
    tokens = torch.randint(0, config.vocab_size, (BATCH, SEQ + 1), generator=torch.Generator().manual_seed(0))
    ways = {name: partial(take_step, name, models[name], optimizers[name], tokens) for name in models}
    seconds = take_turns(world, ways, pairs, alone=["one process"])
    weights = {name: whole(model) for name, model in models.items()}  # gathered: every rank takes part
    if world.rank == 0:
        for name, got in weights.items():
            check_same(name, got, weights["one process"], tolerance=1e-6 * (pairs + 3))  # fp32: some roundings a step
    return seconds


def whole(model) -> Tensor:
    """All weights in one vector, gathered. Every rank calls this."""
    found = []
    for parameter in model.parameters():
        shard, full = shard_of(parameter), parameter.detach()
        full = full.full_tensor() if isinstance(full, DTensor) else shard.gather(full) if shard else full
        found.append(full.flatten())
    return torch.cat(found)


def one_step(world, config, sequence_parallel: bool) -> None:
    """The worker whose bytes are counted."""
    model = tensor_parallel(lab.Transformer(config), world, sequence_parallel).to(world.device)
    tokens = torch.zeros(BATCH, SEQ, dtype=torch.long, device=world.device)
    model.loss(tokens, tokens).backward()


def main() -> None:
    options = read_options(__doc__, pairs=40, layers=4)
    config = lab.Config(
        vocab_size=2048, d_model=256, n_layer=options.layers, n_head=8, max_seq=SEQ, tie_embeddings=False
    )
    print(f"{config.n_param:,} parameters, {BATCH} x {SEQ} tokens, fp32; on {where()}\n")
    seconds = print_seconds(lab.Processes(RANKS, timeout_s=900).run(race, config, options.pairs))
    print(f"MEASURED  speed, ours over torch          {spread(ratios(seconds, 'torch', 'ours'))}")
    print(f"MEASURED  sequence parallel over torch    {spread(ratios(seconds, 'torch', 'ours, sequence'))}")
    print(f"MEASURED  speedup over one process        {spread(ratios(seconds, 'one process', 'ours'))}")
    print_bytes(config)


def print_bytes(config: lab.Config) -> None:
    """Both engines' traces and the closed form."""
    print("\nbytes a rank hands over in a step")
    for sequence_parallel in (False, True):
        formula = tensor_bytes(config, BATCH, SEQ, RANKS, sequence_parallel)
        print(f"FORMULA   {formula:,}, sequence_parallel={sequence_parallel}")
        for engine in (lab.Processes(RANKS), lab.Simulator(RANKS)):
            run = engine.run(one_step, config, sequence_parallel)
            print(f"COUNTED   {run.trace.select(stream='comm').comm_bytes(0):,} by {type(engine).__name__}")


if __name__ == "__main__":
    main()
