"""ZeRO of every stage equals one process, sends the closed form's bytes and keeps the closed form's memory."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from llmlab import optim
from llmlab.comm.mesh import Mesh
from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.cost.modes import zero as closed
from llmlab.model import Config, Transformer
from llmlab.parallel import flat
from llmlab.parallel.zero import ZeRO, zero
from llmlab.training import Trainer
from tests.parallel.comparing import distance, joined, numbers, sent, train_plainly

STAGES = (1, 2, 3)
SIZES = dict(vocab_size=17, d_model=8, n_layer=2, n_head=2, max_seq=6, dtype=torch.float64)
MODELS = {
    "tied": {},
    "untied": {"tie_embeddings": False},
    "llama": {"norm": "rmsnorm", "mlp": "swiglu", "position": "rotary", "bias": False, "n_kv_head": 1},
    "experts": {"n_expert": 3, "n_expert_active": 2, "balance_loss": 0.0},  # the balance is each rank's own
}
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.5),
    "momentum": lambda parameters: optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda parameters: optim.Adam(parameters, lr=0.01),
    "decay matrices": lambda parameters: torch.optim.AdamW(by_dim(parameters), lr=0.01),
}


def by_dim(parameters) -> list[dict]:
    parameters = list(parameters)
    matrices, rest = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]
    return [{"params": matrices, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}]


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets, [12, 6] each; as many that do not count in each rank's share."""
    generator = torch.Generator().manual_seed(step)
    tokens, targets = torch.randint(0, SIZES["vocab_size"], (2, 12, 6), generator=generator)
    targets[:, :2].fill_(-100)
    return tokens, targets


@cache
def train_alone(model: str = "tied", optimizer: str = "sgd", dtype=torch.float64, steps: int = 3):
    """The reference."""
    alone = Transformer(Config(**SIZES | MODELS[model])).to(dtype)
    return train_plainly(alone, OPTIMIZERS[optimizer](alone.parameters()), map(batch, range(steps)))


def train(world, stage: int, model: str = "tied", optimizer: str = "sgd", dtype=torch.float64, steps: int = 3, **how):
    """The same run on many ranks."""
    sharded, losses = Transformer(Config(**SIZES | MODELS[model])).to(dtype), []
    stepper = zero(sharded, OPTIMIZERS[optimizer], world, stage, **how)
    for step in range(steps):
        stepper.zero_grad()
        loss = sharded.loss(*[part.chunk(world.size)[world.rank] for part in batch(step)])
        loss.backward()
        stepper.step()
        losses.append(world.all_reduce(loss.detach(), "avg"))
    return torch.stack(losses), *gathered(sharded)


