"""The patients of notebook 30: training steps that are slow, each for one reason, with what can be changed about them.

`patient.run()` is the sick step; `patient.run(overlap=True)` the same step with that changed. Each runs two steps on
simulated ranks and gives the second, alone; `run.results` are the losses. All are written as an engineer would have
written them: the reason is in the arguments, not in a special worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from llmlab.comm.group import Group
from llmlab.comm.simulator import Simulator
from llmlab.comm.trace import Run
from llmlab.diagnosing import TimeSpent, Utilization, time_spent, utilization, within
from llmlab.hardware import cluster
from llmlab.model import Config, Transformer
from llmlab.optim import SGD
from llmlab.parallel.compose import parallelize
from llmlab.parallel.data import data_parallel, global_mean, no_sync
from llmlab.parallel.layout import Layout

STEP = "step"  # the span that is looked at


@dataclass(frozen=True)
class Patient:
    """A step that can be run: `settings` are the worker's arguments as they were found."""

    complaint: str  # what one is told: the model, the layout, the machine
    cause: str  # one of timelines.CAUSES
    engine: Simulator
    config: Config
    batch: int  # sequences in the global batch
    worker: Callable[..., Any]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def run(self, **changed: Any) -> Run:
        """Run the step, with some settings changed. Raises ValueError for one that the worker does not have."""
        unknown = set(changed) - set(self.settings)
        if unknown:
            raise ValueError(f"this step's settings are {', '.join(self.settings)}; got {', '.join(sorted(unknown))}")
        run = self.engine.run(self.worker, self.config, self.batch, **{**self.settings, **changed})
        return within(run, STEP)

    def diagnose(self, run: Run) -> tuple[TimeSpent, Utilization]:
        """Say where the time of a run went, and its MFU."""
        spent = time_spent(run)
        flops = self.batch * self.config.max_seq * self.config.flops_per_token()
        return spent, utilization(spent, flops, self.engine.cluster)


@cache
def ward() -> dict[str, Patient]:
    """The six patients of the notebook, A to F, and the one of its exercises, G."""
    return {
        "A": Patient(
            "two replicas, one a node, two micro-batches",
            "gradients",
            Simulator(2, cluster=cluster("classroom", devices_per_node=1)),
            _small(n_layer=2, max_seq=72),
            8,
            replicas,
            {"microbatches": 2, "bucket_mb": 0, "overlap": False, "hold_back": False},
        ),
        "B": Patient(
            "a pipeline of four stages in one node",
            "bubble",
            Simulator(4),
            _small(d_model=48),
            8,
            laid_out,
            {"layout": Layout(pp=4, microbatches=2)},
        ),
        "C": Patient(
            "four tensor ranks on two nodes of two devices",
            "tensor across nodes",
            Simulator(4, cluster=cluster("classroom", devices_per_node=2)),
            _small(n_layer=3, d_model=104),
            16,
            laid_out,
            {"layout": Layout(tp=4)},
        ),
        "D": Patient(
            "four replicas in one node",
            "slow rank",
            Simulator(4, speeds={2: 0.35}),
            _small(),
            32,
            uneven_replicas,
            {"rows": (8, 8, 8, 8)},
        ),
        "E": Patient(
            "a model of 130 million parameters on one H100, micro-batches of one sequence",
            "small kernels",
            Simulator(1, cluster="h100", numerics=False),
            Config(vocab_size=8192, d_model=1280, n_layer=6, n_head=16, max_seq=480),
            8,
            laid_out,
            {"layout": Layout(microbatches=8)},
        ),
        "F": Patient(
            "one device, four micro-batches, a progress line for each",
            "late host",
            Simulator(1),
            _small(d_model=32),
            8,
            loaded,
            {"microbatches": 4, "load_s": 0.016, "log_every_microbatch": True},
        ),
        "G": Patient(
            "a pipeline of three stages in one node, four micro-batches, a vocabulary of 4096",
            "uneven stages",
            Simulator(3),
            _small(vocab_size=4096, n_layer=9, tie_embeddings=False),
            4,
            laid_out,
            {"layout": Layout(pp=3, microbatches=4), "split": (3, 3, 3)},
        ),
    }


