"""A loss curve that grows while a cell trains, beside its progress bar."""

from __future__ import annotations

import time
from typing import Any

import ipywidgets as W
from IPython.display import display
from tqdm.auto import tqdm

from llmlab.plot import losses, show
from llmlab.plot.picture import Picture, image

HEIGHT = 460  # pixels of the picture of a loss


class LiveCurve:
    """Draw losses as they come: `with LiveCurve(60) as live: ... live.add(train=loss)`, once a step.

    The growing picture is one widget whose value changes, so nothing flickers and no output piles up; at the end the
    final picture takes its place, with its sentence, the same on every run of the same losses. Drawing takes at most a
    fifth of the time. `curves` is what `plot.losses` takes: {name: {step: loss}}.
    """

    def __init__(self, steps: int, title: str = "training", every_s: float = 0.25):
        if steps < 1:
            raise ValueError(f"LiveCurve wants steps of at least 1, got {steps}")
        self.steps, self.title, self.every_s = steps, title, every_s
        self.step = 0
        self.curves: dict[str, dict[int, float]] = {}
        self.draws = 0
        self._figure = Picture(layout="constrained")
        self._view = W.HTML(layout=W.Layout(min_height=f"{HEIGHT}px"))  # what stands below does not jump
        self._next = 0.0

    def __enter__(self) -> LiveCurve:
        self._bar = tqdm(total=self.steps, desc=self.title, unit="step")  # above what grows
        live = self._view._repr_mimebundle_()["application/vnd.jupyter.widget-view+json"]
        display({"application/vnd.jupyter.widget-view+json": live, "text/plain": f"{self.title}: live"}, raw=True)
        return self

    def add(self, **values: float) -> None:
        """Count one step, and put each loss on the curve of its name; a name may miss steps."""
        self.step += 1
        for name, value in values.items():
            self.curves.setdefault(name, {})[self.step] = float(value)
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in values.items()}, refresh=False)
        self._bar.update()
        if self.curves and time.perf_counter() >= self._next:
            self._draw()

    def __exit__(self, *error: Any) -> None:
        self._bar.close()
        self._view.layout.display = "none"
        self._view.value = ""
        if self.curves:  # an interrupted training shows how far it came
            show(losses(self.curves))

    def _draw(self) -> None:
        start = time.process_time()
        losses(self.curves, figure=self._figure)
        self._view.value = image(self._figure, self._figure.alt)
        self.draws += 1
        spent = time.process_time() - start
        self._next = time.perf_counter() + max(self.every_s, 4 * spent)