def gathered(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """All gradients and all weights."""
    parameters, sharded = list(model.parameters()), model.zero
    return joined(map(sharded.whole_gradient, parameters)), joined(map(sharded.whole, parameters))


# --- equal to one process ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("ranks", "model"), [(1, "tied"), (2, "tied"), (4, "tied"), *((3, model) for model in MODELS)])
def test_losses_gradients_and_weights_after_3_steps_are_the_single_processs(stage, ranks, model):
    one = train_alone(model)
    for many in numbers(ranks).run(train, stage, model).results:
        assert distance(one, many) < 1e-9


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_of_single_elements_may_be_any(stage, optimizer):
    one = train_alone("tied", optimizer)
    for many in numbers(3).run(train, stage, "tied", optimizer).results:
        assert distance(one, many) < 1e-9


@pytest.mark.parametrize("bucket_mb", [0, 0.001])
@pytest.mark.parametrize("stage", [1, 2])
def test_the_size_of_the_buckets_changes_nothing(stage, bucket_mb):
    one = train_alone("llama")
    for many in numbers(2).run(train, stage, "llama", bucket_mb=bucket_mb).results:
        assert distance(one, many) < 1e-9


@pytest.mark.parametrize("stage", STAGES)
def test_fp32_differs_from_one_process_by_rounding_only(stage):
    one = train_alone(dtype=torch.float32)
    tolerance = 6e-8 * 48 * 3  # fp32 rounds by 6e-8; a gradient adds up 48 tokens, in another order, for 3 steps
    for many in numbers(4).run(train, stage, dtype=torch.float32).results:
        assert distance(one, many) < tolerance


@pytest.mark.parametrize("stage", STAGES)
def test_all_ranks_hold_the_same_bits_after_training(stage):
    results = numbers(3).run(train, stage, "tied", "adam").results
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_two_processes_train_as_one_and_hand_over_the_simulators_bytes():
    with Processes(2) as live:
        for stage in STAGES:
            real, simulated = (engine.run(train, stage, "untied", "adam") for engine in (live, numbers(2)))
            for many in real.results:
                assert distance(train_alone("untied", "adam"), many) < 1e-9
            for rank in range(2):
                assert sent(real, rank) == sent(simulated, rank)


# --- when gradients are added up --------------------------------------------------------------------------------------


def accumulate(world, stage: int, how: str, gather: bool = True):
    """Three microbatches a step; the loss of each is divided by 3."""
    model = Transformer(Config(**SIZES))
    sharded = ZeRO(model, world, stage)
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sharded.adopt(optimizer)
    for step in range(3):
        optimizer.zero_grad()
        tokens, targets = (part.chunk(world.size)[world.rank].chunk(3) for part in batch(step))
        for i in range(3):
            loss = model.loss(tokens[i], targets[i], reduction="sum") * world.size / 48  # 48 targets count
            if how == "always" or (how == "at the last" and i == 2):
                loss.backward()
                continue
            with sharded.no_sync():
                loss.backward()
                if how == "by hand":
                    sharded.reduce(model.parameters())
        sharded.finish()
        optimizer.step()
        sharded.publish()
    return gathered(model) if gather else None


@pytest.mark.parametrize("how", ["always", "at the last", "by hand", "at finish"])
@pytest.mark.parametrize("stage", STAGES)
def test_microbatches_add_up_however_their_gradients_are_reduced(stage, how):
    one = train_alone()[1:]
    for many in numbers(2).run(accumulate, stage, how).results:
        assert distance(one, many) < 1e-9


def test_where_gradients_pile_up_a_vector_alone_makes_no_buffer():
    def worker(world):
        torch.manual_seed(0)
        linear = nn.Linear(3, 2, dtype=torch.float64)
        sharded = ZeRO(linear, world, stage=2)
        (bucket,) = sharded.buckets
        with sharded.no_sync():
            linear.bias.sum().backward()
            alone = bucket.gradient is None
            linear(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
            linear.bias.sum().backward()
        sharded.finish()
        return alone, [sharded.whole_gradient(p).tolist() for p in linear.parameters()]

    for alone, (weight, bias) in Simulator(2).run(worker).results:
        assert alone and weight == [[1.0] * 3] * 2 and bias == [3.0] * 2


def test_no_sync_sends_no_gradient():
    def reductions(how):
        return len(numbers(2).run(accumulate, 3, how).trace.select(rank=0, op="reduce_scatter"))

    assert reductions("always") == 3 * reductions("at the last") == 3 * reductions("at finish")


class Choosing(nn.Module):
    """Two ways through a block; which one a rank takes is its own choice."""

    def __init__(self):
        super().__init__()
        self.ways = nn.ModuleList(nn.Linear(5, 5, dtype=torch.float64) for _ in range(2))
        self.shared = nn.Linear(5, 5, dtype=torch.float64)

    def forward(self, x, way):
        return x + self.shared(x + self.ways[way](x)).tanh()


class Chooser(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.enter = nn.Linear(3, 5, dtype=torch.float64)
        self.blocks = nn.ModuleList(Choosing() for _ in range(3))
        self.leave = nn.Linear(5, 1, dtype=torch.float64)
        for p in [*self.blocks[1].parameters(), self.enter.bias]:
            p.requires_grad_(False)

    def forward(self, x, way):
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, way)
        return self.leave(x).square().mean()


def choose(world, stage: int):
    """Rank 0 goes the second way, the others the first."""
    model = Chooser()
    optimizer = zero(model, OPTIMIZERS["adam"], world, stage)
    x = torch.linspace(-1, 1, 4 * 3, dtype=torch.float64).view(4, 3)
    for _ in range(3):
        model(x + world.rank, int(world.rank == 0)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return joined(map(model.zero.whole, model.parameters()))


@pytest.mark.parametrize("stage", STAGES)
def test_frozen_parameters_and_those_one_rank_did_not_use_are_as_in_one_process(stage):
    model = Chooser()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    x = torch.linspace(-1, 1, 4 * 3, dtype=torch.float64).view(4, 3)
    for _ in range(3):
        optimizer.zero_grad()
        (sum(model(x + rank, int(rank == 0)) for rank in range(3)) / 3).backward()
        optimizer.step()
    for many in numbers(3).run(choose, stage).results:
        assert (joined(model.parameters()) - many).norm() < 1e-9 * many.norm()


def two_groups(world, stage: int):
    """The MLPs' gradients are averaged over pairs, all others over all four ranks."""
    mesh = Mesh(world, replica=2, pair=2)
    model = Transformer(Config(**SIZES))
    narrow = {p for block in model.blocks for p in block.mlp.parameters()}
    sharded = ZeRO(model, lambda p: mesh["pair"] if p in narrow else world, stage)
    tokens, targets = (part.chunk(4)[world.rank] for part in batch(0))
    model.loss(tokens, targets).backward()
    sharded.finish()
    return [sharded.whole_gradient(p) for p in model.parameters()], [p in narrow for p in model.parameters()]


@pytest.mark.parametrize("stage", STAGES)
def test_each_parameter_is_reduced_over_its_own_group(stage):
    results = numbers(4).run(two_groups, stage).results
    for rank, (gradients, narrow) in enumerate(results):
        pair = (rank // 2 * 2, rank // 2 * 2 + 1)
        for i, is_narrow in enumerate(narrow):
            wanted = torch.stack([gradient_alone(share)[i] for share in (pair if is_narrow else range(4))]).mean(0)
            assert torch.allclose(gradients[i], wanted, rtol=0, atol=1e-12)


@cache
def gradient_alone(share: int) -> list[torch.Tensor]:
    model = Transformer(Config(**SIZES))
    model.loss(*[part.chunk(4)[share] for part in batch(0)]).backward()
    return [p.grad for p in model.parameters()]


# --- what an optimizer sees -------------------------------------------------------------------------------------------


def pieces(world, stage: int):
    model = Transformer(Config(**SIZES))
    vars(model.norm.weight)["partial_over"] = "a group"
    sharded = ZeRO(model, world, stage)
    owned = sharded.owned[model.norm.weight]
    return {
        "same objects": list(sharded.owned) == list(model.parameters()),
        "numbers": sum(piece.numel() for piece in sharded.owned.values()),
        "leaves": all(p.is_leaf and p.requires_grad and isinstance(p, nn.Parameter) for p in sharded.owned.values()),
        "noted": owned.partial_over,
    }


@pytest.mark.parametrize("stage", STAGES)
def test_the_owned_pieces_of_all_ranks_are_the_model_once(stage):
    results = numbers(3).run(pieces, stage).results
    assert sum(result.pop("numbers") for result in results) == sum(
        p.numel() for p in Transformer(Config(**SIZES)).parameters()
    )
    assert all(result == {"same objects": True, "leaves": True, "noted": "a group"} for result in results)


@pytest.mark.parametrize("stage", [0, 4, True, None])
def test_an_unknown_stage_is_refused(stage):
    with pytest.raises(ValueError, match="stage as a whole number from 1 to 3"):
        numbers(1).run(train, stage)


def test_a_model_is_sharded_once_and_an_optimizer_adopted_before_it_steps():
    def twice(world):
        ZeRO(model := Transformer(Config(**SIZES)), world, 1)
        ZeRO(model, world, 1)

    def late(world):
        model = Transformer(Config(**SIZES))
        optimizer = optim.Adam(model.parameters())
        model.loss(*batch(0)).backward()
        optimizer.step()
        ZeRO(model, world, 1).adopt(optimizer)

    for worker, rule in ((twice, "not sharded yet"), (late, "not stepped yet")):
        with pytest.raises(ValueError, match=rule):
            numbers(1).run(worker)


# --- what it sends and keeps -----------------------------------------------------------------------------------------

WIDE = Config(vocab_size=64, d_model=32, n_layer=3, n_head=4, max_seq=16)


def one_step(world, config: Config, stage: int, prefetch: bool = True, steps: int = 1):
    model = Transformer(config)
    stepper = zero(model, optim.Adam, world, stage, prefetch=prefetch)
    tokens = torch.zeros(2, 17, dtype=torch.int64).to(world.device)
    for _ in range(steps):
        stepper.zero_grad()
        model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
        stepper.step()


KINDS = {
    "tied": WIDE,
    "untied": replace(WIDE, tie_embeddings=False),
    "llama": replace(WIDE, norm="rmsnorm", mlp="swiglu", position="rotary", bias=False, n_kv_head=2, d_ff=88),
    "as the paper": replace(WIDE, norm_first=False, position="sinusoidal"),
    "one layer, odd": replace(WIDE, n_layer=1, vocab_size=61),
    "very wide heads": replace(WIDE, head_dim=128, n_kv_head=1, attention_bias="qkv"),  # H K = 4 F
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_recorded_bytes_are_the_closed_forms(config, stage):
    for ranks, prefetch in ((2, True), (3, False)):
        run = numbers(ranks).run(one_step, config, stage, prefetch)
        for rank in range(ranks):
            assert run.trace.comm_bytes(rank=rank) == closed.step_bytes(config, ranks, stage, prefetch=prefetch)


def test_bytes_of_microbatches_are_the_closed_forms():
    for stage in STAGES:
        run = numbers(2).run(accumulate, stage, "always", gather=False)
        assert run.trace.comm_bytes(rank=0) == 3 * closed.step_bytes(Config(**SIZES), 2, stage, microbatches=3)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["tied", "untied", "one layer, odd", "very wide heads"])
def test_peak_memory_by_category_is_the_closed_forms_within_5_percent(kind, stage):
    for ranks, prefetch in ((3, True), *([(2, False)] if stage == 3 else [])):
        run = Simulator(ranks, numerics=False).run(one_step, KINDS[kind], stage, prefetch, steps=2)
        wanted = closed.memory(KINDS[kind], ranks, stage, prefetch)
        for rank in range(ranks):
            got = {category: run.memory[rank].peaks[category] for category in wanted}
            assert got == pytest.approx(wanted, rel=0.05)


# --- planted mistakes -------------------------------------------------------------------------------------------------


def fails(stage: int) -> bool:
    return all(distance(train_alone(), many) > 1e-6 for many in numbers(2).run(train, stage).results)


@pytest.mark.parametrize("stage", STAGES)
def test_a_sum_for_an_average_is_noticed(stage, monkeypatch):
    send = flat.FlatBucket.send
    monkeypatch.setattr(flat.FlatBucket, "send", lambda self, op: send(self, "sum"))
    assert fails(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_swapped_shards_are_noticed(stage, monkeypatch):
    def theirs(self):
        return slice((1 - self.group.rank) * self.part, (2 - self.group.rank) * self.part)

    monkeypatch.setattr(flat.FlatBucket, "mine", property(theirs))
    assert fails(stage)


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_that_are_not_reduced_are_noticed(stage, monkeypatch):
    class Own:
        """This rank's own gradient, in place of all ranks' average."""

        def __init__(self, bucket):
            (self.gradient, self.handle), self.mine = bucket._sending, bucket.mine

        def wait(self):
            self.handle.wait()
            return self.gradient[self.mine].clone()

    def send_and_ignore(self, op):
        send(self, op)
        self._sending = self._sending[0], Own(self)

    send = flat.FlatBucket.send
    monkeypatch.setattr(flat.FlatBucket, "send", send_and_ignore)
    assert fails(stage)


@pytest.mark.parametrize("stage", [1, 2])
def test_weights_that_are_not_published_are_noticed(stage, monkeypatch):
    monkeypatch.setattr(ZeRO, "publish", lambda self: None)
    assert fails(stage)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_trainer_takes_what_zero_gives_and_steps_as_one_process_does(stage):
    config = Config(vocab_size=13, d_model=8, n_layer=2, n_head=2, max_seq=8, dtype=torch.float64)
    batch = [(torch.arange(16).reshape(2, 8) % 13, torch.arange(16).reshape(2, 8) % 11)]

    def own_sgd(parameters):
        return optim.SGD(parameters, lr=0.5)

    def worker(world):
        model = Transformer(config)
        trainer = Trainer(model, zero(model, own_sgd, world, stage), clip=0.1)
        return [trainer.step(batch) for _ in range(3)]  # the same rows on both ranks: their mean is one's own

    model = Transformer(config)
    alone = Trainer(model, own_sgd(model.parameters()), clip=0.1)
    wanted = [alone.step(batch) for _ in range(3)]
    for losses in numbers(2).run(worker).results:
        assert losses == pytest.approx(wanted, rel=1e-12)


def stepped_state(world):
    model = Transformer(Config(**SIZES))
    optimizer = zero(model, OPTIMIZERS["adam"], world, 1)
    model.loss(*batch(0)).backward()
    optimizer.step()
    return optimizer.state_dict()


def resumed(world, states):
    optimizer = zero(Transformer(Config(**SIZES)), OPTIMIZERS["adam"], world, 1)
    optimizer.load_state_dict(states[world.rank % len(states)])
    return len(optimizer.state)


def test_an_optimizers_state_goes_to_the_ranks_it_was_cut_for_and_to_no_others():
    states = numbers(2).run(stepped_state).results
    assert min(numbers(2).run(resumed, states).results) > 0
    with pytest.raises(ValueError, match=r"the optimizer state that this rank saved, on as many ranks: exp_avg of \["):
        numbers(4).run(resumed, states)
