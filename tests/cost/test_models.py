"""The table of published models: each counts the parameters its source counts, and is found by its name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmlab.cost.models import find_config, find_model, model_names
from llmlab.model import Config


@pytest.mark.parametrize("name", model_names())
def test_a_model_has_the_parameters_its_source_counts(name):
    model = find_model(name)
    assert model.source
    if model.published_params is None:  # a size of this course's own
        assert model.source == "this course"
    else:  # the row's tolerance: 0 where the weights' file was counted, else what was rounded or the note leaves out
        assert abs(model.config.n_param / model.published_params - 1) <= model.tolerance


def test_most_counts_of_weight_files_are_exact_and_one_layer_more_would_be_seen():
    exact = [model for model in map(find_model, model_names()) if model.published_params and not model.tolerance]
    assert len(exact) >= 15
    for model in exact:
        assert replace(model.config, n_layer=model.config.n_layer + 1).n_param != model.published_params


def test_a_loose_tolerance_says_why():
    loose = [model for model in map(find_model, model_names()) if model.tolerance > 0.02]
    assert [model.name for model in loose] == ["deepseek-moe-16b"] and "first layer is dense" in loose[0].note


def test_names_are_unique_and_forgiving():
    names = model_names()
    assert len(set(names)) == len(names) > 50
    assert find_config("LLaMA-3 70B") == find_config("llama3_70b") == find_config("llama3-70b")
    assert isinstance(find_config("gpt2"), Config)


def test_experts_are_counted_and_few_are_active():
    mixtral, deepseek = find_config("mixtral-8x7b"), find_config("deepseek-moe-16b")
    assert (mixtral.n_expert, mixtral.n_expert_active, mixtral.n_expert_shared) == (8, 2, 0)
    assert (deepseek.n_expert, deepseek.n_expert_active, deepseek.n_expert_shared) == (64, 6, 2)
    assert mixtral.flops_per_token(1) / 6 < 0.3 * mixtral.n_param


def test_an_unknown_model_is_refused_with_the_nearest_names():
    with pytest.raises(ValueError, match="no published model is called 'lama3-70'; did you mean llama3-70b or"):
        find_config("lama3-70")
    with pytest.raises(ValueError, match="called '[?]+'; known are classroom, nanogpt-shakespeare"):
        find_config("???")
