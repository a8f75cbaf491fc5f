"""Draw a model, a batch, a layout and options from one number; train it as one process does and as the layout does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lcm
from random import Random

import torch
from torch import Tensor

import llmlab as lab
from llmlab.model import IGNORE, document_mask
from llmlab.model.recomputing import recompute as recompute_activations
from llmlab.parallel.compose import parallelize
from llmlab.parallel.layout import Layout
from llmlab.parallel.placement import shard_of

MAX_RANKS, STEPS = 16, 2  # the second step sees what the first left in weights, optimizer and buffers


@dataclass(frozen=True)
class Case:
    """Everything a run depends on."""

    config: lab.Config
    layout: Layout
    batch: int
    seq: int
    optimizer: str = "sgd"
    clip: float | None = None
    recompute: str = "none"
    documents: bool = False
    ignored: str = "some"  # which targets do not count: none, some, or one half of the batch entirely
    frozen: bool = False
    precision: str | None = None

    def __str__(self) -> str:
        shown = [f"{k}={v}" for k, v in vars(self.layout).items() if v != getattr(Layout(), k)]
        return " ".join([*shown, self.optimizer, self.recompute, self.ignored])


def draw(seed: int) -> Case:
    """A legal case; the odd ones on purpose: degree 3, odd sizes, fewer microbatches than stages, uneven layers ..."""
    random = Random(seed)
    while True:
        layout = draw_layout(random)
        likely = 1.0 if layout.ranks <= 4 else 0.3 if layout.ranks <= 8 else 0.06  # time goes with the ranks
        if layout.ranks <= MAX_RANKS and random.random() < likely:
            break
    config = draw_config(random, layout)
    case = draw_batch(random, config, layout)
    case.layout.check(case.config, case.batch, case.seq, case.layout.ranks)
    return case


def draw_layout(random: Random) -> Layout:
    dp, tp, cp = random.choice([1, 1, 2, 3]), random.choice([1, 1, 2, 3, 4]), random.choice([1, 1, 1, 2, 3])
    pp = random.choice([1, 1, 2, 2, 3, 4])
    schedule = random.choice(["gpipe", "1f1b", "interleaved", "zb_h1"])
    virtual = random.choice([1, 2]) if schedule == "interleaved" and pp <= 2 else 1
    microbatches = pp if schedule == "interleaved" else random.choice([1, 1, 2, 3])
    return Layout(
        dp, tp, pp, cp,
        ep=random.choice([d for d in range(1, dp * cp + 1) if dp * cp % d == 0]),
        zero=random.choice([0, 0, 1, 2, 3]),
        sequence_parallel=random.random() < 0.5,
        schedule=schedule,
        microbatches=microbatches,
        virtual_stages=virtual,
        context=random.choice(["ring", "ring", "ulysses"]),
    )  # fmt: skip


def draw_config(random: Random, layout: Layout) -> lab.Config:
    tp, stages = layout.tp, layout.pp * layout.virtual_stages
    heads = tp * random.choice([1, 2]) * (layout.cp if layout.context == "ulysses" else 1)
    key_heads = random.choice([g for g in range(1, heads + 1) if heads % g == 0 and (g % tp == 0 or tp % g == 0)])
    n_expert = layout.ep * random.choice([1, 2]) if layout.ep > 1 else random.choice([0, 0, 3])
    experts = {"n_expert": n_expert, "n_expert_active": random.randint(1, min(2, n_expert))} if n_expert else {}
    return lab.Config(
        vocab_size=random.choice([13, 16, 19]),
        d_model=heads * random.choice([2, 4]),
        n_layer=max(stages, random.choice([1, 2, 2])),
        n_head=heads,
        n_kv_head=key_heads,
        max_seq=64,
        d_ff=tp * random.choice([3, 4]),
        norm=random.choice(["layernorm", "rmsnorm"]),
        norm_first=random.random() < 0.8,
        mlp=random.choice(["gelu", "swiglu", "relu"]),
        position=random.choice(["learned", "rotary", "sinusoidal"]),
        causal=random.random() < 0.85,
        dropout=random.choice([0.0, 0.0, 0.2]),
        bias=random.random() < 0.7,
        tie_embeddings=random.random() < 0.6,
        label_smoothing=random.choice([0.0, 0.1]),
        n_expert_shared=random.choice([0, 1]) if n_expert else 0,
        dtype=torch.float64,
        **experts,
    )


def draw_batch(random: Random, config: lab.Config, layout: Layout) -> Case:
    step = lcm(2 * layout.cp if layout.cp > 1 else 1, layout.cp * layout.tp if layout.sequence_parallel else 1)
    return Case(
        config,
        layout,
        batch=layout.dp * layout.microbatches * random.choice([1, 2, 3] if layout.ranks <= 8 else [1]),
        seq=step * random.choice([k for k in range(1, 13) if 5 <= k * step <= 14] or [1]),
        optimizer=random.choice(["sgd", "sgd", "momentum", "adamw"]),
        clip=random.choice([None, None, 0.05]),
        recompute=random.choice(["none", "none", "selective", "full"]),
        documents=random.random() < 0.3,
        ignored=random.choice(["none", "some", "half"]),
        frozen=random.random() < 0.2,
    )


# --- the two ways to train ------------------------------------------------------------------------------------------


def make_optimizer(name: str):
    """One of each kind; AdamW spares vectors (biases, gains) its weight decay, as is usual."""

    def make(parameters):
        parameters = list(parameters)
        if name == "sgd":
            return torch.optim.SGD(parameters, lr=0.5)
        if name == "momentum":
            return torch.optim.SGD(parameters, lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.1)
        matrices, vectors = ([p for p in parameters if (p.dim() > 1) is big] for big in (True, False))
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        return torch.optim.AdamW([group for group in groups if group["params"]], lr=0.01)

    return make


def make_model(case: Case) -> lab.Transformer:
    model = lab.Transformer(case.config, seed=1)
    if case.frozen:
        model.blocks[0].requires_grad_(False)
        model.embedding.token.requires_grad_(False)
    return model


def make_batch(case: Case, step: int) -> dict[str, Tensor | None]:
    """tokens, targets, positions and mask of one global batch."""
    generator = torch.Generator().manual_seed(step)
    shape = (case.batch, case.seq)
    tokens, targets = torch.randint(case.config.vocab_size, (2, *shape), generator=generator)
    if case.ignored == "some":
        targets[torch.rand(shape, generator=generator) < 0.3] = IGNORE
    if case.ignored == "half":
        targets[: case.batch // 2] = IGNORE
        targets[:, : case.seq // 2] = IGNORE
    targets[-1, -1] = 3  # at least one counts
    positions = mask = None
    if case.documents:  # two documents a row, cut at a different place in each
        cuts = torch.randint(1, max(case.seq, 2), (case.batch, 1), generator=generator)
        place = torch.arange(case.seq).expand(shape)
        mask, positions = document_mask((place >= cuts).long()), torch.where(place >= cuts, place - cuts, place)
    return {"tokens": tokens, "targets": targets, "positions": positions, "mask": mask}


def train_alone(case: Case):
    """Plain torch in one process: (losses, last gradients, weights), nothing of `llmlab.parallel` in it."""
    model = make_model(case)
    if case.recompute != "none":
        recompute_activations(model, case.recompute)
    optimizer, losses = make_optimizer(case.optimizer)(model.parameters()), []
    for step in range(STEPS):
        batch = make_batch(case, step)
        n_target = (batch["targets"] != IGNORE).sum()
        optimizer.zero_grad()
        rows, loss = case.batch // case.layout.microbatches, 0.0
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
            for row in range(0, case.batch, rows):
                part = {k: None if v is None else v[row : row + rows] for k, v in batch.items()}
                share = model.loss(**part, reduction="sum") / n_target
                share.backward()
                loss += share.detach()
        if case.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), case.clip)
        optimizer.step()
        losses.append(loss)
    gradients = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in model.named_parameters()}
    return torch.stack(losses), gradients, {k: p.detach() for k, p in model.named_parameters()}


def train(world, case: Case):
    """The same on the layout's ranks: (losses, gradients, weights, the pieces held here)."""
    step = parallelize(
        make_model(case), make_optimizer(case.optimizer), case.layout, world,
        clip=case.clip, recompute=case.recompute, precision=case.precision, bucket_mb=0.004,
    )  # fmt: skip
    losses = torch.stack([step(**make_batch(case, i)) for i in range(STEPS)])
    pieces = {}
    for name, parameter in step.gathering.held.items():
        placement = shard_of(parameter)
        pieces[name, placement.group.rank if placement else None] = step.gradients.whole(parameter).clone()
    return losses, step.grad_dict(), step.state_dict(), pieces


