"""Our modes beside torch's own, mode by mode, on one modelled cluster: what a rank hands over in a step, in bytes.

    python benchmarks/beside_torch.py  # half a minute; writes data/measured/beside_torch.csv

The same Transformer on both sides, fp32, SGD, one step. `PAIRS` has the two programs of each mode and the sentence that
says why their bytes differ, where they do. Virtual ranks: the same everywhere, and tests/comm/torch_programs holds it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import llmlab as lab
from llmlab.comm.group import Group
from llmlab.model import moe
from llmlab.parallel.context import columns

RESULT = Path(__file__).parents[1] / "data/measured/beside_torch.csv"
MODEL = lab.Config(vocab_size=64, d_model=32, n_layer=4, n_head=4, max_seq=16, tie_embeddings=False,
                   position="rotary")  # fmt: skip
LONG = replace(MODEL, max_seq=64)
MIXTURE = replace(MODEL, n_layer=1, n_expert=4, balance_loss=0.0)
BATCH, MICROBATCHES = 8, 4


def rows(config: lab.Config = MODEL, size: int = 1, rank: int = 0) -> tuple[Tensor, Tensor]:
    """This rank's part of the batch: tokens and targets."""
    whole = torch.arange(BATCH * config.max_seq).view(BATCH, config.max_seq) % config.vocab_size
    mine = whole[rank::size]
    return mine, mine.roll(-1, 1)


def mine(config: lab.Config = MODEL) -> tuple[Tensor, Tensor]:
    return rows(config, dist.get_world_size(), dist.get_rank())


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


# --- data -------------------------------------------------------------------------------------------------------------


def data(world: Group) -> None:
    model = lab.data_parallel(lab.Transformer(MODEL), world)
    model.loss(*rows(MODEL, world.size, world.rank)).backward()


def ddp() -> None:
    model = nn.parallel.DistributedDataParallel(lab.Transformer(MODEL))
    tokens, targets = mine()
    loss_of(model(tokens), targets).backward()


def zero(world: Group, stage: int) -> None:
    model = lab.Transformer(MODEL)
    optimizer = lab.zero(model, sgd, world, stage)
    model.loss(*rows(MODEL, world.size, world.rank)).backward()
    optimizer.step()


def zero_redundancy() -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = nn.parallel.DistributedDataParallel(lab.Transformer(MODEL), init_sync=False)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=torch.optim.SGD, lr=0.1)
    tokens, targets = mine()
    loss_of(model(tokens), targets).backward()
    optimizer.step()


def fsdp2() -> None:
    from torch.distributed.fsdp import fully_shard

    model = lab.Transformer(MODEL)
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    tokens, targets = mine()
    loss_of(model(tokens), targets).backward()
    sgd(model.parameters()).step()


# --- tensor, sequence, vocabulary -------------------------------------------------------------------------------------


def tensor(world: Group, sequence_parallel: bool = False) -> None:
    model = lab.tensor_parallel(lab.Transformer(MODEL), world, sequence_parallel)
    model.loss(*rows()).backward()
    sgd(model.parameters()).step()


