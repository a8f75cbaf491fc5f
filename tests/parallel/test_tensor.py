"""Tensor and sequence parallelism equal one process, and hand over the closed form's bytes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import nn

from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.cost.modes.tensor import activation_bytes, params_per_rank, received_bytes, tensor_bytes
from llmlab.model import LSTM, Config, EncoderDecoder, Transformer, recompute
from llmlab.parallel import sequence, tensor
from llmlab.parallel.inspection import describe
from llmlab.parallel.placement import Shard, shard_of
from llmlab.parallel.tensor import tensor_parallel
from llmlab.parallel.vocabulary import whole_logits
from tests.parallel.comparing import numbers, sent

CONFIG = Config(vocab_size=17, d_model=12, n_layer=2, n_head=6, max_seq=12, dtype=torch.float64)
MODELS = {
    "gpt2": CONFIG,
    "llama": replace(
        CONFIG, norm="rmsnorm", mlp="swiglu", d_ff=36, position="rotary", bias=False, n_head=6, n_kv_head=6,
        tie_embeddings=False,
    ),
    "post-norm encoder": replace(CONFIG, norm_first=False, position="sinusoidal", causal=False, mlp="relu"),
    "experts": replace(CONFIG, n_expert=3, n_expert_active=2, n_expert_shared=1),
    "smoothed, with dropout": replace(CONFIG, label_smoothing=0.1, dropout=0.3),
}  # fmt: skip
FEW_KEYS = replace(CONFIG, d_model=24, n_head=12, n_kv_head=2, d_ff=24)  # 2 key heads: each is held by tp/2 ranks
B, T, LR = 2, 12, 0.5


def batch(step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets, [B, T] each; some targets do not count."""
    generator = torch.Generator().manual_seed(step)
    tokens, targets = torch.randint(0, CONFIG.vocab_size, (2, B, T), generator=generator)
    targets[0, :4].fill_(-100)
    return tokens, targets


@cache
def train_alone(config: Config, steps: int = 3) -> tuple[torch.Tensor, dict, dict]:
    """The reference, in plain torch: losses, the last step's gradients, weights."""
    model, losses = Transformer(config), []
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step in range(steps):
        optimizer.zero_grad()
        loss = model.loss(*batch(step))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), gradients(model), weights(model)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train(world, config: Config, sequence_parallel: bool = False, steps: int = 3):
    """The same run on many ranks; gradients and weights gathered."""
    model, losses = tensor_parallel(Transformer(config), world, sequence_parallel), []
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for step in range(steps):
        optimizer.zero_grad()
        loss = model.loss(*batch(step))
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), gathered(model, gradients(model)), gathered(model, weights(model))


def bare_step(world, config: Config, sequence_parallel: bool = False, rows: int = B, length: int = T) -> None:
    """Forward, backward, partial gradients and SGD of one batch, nothing gathered; on meta tensors too."""
    with torch.device(world.device):
        model = tensor_parallel(Transformer(config), world, sequence_parallel).to(world.device)
        tokens = torch.zeros(rows, length, dtype=torch.long)
    model.loss(tokens, tokens).backward()
    torch.optim.SGD(model.parameters(), lr=LR).step()


