"""Tensor parallelism as its closed forms have it: what a rank holds and hands over, whatever shape attention has."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import llmlab as lab
from llmlab.comm.simulator import Simulator
from llmlab.cost.modes.tensor import (
    activation_bytes,
    params_per_rank,
    partial_params,
    received_bytes,
    tensor_bytes,
)
from llmlab.model import Config, Transformer
from llmlab.parallel.tensor import tensor_parallel

CONFIG = Config(vocab_size=2059, d_model=96, n_layer=3, n_head=4, max_seq=64, d_ff=192)
LLAMA = replace(CONFIG, norm="rmsnorm", mlp="swiglu", position="rotary", bias=False, tie_embeddings=False)
MODELS = {
    "gpt": CONFIG,
    "wide heads": replace(CONFIG, head_dim=32),
    "narrow heads": replace(CONFIG, head_dim=10, n_kv_head=1),
    "qkv biases": replace(LLAMA, attention_bias="qkv", n_kv_head=2),  # as Qwen2
    "qkv biases on a shared key head": replace(LLAMA, attention_bias="qkv", n_kv_head=1, head_dim=32),
    "attention's biases alone": replace(LLAMA, attention_bias="all", n_kv_head=1),
    "biases but attention's": replace(CONFIG, attention_bias="none", n_kv_head=1, tie_embeddings=False),
    "biases but the output's": replace(CONFIG, attention_bias="qkv", head_dim=32),
    "no positions": replace(CONFIG, position="none", attention_bias="all"),
    "sinusoidal without biases": replace(CONFIG, position="sinusoidal", bias=False),
    "post-norm": replace(CONFIG, norm_first=False, attention_bias="none", label_smoothing=0.1),
    "experts": replace(CONFIG, n_expert=3, n_expert_shared=1, attention_bias="qkv", head_dim=16, d_ff=96),
}  # fmt: skip
DENSE = {name: config for name, config in MODELS.items() if not config.n_expert}
EACH = pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
EACH_DENSE = pytest.mark.parametrize("config", DENSE.values(), ids=DENSE)
SEQUENCE = pytest.mark.parametrize("sequence_parallel", [False, True], ids=["tensor", "sequence"])


def numel(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def step(world, config: Config, sequence_parallel: bool = False, rows: int = 3) -> int:
    """Forward and backward of one batch; the parameters this rank holds."""
    with torch.device(world.device):
        model = tensor_parallel(Transformer(config), world, sequence_parallel).to(world.device)
        tokens = torch.zeros(rows, config.max_seq, dtype=torch.long)
    model.loss(tokens, tokens).backward()
    return numel(model)


@EACH
def test_one_rank_holds_the_whole_models_parameters(config):
    assert params_per_rank(config, 1) == numel(lab.Transformer(config)) == config.n_param


@EACH
@pytest.mark.parametrize("ranks", [2, 4])
@SEQUENCE
def test_each_rank_holds_and_hands_over_what_the_closed_forms_say(config, ranks, sequence_parallel):
    run = Simulator(ranks).run(step, config, sequence_parallel)  # with numbers: experts are chosen by them
    assert run.results == [params_per_rank(config, ranks)] * ranks
    sent = [run.trace.select(stream="comm").comm_bytes(rank=rank) for rank in range(ranks)]
    assert sent == [tensor_bytes(config, 3, config.max_seq, ranks, sequence_parallel)] * ranks


@EACH_DENSE
@pytest.mark.parametrize(("rows", "ranks"), [(1, 2), (3, 2), (3, 4)])
@SEQUENCE
def test_received_messages_are_exact_and_activations_within_5_percent(config, rows, ranks, sequence_parallel):
    config = replace(config, max_seq=1536 // rows)  # so many tokens that a weight's gradient on its way is little
    run = Simulator(ranks, numerics=False).run(step, config, sequence_parallel, rows)
    messages = received_bytes(config, rows, config.max_seq, ranks, sequence_parallel)
    wanted = activation_bytes(config, rows, config.max_seq, ranks, sequence_parallel)
    for memory in run.memory:
        assert memory["communication"] == messages
        assert memory["activations"] == pytest.approx(wanted, rel=0.05)


def test_with_few_tokens_the_partial_gradients_are_the_largest_message():
    config = MODELS["qkv biases on a shared key head"]
    for memory in Simulator(2, numerics=False).run(step, config, True).memory:
        assert memory["communication"] == received_bytes(config, 3, config.max_seq, 2, True)
        assert memory["communication"] == 4 * partial_params(config, 2, True) > 3 * config.max_seq * config.d_model * 4