def distance(one, many) -> dict[str, float]:
    """How far losses, gradients and weights are apart, each relative to its norm."""
    found = {"losses": ((one[0] - many[0]).norm() / one[0].norm()).item()}
    for what, a, b in (("gradients", one[1], many[1]), ("weights", one[2], many[2])):
        apart = torch.stack([(a[k] - b[k]).norm() for k in a]).norm()
        found[what] = (apart / torch.stack([x.norm() for x in a.values()]).norm()).item()
    return found


def worst(one, results) -> float:
    return max(max(distance(one, many).values()) for many in results)


def differing_replicas(results) -> list[str]:
    """Names of parameters, or "loss", of which two ranks that should hold the same bits do not."""
    first, found = {}, []
    for losses, _, _, pieces in results:
        for key, piece in [(("loss", None), losses), *pieces.items()]:
            if not torch.equal(first.setdefault(key, piece), piece):
                found.append(str(key))
    return found


def smaller(case: Case, **changes) -> Case:
    """The same case with some fields of it, of its layout or of its config changed."""
    for field in ("layout", "config"):
        known = {k: v for k, v in changes.items() if k in vars(getattr(case, field))}
        case = replace(case, **{field: replace(getattr(case, field), **known)})
        changes = {k: v for k, v in changes.items() if k not in known}
    return replace(case, **changes)
