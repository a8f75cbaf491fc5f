"""Model, optimizers, training, generation and scores called wrongly: each time one clear error."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.model.bad_calls import CALLS


@pytest.fixture(scope="module")
def said():
    found = subprocess.run([sys.executable, "-m", "tests.model.bad_calls"], capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


@pytest.mark.parametrize("i", range(len(CALLS)))
def test_a_wrong_call_is_refused_with_rule_and_value(said, i):
    assert CALLS[i][1] in str(said[i])


def test_a_near_miss_is_named(said):
    assert sum("did you mean 'rotary'" in str(text) for text in said) == 1
