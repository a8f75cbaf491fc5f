"""Each mode of parallelism called wrongly: one clear error, the same on all ranks, simulated or real."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.parallel.bad_calls import CALLS


@pytest.fixture(scope="module")
def told():
    """What each call says: [engine][rank][call]."""
    made = subprocess.run(
        [sys.executable, "-m", "tests.parallel.bad_calls"], capture_output=True, text=True, check=True
    )
    return json.loads(made.stdout.splitlines()[-1])


@pytest.mark.parametrize("i", range(len(CALLS)))
def test_a_wrong_call_is_refused_with_rule_and_value_everywhere(told, i):
    said = {str(rank[i]) for engine in told for rank in engine}
    assert len(said) == 1 and CALLS[i][1] in said.pop()
