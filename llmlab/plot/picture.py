"""A figure, the sentence that says what it shows, and the two ways to put both into a notebook.

Never pyplot: a kept Figure is drawn to PNG, so nothing is shown twice, nothing leaks, and tests need no display. The
PNG is for eyes; the sentence is read by screen readers and by whoever has no picture, and compared by nbval.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, signature
from typing import Any, ParamSpec

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from llmlab.arguments import function, instance, real, string
from llmlab.plot.style import GREY, RC

DPI, CSS_DPI = 150, 100  # drawn at, and shown at: sharp where a screen or a projector has the pixels
# Dots an inch and colours of a picture: no eye tells a palette of its own from all colours, at two fifths of the bytes.
# The next is for one that would weigh down a notebook.
QUALITIES, MOST_BYTES = ((DPI, 256), (DPI, 64), (110, 64), (80, 64)), 60_000
SCREEN = 5.8  # inches, shown at CSS_DPI: a taller picture is cut by a projector of 1280 x 720
WORDS = ("hardware", "note", "xlabel", "ylabel", "title", "below")
P = ParamSpec("P")


def styled(plot: Callable[P, Picture]) -> Callable[P, Picture]:
    """Let a plot function draw in this project's style, whatever the notebook has set, and take words for words.

    It takes `height=` too, in inches of 100 pixels of a page; without it a picture is as tall as it wants to be, up to
    one screen of a projector.
    """
    parameters = signature(plot)
    height = Parameter("height", Parameter.KEYWORD_ONLY, default=None, annotation="float | None")

    @wraps(plot)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Picture:
        if (inches := kwargs.pop("height", None)) is not None:
            bound = parameters.bind_partial(*args, **kwargs)
            kept = bound.arguments.get("figure") or Picture(dpi=DPI, layout="constrained")
            kept.height = real(plot.__name__, "height", inches, above=0)
            bound.arguments["figure"] = kept
            args, kwargs = bound.args, bound.kwargs  # type: ignore[assignment]
        for name, value in parameters.bind_partial(*args, **kwargs).arguments.items():
            if name in WORDS:
                string(plot.__name__, name, value)
        with matplotlib.rc_context(RC):
            return plot(*args, **kwargs)

    named = list(parameters.parameters.values())
    end = next((i for i, each in enumerate(named) if each.kind is Parameter.VAR_KEYWORD), len(named))
    draw.__signature__ = parameters.replace(parameters=[*named[:end], height, *named[end:]])  # type: ignore[attr-defined]
    return draw


class Picture(Figure):
    """A matplotlib Figure with its sentence, `alt`. Left as a cell's last line, it shows itself with it."""

    alt: str = ""
    height: float | None = None  # inches, if the reader has chosen them

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        return bundle(self, self.alt or repr(self))


def canvas(figure: Picture | None = None, size: tuple[float, float] = (9, 4.5)) -> Picture:
    """Give an empty figure: a new Picture, or the one given, cleared. Of `size` inches, but no taller than a screen."""
    if figure is None:
        figure = Picture(dpi=DPI, layout="constrained")
    else:
        instance("a plot", "figure", figure, Picture, "leave it out, or give an earlier plot's")
        figure.clear()
    figure.set_size_inches(size[0], figure.height or min(size[1], SCREEN))
    return figure


def finish(figure: Picture, alt: str, below: str = "") -> Picture:
    """Put the caption under a figure and its sentence on it."""
    if below:
        figure.supxlabel(below, fontsize=10.5, color=GREY, x=0.01, ha="left")
    figure.alt = alt
    return figure


def png(figure: Figure) -> str:
    """Draw a figure and give its PNG in base64, coarser where it would be over 60 kB."""
    before, dpi = figure.canvas, figure.dpi
    for quality, colours in QUALITIES:
        figure.set_dpi(quality)
        canvas = FigureCanvasAgg(figure)
        with matplotlib.rc_context(RC):
            canvas.draw()
        pixels = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
        file = io.BytesIO()
        pixels.quantize(colours, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, "png")
        if file.tell() <= MOST_BYTES:
            break
    figure.set_dpi(dpi)
    figure.set_canvas(before)
    return base64.b64encode(file.getvalue()).decode()


