"""The roofline of a device: how fast a kernel can be at most, given how much it computes for each byte it moves.

Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model for multicore architectures".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log10

from matplotlib.axes import Axes

from llmlab.arguments import choice, instance, instances, numbers
from llmlab.cost.kernels import Kernel
from llmlab.hardware import Device
from llmlab.hardware.specs import DTYPES
from llmlab.measuring import CLOCKS
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import CLOCK_LINE, DOTTED, GREY, caption, line_style, listing, say_seconds, three_digits

Measured = Mapping[str, tuple[float, float, float]]  # name -> FLOPs, bytes, seconds
MEASURED = "{name: (FLOPs, bytes, seconds)}"
NEAR = 0.45  # decades: kernels closer than this share a label


@dataclass(frozen=True)
class Mark:
    """A kernel on the figure."""

    number: int
    name: str
    intensity: float  # FLOPs for each byte
    seconds: float
    rate: float  # FLOP/s
    clock: str


@styled
def roofline(
    device: Device,
    kernels: Sequence[Kernel] = (),
    *,
    dtype: str = "bf16",
    measured: Measured | None = None,
    note: str = "",
    figure: Picture | None = None,
) -> Picture:
    """Draw a device's roof with kernels under it, and beside it how long each takes.

    The roof is the published peaks. Kernels are modelled, with the shares of the peaks that large ones reach: hollow
    marks and dashed bars. measured: {name: (FLOPs, bytes, seconds)}, filled and solid.
    """
    instance("roofline", "device", device, Device, "lab.hardware.device('h100')")
    choice("roofline", "dtype", dtype, DTYPES)
    kernels = instances("roofline", "kernels", kernels, Kernel, "layer_kernels(config, batch, seq)")
    for name, three in instance("roofline", "measured", measured or {}, Mapping, MEASURED).items():
        if len(numbers("roofline", name, three)) != 3 or not all(number > 0 for number in three):
            raise ValueError(f"roofline wants {name} as (FLOPs, bytes, seconds) above 0; got {three!r}")
    marks = _marks(device, kernels, dtype, measured or {})
    if not marks:
        raise ValueError("roofline wants a kernel or more, got none")
    figure = canvas(figure, (9, 4.8))
    roof, bars = figure.subplots(1, 2, width_ratios=[3, 2])
    _draw_roof(roof, device, dtype, marks)
    for mark in marks:
        _draw_mark(roof, bars, mark)
    _number(roof, marks)
    _dress(roof, bars, marks)
    peaks = f"Roof, published: {three_digits(device.peak(dtype) / 1e12)} TFLOP/s"
    note = f"{peaks} and {three_digits(device.memory_bytes_per_s / 1e9)} GB/s. {note}".strip()
    below = "\n".join(caption(device.name, clock, note=note) for clock in sorted({mark.clock for mark in marks}))
    return finish(figure, describe_roofline(device, kernels, dtype, measured), below)


def describe_roofline(
    device: Device, kernels: Sequence[Kernel], dtype: str = "bf16", measured: Measured | None = None
) -> str:
    """Say where the roof bends, and of modelled kernels the share of the peak; of measured ones, only their names."""
    peak = device.peak(dtype)
    ridge = peak / device.memory_bytes_per_s
    said: dict[bool, list[str]] = {True: [], False: []}  # by being bound by memory
    for kernel in kernels:
        share = f"{kernel.name} ({100 * kernel.flops_per_s(device, dtype) / peak:.2g}% of peak)"
        said[kernel.intensity < ridge].append(share)
    text = f"The roof of {device.name} bends at {three_digits(ridge)} FLOPs for each byte."
    if kernels:
        text += f" Modelled: bound by memory {listing(said[True]) or 'none'}"
        text += f"; bound by computing {listing(said[False]) or 'none'}."
    return f"{text} Measured: {listing(list(measured))}." if measured else text


def _marks(device: Device, kernels: Sequence[Kernel], dtype: str, measured: Measured) -> list[Mark]:
    modelled = [(k.name, k.flops, k.nbytes, k.seconds(device, dtype), "virtual") for k in kernels]
    timed = [(name, *numbers, "wall") for name, numbers in measured.items()]
    return [
        Mark(i, name, flops / nbytes, seconds, flops / seconds, clock)
        for i, (name, flops, nbytes, seconds, clock) in enumerate([*modelled, *timed], 1)
    ]


def _draw_roof(axes: Axes, device: Device, dtype: str, marks: list[Mark]) -> None:
    peak, bandwidth = device.peak(dtype), device.memory_bytes_per_s
    ridge = peak / bandwidth
    places = [ridge, *(mark.intensity for mark in marks)]
    low, high = min(places) / 4, max(places) * 4
    rates = [low * bandwidth, peak, peak]
    axes.plot([low, ridge, high], rates, color=GREY, linewidth=2.5, linestyle=CLOCK_LINE["virtual"], label="roof")
    axes.axvline(ridge, color=GREY, linewidth=1, linestyle=DOTTED)


def _draw_mark(roof: Axes, bars: Axes, mark: Mark) -> None:
    style, modelled = line_style(mark.number - 1), mark.clock == "virtual"
    face = "white" if modelled else style["color"]
    look = {**style, "markersize": 9, "markerfacecolor": face, "markeredgewidth": 2}
    roof.plot(mark.intensity, mark.rate, linestyle="none", label=f"{mark.name}: {CLOCKS[mark.clock]}", **look)
    bars.barh(
        mark.number, mark.seconds, 0.7, facecolor=face, edgecolor=style["color"], linewidth=1.8,
        linestyle="--" if modelled else "-",
    )  # fmt: skip
    bars.annotate(
        say_seconds(mark.seconds), (mark.seconds, mark.number), (4, 0), textcoords="offset points", va="center",
        fontsize=10,
    )  # fmt: skip


def _number(axes: Axes, marks: list[Mark]) -> None:
    """Write the numbers of kernels that lie together beside one another, not on one another."""
    groups: list[list[Mark]] = []
    for mark in marks:
        near = [group for group in groups if _distance(group[0], mark) < NEAR]
        near[0].append(mark) if near else groups.append([mark])
    for group in groups:
        lowest = min(group, key=lambda mark: mark.rate)
        text = ", ".join(str(mark.number) for mark in group)
        place = (lowest.intensity, lowest.rate)
        axes.annotate(text, place, (0, -18), textcoords="offset points", ha="center", fontsize=11)


def _distance(a: Mark, b: Mark) -> float:
    return max(abs(log10(a.intensity / b.intensity)), abs(log10(a.rate / b.rate)))


def _dress(roof: Axes, bars: Axes, marks: list[Mark]) -> None:
    roof.set_xscale("log")
    roof.set_yscale("log")
    roof.set_xlabel("FLOPs for each byte moved")
    roof.set_ylabel("TFLOP/s")
    roof.xaxis.set_major_formatter(lambda value, _: three_digits(value))
    roof.yaxis.set_major_formatter(lambda value, _: three_digits(value / 1e12))
    roof.grid()
    bars.set_title("time of each kernel", loc="left")
    bars.set_yticks([mark.number for mark in marks], [f"{mark.number} {mark.name}" for mark in marks])
    bars.tick_params(axis="y", length=0)
    bars.set_ylim(len(marks) + 0.6, 0.4)  # the first on top
    bars.set_xticks([])
    bars.margins(x=0.35)
    for side in ("left", "bottom"):
        bars.spines[side].set_visible(False)
