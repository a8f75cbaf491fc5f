"""Saved in one layout, loaded in another: the next losses and weights are those of a run that was never stopped."""

from __future__ import annotations

import os
from itertools import product

import pytest

import llmlab as lab
from llmlab.model.safetensors import read_safetensors
from tests.checkpoint.runs import DENSE, EXPERTS, LAYOUTS, SPREAD, go_on, ranks, save, undisturbed

# In CI each layout saves for one other and loads from one other; LLMLAB_PAIRS=all takes every pair.
NAMES = list(LAYOUTS)
SOME = [(name, NAMES[(5 * i + 3) % len(NAMES)]) for i, name in enumerate(NAMES)]
PAIRS = list(product(NAMES, NAMES)) if os.environ.get("LLMLAB_PAIRS") == "all" else SOME


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder that a layout has saved into; each saves once."""
    folders = {}

    def folder_of(name: str):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name.replace(" ", "-"))
            lab.Simulator(ranks=ranks(LAYOUTS[name]), kernels=False).run(save, LAYOUTS[name], folders[name])
        return folders[name]

    return folder_of


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=lambda name: name.replace(" ", "-"))
def test_a_run_goes_on_in_another_layout_as_if_never_stopped(saved, one: str, other: str) -> None:
    layout = LAYOUTS[other]
    results = lab.Simulator(ranks=ranks(layout), kernels=False).run(go_on, layout, saved(one)).results
    losses, weights = undisturbed()
    for found, state in results:
        # rounding of sums in another order, about 1e-16 each, over two steps of Adam
        assert found == pytest.approx(losses, rel=1e-11)
        assert list(state) == list(weights)
        for name, value in weights.items():
            assert (state[name] - value).abs().max() <= 1e-9 * max(1.0, float(value.norm())), name


def test_the_same_layout_goes_on_to_the_bit(saved) -> None:
    losses, weights = undisturbed("zero2 tp")
    simulator, layout = lab.Simulator(ranks=4, kernels=False), LAYOUTS["zero2 tp"]
    (found, state), *_ = simulator.run(go_on, layout, saved("zero2 tp")).results
    assert found == losses
    assert all(state[name].equal(value) for name, value in weights.items())


def test_experts_saved_by_real_processes_go_on_as_simulated_ranks(tmp_path) -> None:
    with lab.Processes(ranks=2) as workers:
        workers.run(save, SPREAD, tmp_path, EXPERTS)
        (losses, _), _ = workers.run(go_on, SPREAD, tmp_path, EXPERTS).results
    (found, _), *_ = lab.Simulator(ranks=4, kernels=False).run(go_on, LAYOUTS["zero1"], tmp_path, EXPERTS).results
    assert found == pytest.approx(losses, rel=1e-11)


def test_no_element_is_written_twice(saved) -> None:
    """Weights and Adam's two moments, 8 bytes each, and what random states take on each rank: no more."""
    numbers = sum(p.numel() for p in lab.Transformer(DENSE).parameters())
    for name in ("tp", "zero1 pp", "pp tp"):
        written = 0
        for file in lab.checkpoint.newest(saved(name)).glob("*.safetensors"):
            stored = read_safetensors(file)
            written += sum(stored[key].read().numel() for key in stored if not key.startswith("random/"))
        filling = 0 if "tp" not in name else DENSE.d_model  # a twentieth row, so that the table has two equal halves
        assert written == 3 * (numbers + filling)
