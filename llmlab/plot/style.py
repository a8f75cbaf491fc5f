"""How every figure looks: colours that colour-blind eyes tell apart, each doubled by a hatch, a marker or a line style.

Colours are Okabe and Ito's (Color Universal Design, 2008). Sky, orange and yellow are too pale for thin lines on white
(contrast below 3), so lines use the four dark ones and black; fills use all.
"""

from __future__ import annotations

import textwrap
from math import log2
from typing import Any

from llmlab.arguments import real
from llmlab.measuring import CLOCKS

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7",
)  # fmt: skip
PALE, GREY = "#EDEDED", "#595959"

# What a rank does in a stretch of time: its colour and hatch on a timeline.
KIND_STYLE = {
    "compute": (BLUE, ""),
    "collective": (ORANGE, "//"),
    "send or recv": (GREEN, "\\\\"),
    "waiting": ("#FFFFFF", "xx"),
    "idle": (PALE, ".."),
    "host": (SKY, "--"),
}

KIND_WORDS = {
    "compute": "compute", "collective": "collective", "send or recv": "send or recv",
    "waiting": "waits for a rank", "idle": "computes nothing", "host": "named by the worker",
}  # fmt: skip

LINE_COLOURS = (BLUE, VERMILION, GREEN, BLACK, PURPLE)
MARKERS = ("o", "s", "^", "D", "v")
FILLS = (
    (BLUE, ""), (ORANGE, "//"), (GREEN, "\\\\"), (SKY, ".."), (PURPLE, "xx"), (YELLOW, "--"), (VERMILION, "++"),
    (PALE, "oo"),
)  # fmt: skip
SOLID, DASHED, DOTTED = "-", (0, (5, 2.5)), (0, (1, 1.5))
CLOCK_LINE: dict[str, Any] = {"wall": SOLID, "virtual": DASHED}

MEMORY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")

RC: Any = {  # matplotlib types its keys one by one
    "font.size": 12,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so figures are the same everywhere
    "axes.titlesize": 12.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": "#D0D0D0",
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "figure.facecolor": "white",
}


def line_style(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th line; the line style is left to say measured or modelled."""
    return {"color": LINE_COLOURS[i % len(LINE_COLOURS)], "marker": MARKERS[i % len(MARKERS)], "markersize": 7}


def fill_style(i: int) -> dict[str, Any]:
    """Colour and hatch of the i-th kind of bar."""
    return fill(*FILLS[i % len(FILLS)])


def fill(colour: str, hatch: str) -> dict[str, Any]:
    """A bar of a colour, with a hatch that shows on it."""
    return {"facecolor": colour, "hatch": hatch, "edgecolor": edge_on(colour), "linewidth": 0.8}


def edge_on(colour: str) -> str:
    """The colour of hatches and edges that shows on a fill."""
    return "white" if colour in (BLUE, GREY) else "#333333"


def text_on(colour: str) -> str:
    """The colour of letters that can be read on a fill: white on blue, black on all the paler ones."""
    return "white" if colour == BLUE else "black"


def time_unit(longest: float) -> tuple[float, str]:
    """Choose the unit in which `longest` seconds is a number of at least one: seconds per unit, and its name."""
    for seconds, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if longest >= seconds:
            return seconds, name
    return 1e-9, "ns"


def say_seconds(seconds: float) -> str:
    """Give seconds to three digits: `3.2 ms`."""
    real("say_seconds", "seconds", seconds, infinite=True)
    unit, name = time_unit(abs(seconds))
    return f"{three_digits(seconds / unit)} {name}" if seconds else "0 s"


def say_bytes(nbytes: float) -> str:
    """Give bytes on a wire to three digits in decimal units, as links are sold: `25 MB`."""
    return _say(nbytes, 1000, ("B", "kB", "MB", "GB", "TB", "PB"))


def say_memory(nbytes: float) -> str:
    """Give bytes in a memory to three digits in binary units, as devices have them: an 80 GB card holds `80 GiB`."""
    return _say(nbytes, 1024, MEMORY_UNITS)


def memory_unit(most: float) -> tuple[float, str]:
    """Choose the unit in which `most` bytes of memory is a number of at least one: bytes per unit, and its name."""
    power = min(int(log2(max(most, 1)) // 10), len(MEMORY_UNITS) - 1)
    return 1024.0**power, MEMORY_UNITS[power]


def _say(nbytes: float, step: int, names: tuple[str, ...]) -> str:
    nbytes, power = real("a size", "nbytes", nbytes, least=0), 0
    while nbytes >= 999.5 and power < len(names) - 1:  # what would round to 1000 is one of the next unit
        nbytes, power = nbytes / step, power + 1
    return f"{three_digits(nbytes)} {names[power]}"


def three_digits(value: float) -> str:
    """Write a number with three digits and no exponent up to a billion, dropping zeros that say nothing."""
    if value == 0:
        return "0"
    if abs(value) >= 999.5:
        return f"{value:,.0f}"
    digits, _, power = f"{value:#.3g}".partition("e-0")
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return f"{digits}e-{power}" if power else digits


def listing(words: list[str]) -> str:
    """Join words as a sentence does: `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def caption(hardware: str, clock: str, not_modelled: tuple[str, ...] = (), note: str = "", width: int = 114) -> str:
    """Say under a figure where its numbers come from, and what a model leaves out; a long list is left to the run."""
    text = f"{CLOCKS[clock].capitalize()} on {hardware or 'hardware not named'}, {clock} clock."
    if note:
        text += f" {note}"
    if not_modelled:
        listed = f" Not modelled: {', '.join(not_modelled)}."
        more = f" {len(not_modelled)} things are not modelled: see .not_modelled."
        text += listed if len(text + listed) <= width else more
    return textwrap.fill(text, width)
