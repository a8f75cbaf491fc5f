"""The optimizer explorer: its paths are the optimizers' own, and every slider moves them."""

from __future__ import annotations

import pytest
import torch

from llmlab.plot.surfaces import heights
from llmlab.widgets.optimizers import OPTIMIZERS, SURFACES, descend, optimizer_explorer


def last(surface, optimizer, lr, **more):
    return heights(SURFACES[surface].height, descend(surface, optimizer, lr, **more))[-1]


def test_a_path_is_that_of_torchs_own_optimizer():
    place = torch.tensor([-1.5, 2.0], dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.Adam([place], lr=0.1, betas=(0.5, 0.999))
    for point in descend("bent valley", "Adam", 0.1, momentum=0.5, steps=20):
        assert point == pytest.approx(place.tolist(), rel=1e-9)
        theirs.zero_grad()
        ((1 - place[0]) ** 2 + 10 * (place[1] - place[0] ** 2) ** 2).backward()
        theirs.step()


def test_in_the_ravine_gradient_descent_settles_below_two_over_the_curvature_and_leaves_above():
    assert last("ravine", "gradient descent", 0.0199) < 2 < 1e6 < last("ravine", "gradient descent", 0.03)


def test_momentum_beats_gradient_descent_in_the_ravine():
    assert last("ravine", "momentum", 0.01) < last("ravine", "gradient descent", 0.019) / 100


def test_noise_keeps_a_constant_rate_from_settling_and_is_the_same_each_time():
    noisy = descend("bent valley", "Adam", 0.2, noise=2.0)
    assert noisy == descend("bent valley", "Adam", 0.2, noise=2.0)
    assert last("bent valley", "Adam", 0.2) < 1e-3 < last("bent valley", "Adam", 0.2, noise=2.0)


@pytest.mark.parametrize("name", SURFACES)
def test_every_surface_ends_at_zero_and_no_start_is_there(name):
    surface = SURFACES[name]
    lowest = min(last(name, optimizer, lr, steps=300) for optimizer in OPTIMIZERS for lr in (0.01, 0.05))
    assert lowest == pytest.approx(0, abs=1e-3) and surface.height(*surface.start) > 1
    (left, right), (low, high) = surface.box
    assert left < surface.start[0] < right and low < surface.start[1] < high


def test_every_slider_changes_the_sentence(displayed):
    box = optimizer_explorer(optimizer="momentum", lr=0.01)
    *sliders, view, said = box.children
    assert [slider.description for slider in sliders] == [
        "surface", "optimizer", "learning rate", "momentum, β₁", "noise",
    ]  # fmt: skip
    for slider in sliders:
        before = said.value
        slider.index = slider.index + 1
        assert said.value != before and view.value
        slider.index = slider.index - 1
        assert said.value == before
    assert displayed[0]["text/plain"].startswith("Height after 100 steps: momentum from 20.5 to")


@pytest.mark.parametrize("wrong", [{"surface": "moon"}, {"optimizer": "Lion"}, {"lr": 0.3}])
def test_a_start_that_is_no_choice_is_refused(wrong, displayed):
    with pytest.raises(ValueError, match="is one of"):
        optimizer_explorer(**wrong)
    if "lr" not in wrong:
        with pytest.raises(ValueError, match="wants one of"):
            descend(**{"surface": "ravine", "optimizer": "Adam", "lr": 0.1} | wrong)
