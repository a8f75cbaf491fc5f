"""Curves and bars: losses, counts, times, and the latency-bandwidth model of a message."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from llmlab.arguments import choice, flag, function, instance, numbers, table
from llmlab.arguments import listing as as_list
from llmlab.hardware import Link
from llmlab.measuring import CLOCKS
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import (
    CLOCK_LINE,
    SOLID,
    caption,
    fill_style,
    line_style,
    listing,
    say_bytes,
    say_seconds,
    three_digits,
)  # fmt: skip

Values = Sequence[float]
Say = Callable[[float], str]


@styled
def losses(curves: Mapping[str, Values | Mapping[int, float]], figure: Picture | None = None) -> Picture:
    """Draw loss against step, a line per name: a list from step 1 on, or {step: loss}, as for a validation loss.

    Equal curves stay visible: the later are thinner and lie on top.
    """
    table("losses", "curves", curves, "{name: losses}")
    by_step = {name: _by_step(name, values) for name, values in curves.items()}
    _nonempty("losses", by_step)
    figure = canvas(figure, (9, 4.6))
    axes = figure.subplots()
    for i, (name, values) in enumerate(by_step.items()):
        every = max(1, len(values) // 8)
        width = 2 + 2.5 * min(2, len(curves) - 1 - i)  # a thin line on a thick one: both are seen
        where = (i * every // len(curves), every)
        axes.plot(
            list(values), list(values.values()), linewidth=width, label=name, markevery=where,
            **{**line_style(i), "markersize": width + 5},
        )  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.legend()
    return finish(figure, describe_losses(by_step))


def describe_losses(curves: Mapping[str, Mapping[int, float]]) -> str:
    """Say where each loss starts and ends, to three decimals (later ones differ between processors)."""
    said = []
    for name, values in curves.items():
        first, last = min(values), max(values)
        said.append(f"{name} from {values[first]:.3f} at step {first} to {values[last]:.3f} at step {last}")
    text = f"Loss: {listing(said)}"
    if len(curves) > 1 and len({tuple(values) for values in curves.values()}) == 1:  # the same steps
        spread = max(max(at) - min(at) for at in zip(*(v.values() for v in curves.values()), strict=True))
        text += f"; the curves differ by at most {spread:.3f}"
    return text + "."


def _by_step(name: str, values: Values | Mapping[int, float]) -> Mapping[int, float]:
    steps = values.keys() if isinstance(values, Mapping) else None
    found = numbers("losses", name, values.values() if isinstance(values, Mapping) else values)
    return dict(enumerate(found, start=1)) if steps is None else dict(zip(steps, found, strict=True))


@styled
def lines(
    curves: Mapping[str, tuple[Values, Values]],
    xlabel: str,
    ylabel: str,
    *,
    clock: str | Mapping[str, str] = "",
    hardware: str = "",
    log: bool = False,
    say_x: Say = three_digits,
    say_y: Say = three_digits,
    figure: Picture | None = None,
) -> Picture:
    """Draw curves {name: (x, y)}, each with its marker.

    clock: "wall" for measured, "virtual" for modelled, "" for a count or a formula; one for all, or by name.
    say_x, say_y: how a value is written at the ticks and in the sentence, such as `say_bytes`.
    """
    table("lines", "curves", curves, "{name: (x, y)}")
    curves = {name: _pair("lines", name, pair) for name, pair in curves.items()}
    flag("lines", "log", log)
    for name, say in (("say_x", say_x), ("say_y", say_y)):
        function("lines", name, say, "value")
    for kind in [clock] if isinstance(clock, str) else table("lines", "clock", clock, "{name: clock}").values():
        choice("lines", "clock", kind, ("", *CLOCKS))
    figure = canvas(figure, (9, 4.8))
    axes = figure.subplots()
    clocks = {name: clock if isinstance(clock, str) else clock.get(name, "") for name in curves}
    for i, (name, (x, y)) in enumerate(curves.items()):
        _line(axes, name, x, y, clocks[name], i)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            _few_ticks(axis)
    _axes(axes, xlabel, ylabel, say_x, say_y)
    below = "\n".join(caption(hardware, kind) for kind in sorted(set(clocks.values()) - {""}))
    return finish(figure, describe_lines(curves, xlabel, ylabel, clocks, say_x, say_y), below)


def describe_lines(
    curves: Mapping[str, tuple[Values, Values]],
    xlabel: str,
    ylabel: str,
    clocks: Mapping[str, str],
    say_x: Say = three_digits,
    say_y: Say = three_digits,
) -> str:
    """Say where each curve starts and ends; of measured ones, only that they are there."""
    said = []
    for name, (x, y) in curves.items():
        if clocks.get(name) == "wall":
            said.append(f"{name}, measured")
        else:
            word = f", {CLOCKS[clocks[name]]}," if clocks.get(name) else ""
            said.append(f"{name}{word} {say_y(y[0])} at {say_x(x[0])} and {say_y(y[-1])} at {say_x(x[-1])}")
    return f"{ylabel} against {xlabel}: {'; '.join(said)}."


@styled
def bars(
    values: Mapping[str, float | Values],
    ylabel: str,
    *,
    clock: str = "",
    hardware: str = "",
    note: str = "",
    figure: Picture | None = None,
) -> Picture:
    """Draw a bar per name, from zero; of repeats their median, with a dot for each.

    Measured bars have a solid edge, modelled ones a dashed edge, and the caption says which and on what.
    """
    table("bars", "values", values, "{name: value or values}")
    choice("bars", "clock", clock, ("", *CLOCKS))
    values = {name: _heights(name, value) for name, value in values.items()}
    _nonempty("bars", values)
    figure = canvas(figure, (9, 4.6))
    axes = figure.subplots()
    edge, highest = "--" if clock == "virtual" else SOLID, 0.0
    for i, (name, value) in enumerate(values.items()):
        repeats = list(value) if isinstance(value, Sequence) else [value]
        middle = median(repeats)
        style = {**fill_style(i), "edgecolor": "black", "linewidth": 1.8, "linestyle": edge}
        axes.bar(i, middle, 0.6, label=name, **style)
        if len(repeats) > 1:
            axes.plot([i + 0.36] * len(repeats), repeats, "o", color="black", markersize=5, clip_on=False)
        highest = max([highest, *repeats])
        axes.annotate(three_digits(middle), (i, middle), (0, 5), textcoords="offset points", ha="center", fontsize=13)
    axes.set_xticks(range(len(values)), list(values))
    axes.set_ylabel(ylabel)
    axes.set_ylim(0, 1.12 * highest or 1.0)
    below = caption(hardware, clock, note=note) if clock else note
    return finish(figure, describe_bars(values, ylabel, clock), below)


def describe_bars(values: Mapping[str, float | Values], ylabel: str, clock: str = "") -> str:
    """Say the height of each bar; of measured ones, only their names."""
    if clock == "wall":
        return f"Bars of {ylabel}, measured: {'; '.join(values)}."
    heights = {name: median(value) if isinstance(value, Sequence) else value for name, value in values.items()}
    word = f", {CLOCKS[clock]}" if clock else ""
    return f"Bars of {ylabel}{word}: {'; '.join(f'{name} {three_digits(h)}' for name, h in heights.items())}."


@styled
def alpha_beta(
    points: Mapping[str, Sequence[tuple[float, float]]],
    fits: Mapping[str, tuple[float, float] | Link],
    *,
    clock: str = "wall",
    hardware: str = "",
    figure: Picture | None = None,
) -> Picture:
    """Draw message times and the latency-bandwidth model: seconds = alpha + beta x bytes (Hockney 1994).

    points: (bytes, seconds) by name. fits: by name, (alpha in seconds, beta in seconds per byte) or a Link. Both axes
    are logarithmic; the vertical mark is at alpha / beta bytes, where latency and bandwidth cost the same.
    """
    choice("alpha_beta", "clock", clock, CLOCKS)
    for name, given in (("points", points), ("fits", fits)):
        instance("alpha_beta", name, given, Mapping, "{name: ...}")
    for name, pairs in points.items():
        for pair in as_list("alpha_beta", name, pairs, "(bytes, seconds)"):
            if len(numbers("alpha_beta", f"the points of {name}", pair)) != 2:
                raise ValueError(f"alpha_beta wants the points of {name} as (bytes, seconds); got {pair!r}")
    _nonempty("alpha_beta", {**points, **fits})
    figure = canvas(figure, (9, 5))
    axes = figure.subplots()
    sizes = [n for pairs in points.values() for n, _ in pairs if n > 0] or [1.0, 1e9]
    names = list(dict.fromkeys([*points, *fits]))
    for i, name in enumerate(names):
        style = line_style(i)
        if name in points:
            x, y = zip(*points[name], strict=True)
            axes.plot(x, y, linestyle="none", label=f"{name}: {CLOCKS[clock]}", **style)
        if name in fits:
            alpha, beta = _latency_and_slope(fits[name])
            grid = [min(sizes) * (max(sizes) / min(sizes)) ** (j / 200) for j in range(201)]
            rate = f"{say_seconds(alpha)} + bytes / ({say_bytes(1 / beta)}/s)"
            axes.plot(
                grid, [alpha + beta * n for n in grid], linestyle=CLOCK_LINE["virtual"], linewidth=2.2,
                color=style["color"], label=f"{name}: modelled, {rate}",
            )  # fmt: skip
            if min(sizes) < alpha / beta < max(sizes):
                axes.axvline(alpha / beta, color=style["color"], linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_yscale("log")
    _axes(axes, "message size", "time", say_bytes, say_seconds)
    half = "Dotted: where latency and bandwidth cost the same."
    below = caption(hardware, clock, note=half) if points else half
    return finish(figure, describe_alpha_beta(points, fits, clock), below)


def describe_alpha_beta(
    points: Mapping[str, Sequence[tuple[float, float]]], fits: Mapping[str, tuple[float, float] | Link], clock: str
) -> str:
    """Say what was drawn. A fit to measured points differs from run to run, so its numbers are on the figure only."""
    said = []
    for name in dict.fromkeys([*points, *fits]):
        parts = [f"{len(points[name])} sizes {CLOCKS[clock]}"] if name in points else []
        if name in fits:
            alpha, beta = _latency_and_slope(fits[name])
            parameters = f"{say_seconds(alpha)} and {say_bytes(1 / beta)} a second, alike at {say_bytes(alpha / beta)}"
            exact = name not in points or clock == "virtual"
            parts.append(f"modelled as {parameters}" if exact else "the latency-bandwidth model fitted to them")
        said.append(f"{name}, {' and '.join(parts)}")
    return f"Message time against size: {'; '.join(said)}."


def _latency_and_slope(fit: tuple[float, float] | Link) -> tuple[float, float]:
    if isinstance(fit, Link):
        return fit.latency_s, 1 / (fit.bytes_per_s * fit.efficiency)
    if len(numbers("alpha_beta", "a fit", fit)) != 2:
        raise ValueError(f"alpha_beta wants a fit as (seconds, seconds per byte) or a Link; got {fit!r}")
    alpha, beta = fit
    if not (alpha >= 0 and beta > 0):
        raise ValueError(f"a fit wants alpha >= 0 seconds and beta > 0 seconds per byte, got {alpha} and {beta}")
    return alpha, beta


def _line(axes: Axes, name: str, x: Values, y: Values, clock: str, i: int) -> None:
    word = f": {CLOCKS[clock]}" if clock else ""
    every = 1 if clock == "wall" or len(x) <= 12 else max(1, len(x) // 8)
    axes.plot(
        x, y, linestyle=CLOCK_LINE.get(clock, SOLID), linewidth=2.2, label=name + word, markevery=every, **line_style(i)
    )  # fmt: skip


def _few_ticks(axis: Axis) -> None:
    """On an axis of one or two decades also write 2 and 5 between the powers of ten, and nothing else."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_minor_formatter(NullFormatter())