def _small(**changed: Any) -> Config:
    """The lesson's model, which behaves on the classroom cluster as a large one does on H100s."""
    return Config(**{"vocab_size": 256, "d_model": 64, "n_layer": 4, "n_head": 4, "max_seq": 64, **changed})


# --- the steps ------------------------------------------------------------------------------------------------------


def replicas(
    world: Group, config: Config, batch: int, microbatches: int, bucket_mb: float, overlap: bool, hold_back: bool
) -> list[float]:
    """Data parallel training that adds up the gradients of its micro-batches, as in notebook 20."""
    model = Transformer(config)
    data_parallel(model, world, bucket_mb=bucket_mb, overlap=overlap)
    optimizer = _sgd(model.parameters())
    parts = [
        [x[world.rank :: world.size].to(world.device) for x in pair] for pair in _parts(config, batch, microbatches)
    ]

    def step() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), device=world.device)
        for i, (tokens, targets) in enumerate(parts):
            with no_sync(model) if hold_back and i < len(parts) - 1 else nullcontext():
                loss = model.loss(tokens, targets) / microbatches
                loss.backward()
            total += loss.detach()
        optimizer.step()
        return world.all_reduce(total, "avg")

    return _two_steps(world, step)


def uneven_replicas(world: Group, config: Config, batch: int, rows: Sequence[int]) -> list[float]:
    """Data parallel training in which rank r takes rows[r] of the batch's sequences, weighted by their tokens."""
    if sum(rows) != batch or len(rows) != world.size:
        raise ValueError(f"rows want {world.size} numbers that add up to the batch of {batch}, got {list(rows)}")
    model = Transformer(config)
    data_parallel(model, world, bucket_mb=0.2)
    optimizer = _sgd(model.parameters())
    first = sum(rows[: world.rank])
    mine = slice(first, first + rows[world.rank])
    tokens, targets = (x[mine].to(world.device) for x in _batch(config, batch))

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = global_mean(model.loss(tokens, targets, reduction="sum"), targets.numel(), world)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return _two_steps(world, step)


def laid_out(
    world: Group,
    config: Config,
    batch: int,
    layout: Layout,
    split: Sequence[int] | None = None,
    recompute: str = "none",
) -> list[float]:
    """Training in any layout, as in notebook 29."""
    step = parallelize(Transformer(config), _sgd, layout, world, split=split, recompute=recompute)
    tokens, targets = _batch(config, batch)
    return _two_steps(world, lambda: step(tokens, targets))


def loaded(
    world: Group, config: Config, batch: int, microbatches: int, load_s: float, log_every_microbatch: bool
) -> list[float]:
    """Training on micro-batches that the host must read and tokenise, `load_s` seconds for each."""
    model = Transformer(config).to(world.device)
    optimizer = _sgd(model.parameters())
    parts = [[x.to(world.device) for x in pair] for pair in _parts(config, batch, microbatches)]

    def step() -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros((), device=world.device)
        for tokens, targets in parts:
            world.sleep(load_s)
            loss = model.loss(tokens, targets) / microbatches
            loss.backward()
            total += loss.detach()
            if log_every_microbatch:
                total.item()
        optimizer.step()
        return total

    return _two_steps(world, step)


def _two_steps(world: Group, step: Callable[[], Tensor]) -> list[float]:
    """The first for the allocator and the optimizer's state, the second to be looked at; both end for all together."""
    losses = []
    for name in ("first", STEP):
        world.barrier()
        with world.span(name):
            losses.append(step())
            world.barrier()
    return [loss.item() for loss in losses]


def _sgd(parameters: Any) -> SGD:
    return SGD(parameters, lr=0.1)


def _batch(config: Config, batch: int) -> tuple[Tensor, Tensor]:
    """Tokens and targets, the same on every rank: a count with a carry, which a model can learn."""
    x = torch.arange(batch * (config.max_seq + 1), device="cpu").view(batch, -1) ** 2 % config.vocab_size
    return x[:, :-1], x[:, 1:]


def _parts(config: Config, batch: int, microbatches: int) -> list[tuple[Tensor, Tensor]]:
    """The batch in equal micro-batches."""
    tokens, targets = _batch(config, batch)
    return list(zip(tokens.chunk(microbatches), targets.chunk(microbatches), strict=True))
