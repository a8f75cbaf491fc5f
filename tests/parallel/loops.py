"""Draw a hand-written loop and a wrapper from one number; run it as one process does and as the wrapper's ranks do.

The loop is the usual one: forward, backward, clip, step, zero_grad, with several backwards a step and a look at a
validation loss in between. All that differs between one process and many is what the course tells a reader to write:
which rows (or tokens) a rank takes, and what its loss is divided by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

import llmlab as lab
from llmlab.model import IGNORE, Transformer
from llmlab.parallel.context import columns, context_parallel
from llmlab.parallel.data import data_parallel, no_sync, reduce_gradients
from llmlab.parallel.expert import expert_parallel, expert_parameters, global_balance
from llmlab.parallel.local_sgd import local_sgd
from llmlab.parallel.placement import shard_of
from llmlab.parallel.tensor import tensor_parallel
from llmlab.parallel.zero import zero

WRAPPERS = ("data", "zero 1", "zero 2", "zero 3", "tensor", "sequence", "context", "expert", "local_sgd")
STEPS, SEQ, VOCABULARY = 2, 12, 13  # 12 tokens: 2 x 3 slices of a zigzag, or 2, 3 or 4 of any other


@dataclass(frozen=True)
class Case:
    """Everything a run depends on."""

    wrapper: str
    ranks: int
    config: lab.Config
    rows: int = 2  # of a rank in a microbatch
    backwards: int = 1  # in a step
    quiet: bool = True  # accumulate under no_sync
    optimizer: str = "sgd"
    clip: str = "none"  # which function clips, and over whose parameters
    norm_type: float = 2.0
    evaluate: bool = False
    frozen: bool = False
    recompute: bool = False
    converted: bool = False  # made in fp32, then .double()
    set_to_none: bool = True
    ignored: str = "none"

    def __str__(self) -> str:
        return f"{self.wrapper} {self.ranks} {self.optimizer} clip={self.clip} x{self.backwards} {self.ignored}"


def draw(seed: int) -> Case:
    random = Random(seed)
    wrapper, ranks = WRAPPERS[seed % len(WRAPPERS)], random.choice([2, 2, 2, 3])
    n_expert = ranks * random.choice([1, 2]) if wrapper == "expert" or random.random() < 0.25 else 0
    converted = random.random() < 0.3
    config = lab.Config(
        vocab_size=VOCABULARY, d_model=4 * ranks, n_layer=2, n_head=ranks, max_seq=SEQ, d_ff=4 * ranks,
        n_kv_head=random.choice([1, ranks]),
        norm=random.choice(["layernorm", "rmsnorm"]),
        mlp=random.choice(["gelu", "swiglu"]),
        position=random.choice(["learned", "rotary"]),
        dropout=random.choice([0.0, 0.3, 0.3]),
        tie_embeddings=random.random() < 0.5,
        label_smoothing=random.choice([0.0, 0.1]),
        n_expert=n_expert,
        balance_loss=random.choice([0.0, 0.5]) if n_expert else 0.01,
        dtype=torch.float32 if converted else torch.float64,
    )  # fmt: skip
    clips = ["none", "torch", "torch", "ours", "torch, optimizer's", "ours, optimizer's", "torch, foreach"]
    return Case(
        wrapper, ranks, config, rows=random.choice([1, 2]), backwards=random.choice([1, 1, 2, 3]),
        quiet=random.random() < 0.6,
        optimizer=random.choice(["sgd", "sgd", "momentum", "adamw"]),
        clip=random.choice(clips),
        norm_type=random.choice([2.0, 2.0, 1.0, float("inf")]),
        evaluate=random.random() < 0.5,
        frozen=random.random() < 0.3,
        recompute=random.random() < 0.25,
        converted=converted,
        set_to_none=random.random() < 0.7,
        ignored=random.choice(["none", "some", "half"]),
    )  # fmt: skip


# --- what both ways to train share ------------------------------------------------------------------------------------


def make_model(case: Case) -> Transformer:
    model = lab.Transformer(case.config, seed=1)
    model = model.double() if case.converted else model
    if case.frozen:
        model.blocks[0].requires_grad_(False)
        model.embedding.token.requires_grad_(False)
    return model


def make_optimizer(case: Case, parameters: Any) -> torch.optim.Optimizer:
    if case.optimizer == "adamw":
        return lab.optim.AdamW(parameters, lr=0.01)
    if case.optimizer == "momentum":
        return torch.optim.SGD(parameters, lr=0.2, momentum=0.9, nesterov=True)
    return lab.optim.SGD(parameters, lr=0.5)


def make_batch(case: Case, step: int, i: int) -> tuple[Tensor, Tensor]:
    """Tokens and targets of all ranks' i-th microbatch of a step, [rows ranks, T]."""
    generator = torch.Generator().manual_seed(10 * step + i)
    shape = (case.rows * (case.ranks if takes_own_rows(case) else 1), SEQ)
    tokens, targets = torch.randint(VOCABULARY, (2, *shape), generator=generator)
    if case.ignored == "some":
        targets[torch.rand(shape, generator=generator) < 0.3] = IGNORE
    if case.ignored == "half":  # some rank, or some microbatch, has no target at all
        targets[: (shape[0] + 1) // 2] = IGNORE
    return tokens, targets


def count(case: Case, step: int) -> int:
    """Target tokens of a step."""
    return max(1, sum(int((make_batch(case, step, i)[1] != IGNORE).sum()) for i in range(case.backwards)))


def takes_own_rows(case: Case) -> bool:
    return case.wrapper not in ("tensor", "sequence", "context")


def clip(case: Case, model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor | None:
    if case.clip == "none":
        return None
    own = [p for group in optimizer.param_groups for p in group["params"]]
    parameters = own if case.clip.endswith("optimizer's") else model.parameters()
    if case.clip.startswith("ours"):
        return lab.optim.clip_grad_norm(parameters, 0.05)
    foreach = True if case.clip.endswith("foreach") else None
    return torch.nn.utils.clip_grad_norm_(parameters, 0.05, case.norm_type, foreach=foreach)


@dataclass
class Loop:
    """What a rank writes otherwise than one process. part: its part of a microbatch.  scale: what its loss is times."""

    model: Transformer
    optimizer: torch.optim.Optimizer
    part: Callable[[Tensor], Tensor] = field(default=lambda x: x)
    positions: Tensor | None = None
    scale: float = 1.0
    quiet: Callable[[], AbstractContextManager[None]] = nullcontext
    total: Callable[[Tensor], Tensor] = field(default=lambda loss: loss)  # of this rank's loss and the others'


def run(case: Case, loop: Loop) -> list[Tensor]:
    """The hand-written loop: losses, norms and validation losses in their order."""
    return list(walk(case, loop))


def walk(case: Case, loop: Loop) -> Iterator[Tensor]:
    """The same, each number when it is known: a step's loss comes last but for the validation loss after it."""
    model, optimizer = loop.model, loop.optimizer
    if case.recompute:
        lab.model.recompute(model)
    for step in range(STEPS):
        n_target, loss = count(case, step), torch.zeros((), dtype=torch.float64)
        for i in range(case.backwards):
            tokens, targets = (loop.part(x) for x in make_batch(case, step, i))
            with loop.quiet() if case.quiet and i < case.backwards - 1 else nullcontext():
                share = model.loss(tokens, targets, loop.positions, reduction="sum") / n_target
                (share * loop.scale).backward()
            loss += share.detach()
        norm = clip(case, model, optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=case.set_to_none)
        yield loop.total(loss).clone()
        yield torch.zeros(()) if norm is None else norm.detach().clone()
        if case.evaluate:
            model.eval()
            with torch.no_grad():
                tokens, targets = (loop.part(x) for x in make_batch(case, 100, 0))
                seen = loop.total(model.loss(tokens, targets, loop.positions, reduction="sum")) / SEQ
            model.train()
            yield seen.detach().clone()


# --- one process, and many --------------------------------------------------------------------------------------------


def alone(case: Case) -> tuple[list[list[Tensor]], dict[str, Tensor]]:
    """Numbers of each rank, and the weights."""
    if case.wrapper == "local_sgd":
        return local_sgd_alone(case)
    model = make_model(case)
    numbers = run(case, Loop(model, make_optimizer(case, model.parameters())))
    return [numbers] * case.ranks, model.state_dict()


def local_sgd_alone(case: Case) -> tuple[list[list[Tensor]], dict[str, Tensor]]:
    """Each rank's loop by itself, step by step; then their weights' mean."""
    loops, found = [], [[] for _ in range(case.ranks)]
    for rank in range(case.ranks):
        model = make_model(case)
        model.place.row = rank * case.rows
        loops.append(Loop(model, make_optimizer(case, model.parameters()), rows_of(case, rank)))
    walks = [walk(case, loop) for loop in loops]
    for step in range(STEPS):
        for numbers, steps in zip(found, walks, strict=True):
            numbers += [next(steps), next(steps)]  # loss and norm: its optimizer has stepped
        if step % 2:
            meet([loop.model for loop in loops])
        if case.evaluate:
            for numbers, steps in zip(found, walks, strict=True):
                numbers.append(next(steps))
    meet([loop.model for loop in loops])
    return found, loops[0].model.state_dict()


@torch.no_grad()
def meet(models: list[Transformer]) -> None:
    for same in zip(*(model.parameters() for model in models), strict=True):
        mean = torch.stack(same).mean(0)
        for p in same:
            p.copy_(mean)


def rows_of(case: Case, rank: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x[rank * case.rows : (rank + 1) * case.rows]


def train(world, case: Case) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The same on one of the wrapper's ranks: its numbers, and the whole weights."""
    loop = WRAP[case.wrapper.split()[0]](case, make_model(case), world)
    numbers = run(case, loop)
    if case.wrapper == "local_sgd":
        lab.parallel.local_sgd.average_weights(loop.model.parameters(), world)
    return numbers, whole(case, loop.model, world)


def whole(case: Case, model: Transformer, world) -> dict[str, Tensor]:
    """All weights under the single process's names."""
    held = dict(model.state_dict())
    for name, p in model.named_parameters(remove_duplicate=False):
        placement = shard_of(p)
        if placement is not None:
            held[name] = placement.gather(p)
    if case.wrapper != "expert":
        return {name: x.clone() for name, x in held.items()}
    names = [n for n in make_model(case).state_dict() if ".experts." in n]
    for name in names:  # on the rank that holds it
        expert = int(name.split(".experts.")[1].split(".")[0])
        x = held.get(name, make_model(case).state_dict()[name])
        held[name] = world.broadcast(x.detach().clone(), expert * case.ranks // case.config.n_expert)
    return held


def over_ranks(world, average: bool = False) -> Callable[[Tensor], Tensor]:
    return lambda loss: world.all_reduce(loss.detach(), "avg" if average else "sum")


def own_rows(case: Case, model: Transformer, optimizer: Any, world, quiet=nullcontext, scale: float = 1.0) -> Loop:
    return Loop(model, optimizer, rows_of(case, world.rank), None, scale, quiet, over_ranks(world))


def with_balance(case: Case, model: Transformer, world) -> Transformer:
    return global_balance(model, world) if case.config.n_expert else model


def wrap_data(case: Case, model: Transformer, world) -> Loop:
    data_parallel(with_balance(case, model, world), world, bucket_mb=0.001)
    optimizer = make_optimizer(case, model.parameters())
    return own_rows(case, model, optimizer, world, partial(no_sync, model), case.ranks)


def wrap_zero(case: Case, model: Transformer, world) -> Loop:
    make, stage = partial(make_optimizer, case), int(case.wrapper.split()[1])
    optimizer = zero(with_balance(case, model, world), make, world, stage, bucket_mb=0.001)
    return own_rows(case, model, optimizer, world, model.zero.no_sync, case.ranks)


def wrap_tensor(case: Case, model: Transformer, world) -> Loop:
    tensor_parallel(model, world, sequence_parallel=case.wrapper == "sequence")
    return Loop(model, make_optimizer(case, model.parameters()))


def wrap_context(case: Case, model: Transformer, world) -> Loop:
    context_parallel(model, world)
    data_parallel(with_balance(case, model, world), world, bucket_mb=0.001)
    held = columns(SEQ, world)
    optimizer = make_optimizer(case, model.parameters())
    return Loop(
        model, optimizer, lambda x: x[:, held], held, case.ranks, partial(no_sync, model), over_ranks(world)
    )  # fmt: skip


def wrap_expert(case: Case, model: Transformer, world) -> Loop:
    expert_parallel(global_balance(model, world), world)
    routed = expert_parameters(model)
    dense = [p for p in model.parameters() if all(p is not other for other in routed)]
    reducer = reduce_gradients(dense, world, bucket_mb=0.001, op="sum")  # those of experts are sums over ranks already

    @contextmanager
    def quiet():
        reducer.enabled = False
        yield
        reducer.enabled = True

    return own_rows(case, model, make_optimizer(case, model.parameters()), world, quiet)


def wrap_local_sgd(case: Case, model: Transformer, world) -> Loop:
    optimizer = local_sgd(make_optimizer(case, model.parameters()), world, every=2)
    return Loop(model, optimizer, rows_of(case, world.rank))


WRAP: dict[str, Callable[[Case, Transformer, Any], Loop]] = {
    "data": wrap_data,
    "zero": wrap_zero,
    "tensor": wrap_tensor,
    "sequence": wrap_tensor,
    "context": wrap_context,
    "expert": wrap_expert,
    "local_sgd": wrap_local_sgd,
}


def distance(case: Case, one: Any, results: list[Any]) -> float:
    """How far numbers and weights are apart on the rank where they are most, relative to the norm of all of them."""
    found = [0.0]
    for numbers, (ours, weights) in zip(one[0], results, strict=True):
        a, b = torch.stack(numbers), torch.stack([x.to(numbers[0].dtype) for x in ours])
        found.append(((a - b).norm() / a.norm().clamp(min=1)).item())  # without a target all are 0
        apart = torch.stack([(one[1][k] - weights[k]).norm() for k in one[1]]).norm()
        found.append((apart / torch.stack([x.norm() for x in one[1].values()]).norm()).item())
    return max(found, key=lambda x: float("inf") if x != x else x)