def gathered(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each tensor as the whole model would have it."""
    places = {name: shard_of(p) for name, p in model.named_parameters()}
    return {name: places[name].gather(x) if places[name] else x for name, x in tensors.items()}


def distance(one, many) -> float:
    """The largest difference of losses, gradients and weights, each relative to its whole norm."""
    flat = [
        [losses, *(torch.cat([x.flatten() for x in named.values()]) for named in rest)] for losses, *rest in (one, many)
    ]
    assert [list(named) for named in one[1:]] == [list(named) for named in many[1:]]
    return max(((a - b).norm() / a.norm()).item() for a, b in zip(*flat, strict=True))


def same_bits(results) -> bool:
    """Whether all ranks have the same losses, and the same of what they gathered or hold alike."""
    first, *others = results
    return all(
        torch.equal(first[0], other[0])
        and all(torch.equal(a[name], b[name]) for a, b in zip(first[1:], other[1:], strict=True) for name in a)
        for other in others
    )


@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["tensor", "sequence"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_losses_gradients_and_weights_after_3_steps_are_the_single_processs(config, ranks, sequence_parallel):
    results = numbers(ranks).run(train, config, sequence_parallel).results
    assert all(distance(train_alone(config), many) < 1e-9 for many in results)
    assert same_bits(results)


@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["tensor", "sequence"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_key_heads_fewer_than_ranks_are_held_by_several(ranks, sequence_parallel):
    results = numbers(ranks).run(train, FEW_KEYS, sequence_parallel).results
    assert all(distance(train_alone(FEW_KEYS), many) < 1e-9 for many in results)
    assert same_bits(results)


def no_token_for_an_expert(world, config: Config):
    """One token of two experts; the third has none, and its region must be entered and left all the same."""
    model = tensor_parallel(Transformer(config), world)
    model.loss(batch()[0][:1, :1], batch()[0][:1, 1:2]).backward()
    return gathered(model, gradients(model))


def test_an_expert_without_a_token_takes_part():
    config, model = MODELS["experts"], Transformer(MODELS["experts"])
    model.loss(batch()[0][:1, :1], batch()[0][:1, 1:2]).backward()
    for run in (numbers(2).run(no_token_for_an_expert, config), Processes(2).run(no_token_for_an_expert, config)):
        for got in run.results:
            assert all((got[name] - x).norm() <= 1e-9 * max(x.norm(), 1e-6) for name, x in gradients(model).items())


def test_two_processes_train_as_one_and_hand_over_the_simulators_bytes():
    config = MODELS["llama"]
    with Processes(2) as live:
        for sequence_parallel in (False, True):
            real, simulated = (e.run(train, config, sequence_parallel) for e in (live, numbers(2)))
            assert all(distance(train_alone(config), many) < 1e-9 for many in real.results)
            assert same_bits(real.results)
            for rank in range(2):
                assert sent(real, rank) == sent(simulated, rank)


@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["tensor", "sequence"])
def test_fp32_differs_from_one_process_by_rounding_only(sequence_parallel):
    config = replace(CONFIG, dtype=torch.float32)
    # fp32 rounds by 6e-8; a gradient adds up 24 tokens through sums of up to 48 features, in another order, for 3 steps
    tolerance = 6e-8 * 24 * 3
    for many in numbers(3).run(train, config, sequence_parallel).results:
        assert distance(train_alone(config), many) < tolerance


@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["tensor", "sequence"])
def test_a_split_bf16_model_is_no_further_from_fp64_than_a_whole_one(sequence_parallel):
    config, exact = replace(CONFIG, dtype=torch.bfloat16), train_alone(CONFIG, steps=1)
    away = distance(exact, train_alone(config, steps=1))
    for many in numbers(3).run(train, config, sequence_parallel, steps=1).results:
        assert distance(exact, many) < 1.25 * away  # each rank rounds its summand once more


def test_logits_gathered_over_the_ranks_are_the_single_processs():
    config = MODELS["gpt2"]

    def worker(world):
        model = tensor_parallel(Transformer(config), world)
        return whole_logits(model(batch()[0]).detach(), config.vocab_size, world)

    for logits in numbers(3).run(worker).results:
        torch.testing.assert_close(logits, Transformer(config)(batch()[0]).detach(), rtol=1e-12, atol=1e-12)


def test_activation_recomputation_enters_and_leaves_again_and_changes_nothing():
    def worker(world, sequence_parallel):
        model = recompute(tensor_parallel(Transformer(CONFIG), world, sequence_parallel))
        model.loss(*batch()).backward()
        return gathered(model, gradients(model))

    wanted = train_alone(CONFIG, steps=1)[1]
    for sequence_parallel in (False, True):
        for got in numbers(2).run(worker, sequence_parallel).results:
            assert all((got[name] - x).norm() <= 1e-9 * max(x.norm(), 1e-6) for name, x in wanted.items())


# --- planted mistakes: each is seen by the comparison above -----------------------------------------------------------


def bias_in_every_summand(linear, x):
    return linear.multiply(x, linear.weight, linear.bias)


def head_of_rank_0(linear, rows, x):
    first = slice(0, rows.stop - rows.start)
    return linear.multiply(x, linear.weight[first], linear.bias[first])


def rows_of_the_next_rank(shard, whole):
    rank = (shard.group.rank + (shard.dim == 1)) % shard.group.size
    return whole.narrow(shard.dim, min(rank * shard.part, shard.size - shard.part), shard.part).clone()


MISTAKES = {
    "no sum where a region is entered": (False, tensor.Region, "enter", lambda region, x: x),
    "no sum where a region is left": (False, tensor.Region, "leave", lambda region, y: y),
    "a row bias in every summand": (False, tensor, "without_bias", bias_in_every_summand),
    "the rows of another rank": (False, Shard, "take", rows_of_the_next_rank),
    "one key head for all": (False, tensor, "one_head", head_of_rank_0),
    "key heads' gradients not added up": (False, tensor, "mark_partial", lambda parameters, group: None),
    "row biases' gradients not added up": (True, tensor, "mark_partial", lambda parameters, group: None),
    "norms' gradients not added up": (True, sequence, "mark_partial", lambda parameters, group: None),
}


@pytest.mark.parametrize("sequence_parallel, owner, name, mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_planted_mistake_is_caught(monkeypatch, sequence_parallel, owner, name, mistake):
    config = replace(FEW_KEYS, vocab_size=20, n_kv_head=12 if sequence_parallel else 2)
    wanted = train_alone(config, steps=2)
    honest, planted = [], []
    for results in (honest, planted):
        results += numbers(4).run(train, config, sequence_parallel, steps=2).results
        monkeypatch.setattr(owner, name, mistake)
    assert all(distance(wanted, many) < 1e-9 for many in honest)
    assert all(distance(wanted, many) > 1e-4 for many in planted)


@pytest.mark.parametrize("planted", [False, True])
def test_dropout_drops_the_same_elements_however_the_tokens_are_split(monkeypatch, planted):
    if planted:  # every rank believes its tokens to be the first
        monkeypatch.setattr(sequence, "set_part", lambda dropout, group: None)
    config = MODELS["smoothed, with dropout"]
    results = numbers(2).run(train, config, True).results
    assert all((distance(train_alone(config), many) > 1e-3) == planted for many in results)


# --- what is refused, and what it looks like --------------------------------------------------------------------------


def test_what_cannot_be_split_is_refused_before_anything_is_sent():
    refused = {
        "wants a Transformer, got LSTM": lambda: LSTM(CONFIG),
        "wants a Transformer, got EncoderDecoder": lambda: EncoderDecoder(replace(CONFIG, causal=True)),
        "n_head=6 does not split over tp=4; legal: tp = 1, 2, 3, 6": lambda: Transformer(CONFIG),
        "d_ff=50 does not split over tp=4": lambda: Transformer(replace(CONFIG, n_head=4, n_kv_head=4, d_ff=50)),
        "n_kv_head=6 and tp=4: one must divide": lambda: Transformer(replace(FEW_KEYS, n_kv_head=6)),
    }

    def worker(world):
        for text, make in refused.items():
            with pytest.raises(ValueError, match=text):
                tensor_parallel(make(), world)

    assert len(numbers(4).run(worker).trace) == 0


def test_a_model_is_split_once():
    def worker(world):
        model = tensor_parallel(Transformer(CONFIG), world)
        with pytest.raises(ValueError, match="not split yet"):
            tensor_parallel(model, world)

    numbers(2).run(worker)


def test_a_length_that_does_not_split_is_refused_by_sequence_parallelism():
    def worker(world):
        model = tensor_parallel(Transformer(CONFIG), world, sequence_parallel=True)
        with pytest.raises(ValueError, match="dimension 1 of size 11 does not split over world=3"):
            model(batch()[0][:, :11])

    numbers(3).run(worker)


def test_parameters_stay_the_same_objects_tied_ones_too_and_whole_ones_keep_their_names():
    def worker(world):
        model = Transformer(CONFIG)
        before = dict(model.named_parameters())
        tensor_parallel(model, world)
        assert model.head.weight is model.embedding.token.weight
        return all(p is before[name] for name, p in model.named_parameters())

    assert numbers(2).run(worker).results == [True] * 2


def test_describe_shows_the_doors_and_the_slices():
    def worker(world):
        return describe(tensor_parallel(Transformer(CONFIG), world), before=Transformer(CONFIG))

    table = numbers(2).run(worker).results[0]
    rows = {path: what for path, what in (line.split(None, 1) for line in table.splitlines())}
    assert rows["blocks.*.attention"].startswith("before: enter; after: leave")
    assert rows["blocks.*.attention.query.weight"] == "[6, 12] float64  (was [12, 12] float64)  x 2"
    assert rows["blocks.*.mlp.down"] == "forward = without_bias  (new)  x 2"
    assert rows["Transformer"].startswith("cross_entropy = vocabulary_cross_entropy")


# --- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["tensor", "sequence"])
@pytest.mark.parametrize("config", [*MODELS.values(), FEW_KEYS], ids=[*MODELS, "few key heads"])
def test_every_step_hands_over_the_closed_forms_bytes(config, sequence_parallel):
    run = numbers(4 if config is FEW_KEYS else 3).run(bare_step, config, sequence_parallel)
    wanted = tensor_bytes(config, B, T, run.ranks, sequence_parallel)
    assert [run.trace.select(stream="comm").comm_bytes(rank) for rank in range(run.ranks)] == [wanted] * run.ranks


@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["tensor", "sequence"])
def test_meta_tensors_give_the_same_operations_bytes_and_virtual_time(sequence_parallel):
    def stream(numerics):
        run = Simulator(2, numerics=numerics).run(bare_step, CONFIG, sequence_parallel)
        return [(e.rank, e.stream, e.op, e.nbytes, e.flops, e.start, e.stop) for e in run.trace], run.seconds

    assert stream(True) == stream(False)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence_parallel", [False, True], ids=["tensor", "sequence"])
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", ["gpt2", "llama", "few key heads"])
def test_peak_memory_is_the_closed_forms(name, ranks, sequence_parallel):
    sizes = {"vocab_size": 1030, "d_model": 96, "n_layer": 4, "n_head": 12, "max_seq": 256, "dtype": torch.float32}
    sizes |= {"d_ff": 384, "n_kv_head": 2 if name == "few key heads" else 12}
    config = replace(MODELS["llama" if name == "llama" else "gpt2"], **sizes)
    run = Simulator(ranks, numerics=False).run(bare_step, config, sequence_parallel, 4, 256)
    weights = 4 * params_per_rank(config, ranks)
    activations = activation_bytes(config, 4, 256, ranks, sequence_parallel)
    for memory in run.memory:
        assert memory["parameters"] == memory["gradients"] == weights
        assert memory["activations"] == pytest.approx(activations, rel=0.05)
        assert memory["communication"] == received_bytes(config, 4, 256, ranks, sequence_parallel)