def _axes(axes: Axes, xlabel: str, ylabel: str, say_x: Say, say_y: Say) -> None:
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.xaxis.set_major_formatter(lambda value, _: say_x(value))
    axes.yaxis.set_major_formatter(lambda value, _: say_y(value))
    axes.grid()
    axes.legend(fontsize=11)


def _pair(call: str, name: str, pair: tuple[Values, Values]) -> tuple[list[float], list[float]]:
    """x and y of one curve, of one length."""
    both = as_list(call, name, pair, "x and y")
    found = [numbers(call, f"x and y of {name}", values) for values in both]
    if len(found) != 2 or len(found[0]) != len(found[1]) or not found[0]:
        raise ValueError(f"{call} wants {name} as (x, y) of one length of at least 1; got lengths {[*map(len, found)]}")
    return found[0], found[1]


def _heights(name: str, value: float | Values) -> float | list[float]:
    """One number, or the repeats."""
    if isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0:
        return numbers("bars", name, value)
    return numbers("bars", name, [value])[0]


def _nonempty(what: str, values: Mapping[str, object]) -> None:
    empty = [name for name, value in values.items() if isinstance(value, Sequence | Mapping) and not len(value)]
    if not values or empty:
        raise ValueError(f"{what} wants at least one name, each with values, got {empty or 'none'}")
