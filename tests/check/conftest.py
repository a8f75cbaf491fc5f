"""Each test meets checks that have seen no wrong answer yet."""

from __future__ import annotations

import pytest

from llmlab.check.hints import begin_again


@pytest.fixture(autouse=True)
def no_wrong_answers_yet():
    begin_again()