def bundle(figure: Figure, alt: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the data and metadata that a notebook stores: the PNG for eyes, the sentence for everything else."""
    return {"image/png": png(figure), "text/plain": alt}, {"image/png": {"alt": alt, "width": css_width(figure)}}


def show(figure: Figure, alt: str | None = None) -> None:
    """Display a figure with its sentence (by default the one its plot function wrote)."""
    from IPython.display import display

    instance("show", "figure", figure, Figure, "what a plot function gives")
    data, metadata = bundle(figure, _sentence(figure, alt))
    display(data, metadata=metadata, raw=True)


def explore(draw: Callable[..., Any], alt: str | Callable[..., str] | None = None, **controls: Any) -> Any:
    """Display a figure that follows sliders: `explore(draw, alt, ranks=W.IntSlider(4))` calls draw(figure, ranks=4).

    draw: draws into the figure it is given (every function of llmlab.plot does, with `figure=`).
    alt: the sentence, a function of the same values, or None for the one that draw left on the figure.
    A reader without a kernel sees the first picture and its sentence. Returns the box, whose children are the controls.

    While a drawing is under way a browser keeps only the latest value of a slider (Jupyter's widgets send the next
    change when the last one was answered), so a fast drag does not queue up pictures.
    """
    import ipywidgets as W

    function("explore", "draw", draw, "figure, ...")
    for name, control in controls.items():
        instance("explore", name, control, W.Widget, "such as ipywidgets.IntSlider(4)")
    figure, view, said = Picture(dpi=DPI, layout="constrained"), W.HTML(), W.HTML()

    def redraw(change: Any = None) -> None:
        values = {name: control.value for name, control in controls.items()}
        figure.clear()
        figure.alt = ""
        with matplotlib.rc_context(RC):
            draw(figure, **values)
        figure.alt = _sentence(figure, alt(**values) if callable(alt) else alt)
        view.value, said.value = image(figure, figure.alt), status(figure.alt)

    redraw()
    for control in controls.values():
        control.observe(redraw, names="value")
    # side by side where the window is wide enough; no scrollbar for the last pixels
    for below in (view, said):
        below.layout.width, below.layout.margin = "100%", "0"
    box = W.VBox([*controls.values(), view, said], layout=W.Layout(flex_flow="row wrap", overflow="visible"))
    show_live(box, figure, figure.alt)
    return box


def show_live(widget: Any, figure: Figure, alt: str) -> None:
    """Display a widget in one bundle with the picture and the sentence that stand for it where no kernel runs."""
    from IPython.display import display

    data, metadata = bundle(figure, alt)
    live = widget._repr_mimebundle_()["application/vnd.jupyter.widget-view+json"]
    display({"application/vnd.jupyter.widget-view+json": live, **data}, metadata=metadata, raw=True)


def image(figure: Figure, alt: str) -> str:
    """Give a figure as an HTML image with its sentence."""
    size = f'width="{css_width(figure)}" style="max-width:100%"'
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{png(figure)}" {size}>'


def css_width(figure: Figure) -> int:
    """Pixels of a page that a figure is shown in; a narrower page shrinks it."""
    return round(figure.get_figwidth() * CSS_DPI)


def status(sentence: str) -> str:
    """Give a sentence as HTML that a screen reader speaks when it changes."""
    return f'<p role="status" aria-live="polite" style="line-height:1.4;max-width:56em">{html.escape(sentence)}</p>'


def _sentence(figure: Figure, alt: str | None) -> str:
    sentence = alt or getattr(figure, "alt", "")
    if not sentence:
        raise ValueError("a figure wants a sentence that says what it shows, got none: pass alt=...")
    return sentence
