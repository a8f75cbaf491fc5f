"""What a layout leaves of a model for one rank: layers, parameters and FLOPs add up to the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.cost.sizes import Sizes
from llmlab.model import Config
from llmlab.parallel.layout import Layout

GPT3 = Config(vocab_size=50257, d_model=12288, n_layer=96, n_head=96, max_seq=2048)
LLAMA = Config(
    vocab_size=128256, d_model=8192, n_layer=80, n_head=64, n_kv_head=8, d_ff=28672, max_seq=8192,
    mlp="swiglu", norm="rmsnorm", position="rotary", bias=False, tie_embeddings=False,
)  # fmt: skip
EXPERTS = Config(
    vocab_size=32000, d_model=1024, n_layer=8, n_head=16, max_seq=512, n_expert=8, n_expert_shared=1, position="none"
)


def sizes(config: Config, layout: Layout, seq: int = 512, b: int = 2) -> Sizes:
    return Sizes(config, layout, b, seq, 2, 2)


@given(st.integers(1, 130), st.data())
def test_stages_share_the_layers_evenly_and_the_ends_have_the_fewest(n_layer, data):
    pp = data.draw(st.integers(1, n_layer))
    x = sizes(Config(vocab_size=8, d_model=8, n_layer=n_layer, n_head=1, max_seq=8), Layout(pp=pp))
    layers = [int(x.layers(stage)) for stage in range(pp)]
    assert sum(layers) == n_layer and max(layers) - min(layers) <= 1
    assert layers[-1] == min(layers)
    assert layers[0] == layers[-1] or set(layers[:-1]) == {layers[0]}


def test_stages_filled_by_cost_count_the_output_table():
    """nanotron's rule, walked block by block for a model whose table is as much as four of its sixteen layers."""
    config = Config(vocab_size=131072, d_model=2048, n_layer=16, n_head=32, d_ff=8192, max_seq=8, mlp="swiglu")

    def filled(pp: int) -> Sizes:
        return Sizes(config, Layout(pp=pp), 1, 8, 2, 2, by_cost=True)

    assert [int(filled(8).layers(stage)) for stage in range(8)] == [3, 3, 2, 3, 2, 3, 0, 0]
    assert [int(filled(2).layers(stage)) for stage in range(2)] == [11, 5]
    # of 16 stages the 13th has the table, one more the logits' cast and one the loss
    assert [int(filled(pp).empty_stages) for pp in (2, 8, 16)] == [0, 0, 1]


@pytest.mark.parametrize("config", [GPT3, LLAMA, EXPERTS])
def test_parameters_of_one_rank_are_the_models(config):
    # positions, norms and biases are left out: 3 thousandths of the smallest of these
    assert sizes(config, Layout()).params(0) == pytest.approx(config.n_param, rel=4e-3)


@pytest.mark.parametrize("config", [LLAMA, EXPERTS])
def test_ranks_share_the_parameters(config):
    layout = Layout(tp=2, pp=4)
    x, whole = sizes(config, layout), sizes(config, Layout())
    tables = config.vocab_size * config.d_model * config.tie_embeddings  # a tied table is held by both ends
    assert 2 * sum(x.params(stage) for stage in range(4)) == pytest.approx(whole.params(0) + tables)


def test_sharded_parameters_add_up_to_the_model_with_and_without_split_experts():
    whole = sizes(EXPERTS, Layout()).params(0)
    assert 8 * sizes(EXPERTS, Layout(dp=4, cp=2)).sharded_params(0) == pytest.approx(whole)
    assert 8 * sizes(EXPERTS, Layout(dp=4, cp=2, ep=4)).sharded_params(0) == pytest.approx(whole)
    assert sizes(EXPERTS, Layout(dp=4, cp=2, ep=4)).params(0) < whole / 2


@pytest.mark.parametrize("config", [GPT3, LLAMA, EXPERTS])
def test_flops_are_those_of_the_config(config):
    layout = Layout(dp=4, tp=2, microbatches=3)
    batch_tokens = 4 * 3 * 2 * 512
    assert sizes(config, layout).model_flops == pytest.approx(config.flops_per_token(512) * batch_tokens, rel=1e-12)
