"""What fills a device's memory: a bar per rank, stacked by category, against what the device holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from matplotlib.axes import Axes

from llmlab.arguments import instance, real, table
from llmlab.comm.errors import OutOfDeviceMemory
from llmlab.comm.trace import Run
from llmlab.hardware import Cluster, cluster
from llmlab.measuring import count
from llmlab.plot.lanes import chosen
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLACK, caption, fill_style, listing, memory_unit, say_memory

# The order of stacking, from what is always there to what comes and goes; others follow.
CATEGORIES = ("parameters", "gradients", "optimizer state", "activations", "communication")


@styled
def memory(run: Run, on: str | Cluster | None = None, figure: Picture | None = None) -> Picture:
    """Draw each rank's bytes at the moment its total peaked, by category.

    on: the cluster whose device's capacity is drawn as a line. More than 16 ranks are thinned.
    """
    instance("memory", "run", run, Run, "what engine.run(worker) gives")
    ranks, note = chosen(list(range(len(run.memory))), 16)
    held = [run.memory[rank].at_peak for rank in ranks]
    device = None if on is None else cluster(on).device
    figure = canvas(figure, (9, 4.8))
    axes = figure.subplots()
    unit, unit_name = memory_unit(max([sum(h.values()) for h in held], default=0))
    bottoms = [0.0] * len(ranks)
    for category, style in _categories(held).items():
        heights = [h.get(category, 0) / unit for h in held]
        axes.bar(range(len(ranks)), heights, 0.7, bottom=bottoms, label=category, **style)
        bottoms = [b + h for b, h in zip(bottoms, heights, strict=True)]
    for x, total in enumerate(bottoms):
        axes.annotate(f"{total:.3g}", (x, total), (0, 3), textcoords="offset points", ha="center", fontsize=11)
    if device is not None:
        _capacity_line(axes, device.memory_bytes / unit, f"{device.name}: {say_memory(device.memory_bytes)}")
    axes.set_xticks(range(len(ranks)), [str(rank) for rank in ranks])
    axes.set_xlabel("rank")
    axes.set_ylabel(f"peak memory ({unit_name})")
    axes.margins(y=0.12)
    _legend(figure, axes)
    return finish(figure, describe_memory(run, on), caption(run.hardware, run.clock, run.not_modelled, note))


def describe_memory(run: Run, on: str | Cluster | None = None) -> str:
    """Say what a memory figure shows. Measured bytes differ from run to run, so only modelled ones are named."""
    most = max(range(len(run.memory)), key=lambda rank: (run.memory[rank].total, -rank))
    held = run.memory[most]
    start = f"Peak memory of {count(len(run.memory), 'rank')} by category"
    if run.clock == "wall":
        return f"{start}, measured."
    parts = listing([f"{name} {say_memory(n)}" for name, n in held.at_peak.items() if n])
    text = f"{start}: rank {most} holds most, {say_memory(held.total)} ({parts})"
    if on is not None:
        device = cluster(on).device
        fits = "fits in" if held.total <= device.memory_bytes else "does not fit in"
        text += f"; it {fits} the {say_memory(device.memory_bytes)} of one {device.name}"
    return text + "."


@styled
def memory_card(
    needed: OutOfDeviceMemory | Mapping[str, float],
    capacity: float | None = None,
    device: str = "one device",
    figure: Picture | None = None,
) -> Picture:
    """Draw what is needed, by category, as one bar above what one device holds.

    needed: the error a simulated rank raised, or bytes by category. capacity: bytes; None: the error's own.
    """
    parts, capacity = _needed(needed, capacity)
    total = sum(parts.values())
    unit, unit_name = memory_unit(max(total, capacity))
    figure = canvas(figure, (9, 3.4))
    axes = figure.subplots()
    left = 0.0
    for category, style in _categories([parts]).items():
        label = f"{category}: {say_memory(parts[category])}"
        axes.barh(0, parts[category] / unit, 0.6, left=left, label=label, **style)
        left += parts[category] / unit
    axes.barh(1, capacity / unit, 0.6, facecolor="white", edgecolor=BLACK, linewidth=2)
    axes.axvline(capacity / unit, color=BLACK, linestyle="-.", linewidth=1.5)
    for y, nbytes in ((0, total), (1, capacity)):
        place: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 13}
        axes.annotate(say_memory(nbytes), (nbytes / unit, y), **place)
    axes.set_yticks([0, 1], ["needed", device])
    axes.set_ylim(1.5, -0.5)
    axes.set_xlabel(f"memory ({unit_name})")
    axes.margins(x=0.14)
    _legend(figure, axes)
    return finish(figure, describe_card(parts, capacity, device))


def describe_card(parts: Mapping[str, float], capacity: float, device: str = "one device") -> str:
    """Say what a memory card shows, and how many devices would be needed for the bytes alone."""
    total = sum(parts.values())
    listed = listing([f"{name} {say_memory(n)}" for name, n in parts.items() if n])
    text = f"Needed: {say_memory(total)} ({listed}); {device} holds {say_memory(capacity)}"
    if total <= capacity:
        return f"{text}: it fits."
    return f"{text}: it does not fit, and at least {ceil(total / capacity)} of them would be needed to hold it."


def _needed(needed: OutOfDeviceMemory | Mapping[str, float], capacity: float | None) -> tuple[dict[str, float], float]:
    if isinstance(needed, OutOfDeviceMemory):
        capacity = needed.capacity if capacity is None else capacity
        needed = needed.breakdown
    of = "{category: bytes}, or the OutOfDeviceMemory that a run raised,"
    parts = {
        name: real("memory_card", f"the bytes of {name}", nbytes, least=0)
        for name, nbytes in table("memory_card", "needed", needed, of).items()
    }
    return parts, real("memory_card", "capacity", capacity, above=0)


def _categories(held: Sequence[Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """The categories there are, in their order, each with the look it has on every figure."""
    found = dict.fromkeys(name for parts in held for name, nbytes in parts.items() if nbytes)
    ordered = [*CATEGORIES, *(name for name in found if name not in CATEGORIES)]
    return {name: fill_style(i) for i, name in enumerate(ordered) if name in found}


def _capacity_line(axes: Axes, height: float, label: str) -> None:
    """Draw the device's capacity; far above the bars it would flatten them, so then only its words stand at the top."""
    if height < 8 * axes.get_ylim()[1]:
        axes.axhline(height, color=BLACK, linestyle="-.", linewidth=2, label=f"capacity of {label}")
    else:
        axes.plot([], [], " ", label=f"capacity of {label} (far above)")


def _legend(figure: Picture, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=11)