def by_plan(sequence: bool, vocabulary: bool) -> None:
    """torch's plan for the same Transformer: Megatron's columns and rows."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        SequenceParallel,
        loss_parallel,
        parallelize_module,
    )

    model, mesh = lab.Transformer(MODEL), init_device_mesh("cpu", (dist.get_world_size(),))
    stream = Shard(1) if sequence else Replicate()
    plan: dict[str, Any] = {f"attention.{name}": ColwiseParallel() for name in ("query", "key", "value")}
    plan |= {"mlp.up": ColwiseParallel()}
    plan |= {name: RowwiseParallel(output_layouts=stream) for name in ("attention.output", "mlp.down")}
    for name, others in (("attention", 3), ("mlp", 0)):  # what comes in is made whole once, for query, key and value
        here, whole = ((layout, *[None] * others) for layout in (stream, Replicate()))
        plan[name] = PrepareModuleInput(input_layouts=here, desired_input_layouts=whole)
    if sequence:
        plan |= {name: SequenceParallel(use_local_output=True) for name in ("attention_norm", "mlp_norm")}
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
    if vocabulary:
        model.embedding.token = nn.Embedding(MODEL.vocab_size, MODEL.d_model)  # the table's class that torch can split
        ends: dict[str, Any] = {
            "embedding.token": RowwiseParallel(input_layouts=Replicate(), output_layouts=stream),
            "head": ColwiseParallel(input_layouts=stream, output_layouts=Shard(-1), use_local_output=False),
        }
        if sequence:
            ends["norm"] = SequenceParallel(use_local_output=True)
        parallelize_module(model, mesh, ends)
    tokens, targets = rows()
    with loss_parallel() if vocabulary else nullcontext():
        loss_of(model(tokens), targets).backward()
    sgd(model.parameters()).step()


# --- context ----------------------------------------------------------------------------------------------------------


def context(world: Group) -> None:
    model, at = lab.Transformer(LONG), columns(LONG.max_seq, world)
    lab.context_parallel(model, world)
    tokens, targets = (each[:, at] for each in rows(LONG))
    model.loss(tokens, targets, positions=at).backward()


def torchs_context() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.experimental import context_parallel
    from torch.distributed.tensor.experimental._attention import set_rotate_method

    model, mesh = lab.Transformer(LONG), init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("cp",))
    (tokens, targets), positions = rows(LONG), torch.arange(LONG.max_seq)
    set_rotate_method("alltoall")  # a ring: keys and values go on to the neighbour
    split = [tokens, targets, positions]
    with context_parallel(mesh, buffers=split, buffer_seq_dims=[1, 1, 0], no_restore_buffers=set(split)):
        loss_of(model(tokens, positions), targets).backward()


# --- pipeline ---------------------------------------------------------------------------------------------------------


def pipeline(world: Group, name: str, virtual: int = 1) -> None:
    lab.pipeline_parallel(lab.Transformer(MODEL), world, name, MICROBATCHES, virtual).forward_backward(*rows())


def torchs_pipeline(name: str, virtual: int = 1) -> None:
    from torch.distributed.pipelining import PipelineStage, schedules

    rank, ranks, model = dist.get_rank(), dist.get_world_size(), lab.Transformer(MODEL)
    stages, each = ranks * virtual, MODEL.n_layer // (ranks * virtual)
    held = []
    for number in range(rank, stages, ranks):
        layers = list(model.blocks[number * each : (number + 1) * each])
        first, last = [model.embedding] * (number == 0), [model.norm, model.head] * (number == stages - 1)
        held.append(PipelineStage(nn.Sequential(*first, *layers, *last), number, stages, torch.device("cpu")))
    kind = getattr(schedules, name)
    one_stage = not issubclass(kind, schedules.PipelineScheduleMulti)
    plan = kind(held[0] if one_stage else held, MICROBATCHES, loss_fn=loss_of)
    tokens, targets = rows()
    plan.step(*([tokens] if rank == 0 else []), **({"target": targets} if rank == ranks - 1 else {}))


# --- experts ----------------------------------------------------------------------------------------------------------


def experts(world: Group) -> None:
    model = lab.expert_parallel(lab.Transformer(MIXTURE), world)
    model.loss(*rows(MIXTURE, world.size, world.rank)).backward()


def torchs_experts() -> None:
    from torch.distributed._functional_collectives import all_to_all_single_autograd as exchange

    rank, ranks, model = dist.get_rank(), dist.get_world_size(), lab.Transformer(MIXTURE)

    def across(layers: nn.ModuleList, tokens: Tensor, sizes: list[int]) -> Tensor:
        leaving, arriving = torch.tensor(sizes), torch.empty(len(sizes), dtype=torch.long)
        dist.all_to_all_single(arriving, leaving)  # how many are coming
        there, back = (n.view(ranks, -1).sum(1).tolist() for n in (leaving, arriving))
        world = dist.group.WORLD
        parts, each = exchange(tokens, back, there, world).split(arriving.tolist()), len(sizes) // ranks
        outputs = [layers[each * rank + i % each](part) for i, part in enumerate(parts)]
        return exchange(torch.cat(outputs), there, back, world)

    model.blocks[0].mlp.dispatch = partial(moe.dispatch, run=across)
    tokens, targets = mine(MIXTURE)
    loss_of(model(tokens), targets).backward()


@dataclass(frozen=True)
class Pair:
    """Two programs of one mode. why: what differs between them, and therefore in their bytes."""

    mode: str
    name: str  # torch's
    ours: Callable[[Group], None]
    torchs: Callable[[], None]
    ranks: int
    why: str

    def row(self) -> dict[str, Any]:
        """Run both: bytes of all ranks together, by operation."""
        simulator = lab.Simulator(self.ranks, kernels=self.torchs is torchs_context)  # its attention is one of them
        ours, torchs = simulator.run(self.ours), simulator.run_torch(self.torchs)
        both = {"ours": handed_over(ours), "theirs": handed_over(torchs)}
        return {"mode": self.mode, "torch": self.name, "ranks": self.ranks, **both, "why": self.why}


def handed_over(run: lab.Run) -> str:
    operations = sorted({event.op for event in run.trace if event.stream == "comm" and event.nbytes})
    return " + ".join(f"{op} {run.trace.comm_bytes(op=op)}" for op in operations)


PAIRS = (
    Pair(
        "data", "DistributedDataParallel", data, ddp, 4,
        "The same gradients and first weights; DDP compares the parameters' shapes first.",
    ),
    Pair(
        "ZeRO-1", "ZeroRedundancyOptimizer", partial(zero, stage=1), zero_redundancy, 4,
        "torch's keeps DDP's all-reduce and hands out whole parameters; ours stops half-way and gathers pieces.",
    ),
    Pair(
        "ZeRO-3", "fully_shard", partial(zero, stage=3), fsdp2, 4,
        "The same: weights gathered for forward and again for backward, gradients scattered once.",
    ),
    Pair(
        "tensor", "parallelize_module", tensor, partial(by_plan, False, False), 4,
        "The plan leaves the tables whole, ours splits them; torch deals weights out from rank 0, ours cuts its own.",
    ),
    Pair(
        "vocabulary", "loss_parallel", tensor, partial(by_plan, False, True), 4,
        "The same: embedding, blocks and loss; but that torch deals weights out from rank 0, where ours cuts its own.",
    ),
    Pair(
        "sequence", "SequenceParallel", partial(tensor, sequence_parallel=True), partial(by_plan, True, True), 4,
        "torch scatters the embedding's sum, ours gives it to all; ours adds up biases' gradients, torch's are whole.",
    ),
    Pair(
        "context", "context_parallel", context, torchs_context, 4,
        "The same keys and values on the same ring: ours sends them to the neighbour, torch calls it an all-to-all.",
    ),
    Pair(
        "gpipe", "ScheduleGPipe", partial(pipeline, name="gpipe"), partial(torchs_pipeline, "ScheduleGPipe"), 4,
        "The same activations and gradients; torch's stages tell their shapes first, ours adds up the loss for all.",
    ),
    Pair(
        "1f1b", "Schedule1F1B", partial(pipeline, name="1f1b"), partial(torchs_pipeline, "Schedule1F1B"), 4,
        "As with gpipe: a schedule orders messages and sends no others.",
    ),
    Pair(
        "interleaved", "ScheduleInterleaved1F1B", partial(pipeline, name="interleaved", virtual=2),
        partial(torchs_pipeline, "ScheduleInterleaved1F1B", 2), 2,
        "As with gpipe: twice the stages, three times the borders that two ranks have.",
    ),
    Pair(
        "zero bubble", "ScheduleInterleavedZeroBubble", partial(pipeline, name="zb_h1"),
        partial(torchs_pipeline, "ScheduleInterleavedZeroBubble"), 2,
        "As with gpipe: when a rank makes its weights' gradients, no other hears.",
    ),
    Pair(
        "experts", "all_to_all_single", experts, torchs_experts, 4,
        "The same tokens, and the same counts before them.",
    ),
)  # fmt: skip


def main() -> None:
    table = [pair.row() for pair in PAIRS]
    with RESULT.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
