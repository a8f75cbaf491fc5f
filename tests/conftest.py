"""What every test starts from: the same random numbers, no GPU test where there is no GPU, no run without an end."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import hypothesis
import jaxtyping
import numpy
import pytest

# Read when torch loads, here and in the kernels of notebooks: workers of pytest that each used every core would wait
# for one another, and a cell of ten seconds would take a minute.
if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Property tests time ranks that share two cores with everything else: a slow example is not a failure.
hypothesis.settings.register_profile("llmlab", deadline=None, derandomize=True, database=None, print_blob=True)
hypothesis.settings.load_profile("llmlab")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Seed torch, numpy and Python alike before each test, so that no test depends on which ran before it."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def checked_shapes(request: pytest.FixtureRequest) -> Iterator[None]:
    """Check the shapes in signatures; of a test of many cases in the first few only: it takes a third of the time."""
    case = getattr(request.node, "callspec", None)
    late = case is not None and sum(case.indices.values()) >= 3
    jaxtyping.config.update("jaxtyping_disable", late)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Have SIGINT raise KeyboardInterrupt, also where pytest was started with it ignored (`pytest &`, nohup)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_testnodedown(node: object, error: object) -> None:
    """End the run when a process of pytest-xdist's dies: with --dist=loadfile it would wait for its files for ever."""
    if error:
        pytest.exit(f"a test process died ({error}); what it ran is above", returncode=1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where torch finds no CUDA device; `-ra` prints the reason."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device"))
