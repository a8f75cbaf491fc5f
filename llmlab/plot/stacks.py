"""Ways to do the same thing, and what each keeps in memory: a bar for each, stacked by category."""

from __future__ import annotations

from collections.abc import Mapping

from llmlab.arguments import real, table
from llmlab.plot.memories import CATEGORIES
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLACK, fill_style, listing, memory_unit, say_memory

Kept = Mapping[str, Mapping[str, float]]  # name -> category -> bytes


@styled
def memory_bars(kept: Kept, capacity: float | None = None, note: str = "", figure: Picture | None = None) -> Picture:
    """Draw {name: {category: bytes}} as stacked bars.

    capacity: bytes of a device, drawn as a line.  note: where the bytes come from, below the figure.
    """
    for name, parts in table("memory_bars", "kept", kept, "{name: {category: bytes}}").items():
        for category, nbytes in table("memory_bars", name, parts, "{category: bytes}").items():
            real("memory_bars", f"{name}'s {category}", nbytes, least=0)
    if capacity is not None:
        real("memory_bars", "capacity", capacity, above=0)
    figure = canvas(figure, (9, 4.6))
    axes = figure.subplots()
    unit, unit_name = memory_unit(max([capacity or 0.0, *(sum(parts.values()) for parts in kept.values())]))
    bottoms = dict.fromkeys(kept, 0.0)
    for i, category in enumerate(dict.fromkeys((*CATEGORIES, *(c for parts in kept.values() for c in parts)))):
        heights = [parts.get(category, 0) / unit for parts in kept.values()]
        if any(heights):
            axes.bar(range(len(kept)), heights, 0.65, bottom=list(bottoms.values()), label=category, **fill_style(i))
        bottoms = {name: low + high for (name, low), high in zip(bottoms.items(), heights, strict=True)}
    for x, total in enumerate(bottoms.values()):
        axes.annotate(f"{total:.3g}", (x, total), (0, 3), textcoords="offset points", ha="center", fontsize=11)
    if capacity:
        axes.axhline(
            capacity / unit, color=BLACK, linestyle="-.", linewidth=2, label=f"a device: {say_memory(capacity)}"
        )
    axes.set_xticks(range(len(kept)), list(kept))
    axes.set_ylabel(f"memory of a rank ({unit_name})")
    axes.margins(y=0.12)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=11)
    return finish(figure, describe_bars(kept, capacity), note)


def describe_bars(kept: Kept, capacity: float | None = None) -> str:
    """Say how much each bar is, and which of them fit."""
    totals = {name: sum(parts.values()) for name, parts in kept.items()}
    text = "Memory of a rank: " + listing([f"{name} {say_memory(total)}" for name, total in totals.items()])
    if capacity:
        fitting = [name for name, total in totals.items() if total <= capacity]
        fit = f"{listing(fitting)} {'fit' if len(fitting) > 1 else 'fits'}" if fitting else "none fits"
        text += f"; into the {say_memory(capacity)} of a device {fit}"
    return text + "."
