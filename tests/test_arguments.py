"""The checkers of arguments: what passes, what is refused, and in which words."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from llmlab import arguments


def test_a_count_is_any_kind_of_int_and_nothing_else():
    for value in (3, np.int64(3), np.uint8(3)):
        found = arguments.whole("f", "n", value, least=1)
        assert found == 3 and type(found) is int
    for value in (2.5, 3.0, True, "3", None, math.nan, torch.tensor(3), [3], 0, -1):
        with pytest.raises(ValueError, match="f wants n as a whole number of at least 1; got "):
            arguments.whole("f", "n", value, least=1)


def test_bounds_are_said_and_kept():
    assert arguments.real("f", "x", 1, least=0, below=2) == 1.0
    with pytest.raises(ValueError, match="f wants x as a number of at least 0 and below 1; got 1"):
        arguments.real("f", "x", 1, least=0, below=1)
    with pytest.raises(ValueError, match="f wants n as a whole number from 0 to 3; got 4"):
        arguments.whole("f", "n", 4, least=0, most=3)
    with pytest.raises(ValueError, match="above 0; got 0"):
        arguments.real("f", "x", 0, above=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None, 1j, [1.0], torch.tensor(1.0)])
def test_a_number_is_finite_and_real(value):
    with pytest.raises(ValueError, match="f wants x as a number; got"):
        arguments.real("f", "x", value)


def test_infinity_passes_where_it_is_meant():
    assert arguments.real("f", "x", math.inf, infinite=True) == math.inf


def test_a_flag_is_no_string_and_no_number():
    assert arguments.flag("f", "b", True) is True
    for value in ("no", "", 0, 1, None):
        with pytest.raises(ValueError, match="f wants b as True or False; got"):
            arguments.flag("f", "b", value)


def test_a_choice_names_what_was_nearly_said():
    assert arguments.choice("f", "how", "ring", ("ring", "tree")) == "ring"
    with pytest.raises(ValueError, match="one of 'ring', 'tree'; got 'rings'; did you mean 'ring'?"):
        arguments.choice("f", "how", "rings", ("ring", "tree"))
    with pytest.raises(ValueError, match="got True"):
        arguments.choice("f", "stage", True, (1, 2))


def test_an_object_of_another_class_is_named_by_its_class():
    with pytest.raises(ValueError, match="f wants model as a Module; got 'gpt2'; load it first"):
        arguments.instance("f", "model", "gpt2", nn.Module, "load it first")
    with pytest.raises(ValueError, match=r"got a Tensor of shape \(2, 3\)"):
        arguments.instance("f", "model", torch.ones(2, 3), nn.Module)
    with pytest.raises(ValueError, match="got a Linear$"):
        arguments.instance("f", "x", nn.Linear(2, 2), torch.Tensor)


def test_a_string_is_no_list():
    assert arguments.listing("f", "texts", ("a", "b")) == ["a", "b"]
    with pytest.raises(ValueError, match=r"f wants texts as a list of strings; got 'abc'; try \['abc'\]"):
        arguments.listing("f", "texts", "abc", "strings")
    with pytest.raises(ValueError, match="got 3"):
        arguments.listing("f", "texts", 3)


def test_a_long_value_is_cut():
    with pytest.raises(ValueError) as raised:
        arguments.whole("f", "n", "x" * 1000)
    assert len(str(raised.value)) < 120
