"""Models that no engine here runs: their parameters, FLOPs and caches against what their authors print."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from llmlab.cost import predict
from llmlab.cost.model_sizes import ModelSizes
from llmlab.cost.models import find_config, find_model, find_sizes, model_names
from llmlab.cost.planning import plan
from llmlab.cost.sizes import Sizes
from llmlab.parallel.layout import Layout

BEYOND = [name for name in model_names() if isinstance(find_model(name).config, ModelSizes)]
V3 = find_sizes("deepseek-v3")
ALONE = Layout()


def step(config, seq=4096, layout=ALONE, b=1):
    return Sizes(config, layout, b, seq, 2, 2)


@pytest.mark.parametrize("name", [name for name in BEYOND if find_model(name).published_active])
def test_a_token_goes_through_the_parameters_its_source_counts(name):
    model = find_model(name)
    # authors differ in whether the table of tokens counts, which is looked up and not multiplied
    without = model.config.n_active - model.config.vocab_size * model.config.d_model
    assert min(abs(n / model.published_active - 1) for n in (model.config.n_active, without)) < 0.03


@pytest.mark.parametrize("name", BEYOND)
def test_the_closed_form_holds_the_parameters_of_the_model(name):
    c = find_sizes(name)
    held = float(step(c).params(0))
    routers = c.n_mixture * c.d_model * c.n_expert
    assert abs(held + routers - c.n_param) < 1e-3 * c.n_param  # what is left are norms
    assert abs(held + routers - c.n_param) > 0  # and they are there


def test_latent_attention_has_the_weights_worked_out_by_hand():
    # DeepSeek-V3: queries 7168 x 1536 and 1536 x 128 x 192; keys 7168 x (512 + 64) and 512 x 128 x (128 + 128);
    # output 128 x 128 x 7168
    assert step(V3).attention_weights == 11_010_048 + 37_748_736 + 4_128_768 + 16_777_216 + 117_440_512


def test_a_token_of_deepseek_v3_takes_the_flops_its_authors_print():
    x = step(V3, 4096)
    causal = x.model_flops - 3 * V3.n_layer * x.core_flops / 2  # they count the half that is not masked
    assert causal / 4096 == pytest.approx(250e9, rel=0.003)  # Zhao et al. 2025 (arXiv:2505.09343), table 2


@pytest.mark.parametrize(
    ("name", "kilobytes"),
    [("deepseek-v3", 70.272), ("deepseek-v2", 69.12)],  # Zhao et al. 2025, table 1; 60 layers instead of 61
)
def test_a_latent_cache_has_the_printed_bytes(name, kilobytes):
    assert find_sizes(name).cache_numbers(1) * 2 == kilobytes * 1000


def test_a_window_ends_what_a_cache_grows_by():
    gemma = find_sizes("gemma3-27b")  # 62 layers, 10 of them full; 2 x 16 x 128 numbers a token
    assert gemma.cache_numbers(1024) == 62 * 4096 * 1024
    assert gemma.cache_numbers(131072) == 4096 * (10 * 131072 + 52 * 1024)
    assert replace(gemma, window=0).cache_numbers(131072) == 62 * 4096 * 131072


def test_pairs_within_a_window_are_those_of_the_mask():
    gemma = replace(find_sizes("gemma3-27b"), window=3, window_every=0)
    T = 8
    query, key = np.arange(T)[:, None], np.arange(T)
    seen = (key <= query) & (key > query - 3)
    # causal pairs count twice, less the diagonal's half, as T x T counts T^2 and not T (T + 1)
    assert step(gemma, T).attended * T == pytest.approx(2 * (seen.sum() - 3 / 2))
    assert step(replace(gemma, window=T), T).attended == T == step(replace(gemma, window=0), T).attended
    mixed = replace(gemma, window_every=4)
    assert step(mixed, T).attended == pytest.approx(T / 4 + 0.75 * step(gemma, T).attended)


def test_leading_dense_layers_make_the_first_stages_light_and_no_parameter_is_lost():
    c = replace(V3, n_layer=12, n_dense=4)
    for pp, v in ((1, 1), (3, 1), (4, 1), (6, 1), (3, 2)):
        schedule = "interleaved" if v > 1 else "1f1b"
        x = step(c, layout=Layout(pp=pp, microbatches=pp, virtual_stages=v, schedule=schedule))
        stages = [float(x.params(stage)) for stage in range(pp)]
        assert sum(stages) == pytest.approx(float(step(c).params(0)), rel=1e-9)
        if pp > 1:
            assert stages[0] < 0.8 * stages[-1]
    x = step(c, layout=Layout(pp=3, microbatches=3))  # four layers a stage: the first has none with experts
    dense = 4 * (float(x.attention_weights) + 3 * 7168 * 18432)
    assert float(x.params(0)) == pytest.approx(dense + 129280 * 7168)


def test_experts_in_every_second_layer_are_half_of_the_layers():
    c = find_sizes("llama4-maverick")
    x = step(c)
    assert x.mixtures == 0.5 and x.active_experts == 0.5
    # a shared expert of 8192 in one half, an MLP of 16384 in the other: 1.5 of 8192
    assert x.dense_mlps == pytest.approx(1.5)
    assert c.n_active < 0.05 * c.n_param


def test_what_the_engine_cannot_build_is_refused_and_priced():
    with pytest.raises(ValueError, match="is not run here; lab.predict and lab.plan price it by its name"):
        find_config("deepseek-v3")
    layout = Layout(dp=32, pp=16, ep=32, zero=1, microbatches=32)
    p = predict("deepseek-v3", layout, "h100", global_batch=32 * 32, seq=4096)
    assert 0.01 < p.mfu < 0.6 and p.breakdown["expert_parallel"] > 0
    best = plan("gpt-oss-20b", "h100", gpus=16, global_batch=64, seq=4096, limit=3)
    assert len(best) == 3 and best[0].layout.ranks == 16


def test_latents_are_kept_for_backward_and_not_split_over_tp():
    layout = Layout(tp=8, sequence_parallel=True)
    p = predict(V3, layout, "h100", global_batch=1, seq=4096, stack="ideal")
    plain = predict(replace(V3, q_lora_rank=1), layout, "h100", global_batch=1, seq=4096, stack="ideal")
    more = p.memory["activations"] - plain.memory["activations"]
    assert more == 2 * 2 * 4096 * 1535 * 61  # bytes, before and after the norm, tokens, widths, layers


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"n_expert": 0}, "n_expert_active wants 1 to n_expert=0, got 8"),
        ({"expert_every": 2}, "give one of them"),
        ({"n_dense": 62}, "n_dense wants at most n_layer=61, got 62"),
        ({"window": -1}, "window as a whole number of at least 0"),
        ({"expert_every": 0}, "expert_every as a whole number of at least 1"),
        ({"mlp": "mish"}, "mlp as one of"),
    ],
)
def test_sizes_that_make_no_model_are_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        replace(V3, **wrong)
