"""Which way down? Sliders on the paths that the optimizers of `llmlab.optim` take over a surface of two parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ipywidgets as W
import torch
from torch import Tensor

from llmlab import optim
from llmlab.plot import Picture, explore
from llmlab.plot.surfaces import Box, Path, descent
from llmlab.widgets.sliders import choice


@dataclass(frozen=True)
class Surface:
    """A height over the plane, where paths begin, and what is drawn of it."""

    height: Callable[[Any, Any], Any]  # of (x, y), numbers, arrays or tensors
    start: tuple[float, float]
    box: Box


SURFACES = {
    # a hundred times as curved across as along
    "ravine": Surface(lambda x, y: (x**2 + 100 * y**2) / 2, (-4.0, 0.5), ((-4.6, 4.6), (-0.8, 0.8))),
    # Rosenbrock 1960, with 10 in place of his 100; the lowest point is (1, 1)
    "bent valley": Surface(lambda x, y: (1 - x) ** 2 + 10 * (y - x**2) ** 2, (-1.5, 2.0), ((-2, 2), (-1, 3))),
    # flat in the middle; it falls to both sides of y = 0, to -1 at y = ±√2, and is lifted to end at 0
    "saddle": Surface(lambda x, y: x**2 - y**2 + y**4 / 4 + 1, (-1.8, 0.02), ((-2.2, 2.2), (-2.2, 2.2))),
}

Maker = Callable[[list[Tensor], float, float], torch.optim.Optimizer]  # (parameters, learning rate, momentum)
OPTIMIZERS: dict[str, Maker] = {
    "gradient descent": lambda p, lr, beta: optim.SGD(p, lr),
    "momentum": lambda p, lr, beta: optim.SGD(p, lr, momentum=beta),
    "Nesterov": lambda p, lr, beta: optim.SGD(p, lr, momentum=beta, nesterov=beta > 0),
    "RMSprop": lambda p, lr, beta: optim.RMSprop(p, lr),
    "Adam": lambda p, lr, beta: optim.Adam(p, lr, betas=(beta, 0.999)),
}
RATES = [0.001, 0.003, 0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0]


def descend(
    surface: str, optimizer: str, lr: float, momentum: float = 0.9, noise: float = 0.0, steps: int = 100
) -> Path:
    """Give the points an optimizer steps on. `noise`: the standard deviation of what is added to each gradient.

    Raises ValueError for a surface or an optimizer that is not known.
    """
    for what, name, known in (("surface", surface, SURFACES), ("optimizer", optimizer, OPTIMIZERS)):
        if name not in list(known):
            raise ValueError(f"{what} wants one of {', '.join(known)}; got {name!r}")
    place = torch.tensor(SURFACES[surface].start, dtype=torch.float64, requires_grad=True)
    takes_a_step = OPTIMIZERS[optimizer]([place], lr, momentum)
    generator = torch.Generator().manual_seed(0)
    path = [place.tolist()]
    for _ in range(steps):
        takes_a_step.zero_grad()
        SURFACES[surface].height(*place).backward()
        assert place.grad is not None  # backward has just made it
        place.grad += noise * torch.randn(2, generator=generator, dtype=torch.float64)
        takes_a_step.step()
        path.append(place.tolist())
    return path


def optimizer_explorer(surface: str = "ravine", optimizer: str = "gradient descent", lr: float = 0.01) -> W.VBox:
    """Explore the path of one optimizer: surface, rate, momentum (Adam's β₁), and noise as of small batches."""

    def draw(figure: Picture, surface: str, optimizer: str, lr: float, momentum: float, noise: float) -> None:
        ground = SURFACES[surface]
        descent(ground.height, {optimizer: descend(surface, optimizer, lr, momentum, noise)}, ground.box, figure)

    return explore(
        draw,
        surface=choice("surface", list(SURFACES), surface),
        optimizer=choice("optimizer", list(OPTIMIZERS), optimizer),
        lr=choice("learning rate", RATES, lr),
        momentum=choice("momentum, β₁", [0.0, 0.5, 0.9, 0.97], 0.9),
        noise=choice("noise", [0.0, 0.5, 2.0, 5.0], 0.0),
    )
