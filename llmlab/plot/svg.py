"""The timeline as an SVG string: hover a bar, or reach it with the Tab key, and its `<title>` tells its story.

No script, no style sheet from elsewhere: it works in a widget, in a saved page and in a file of its own.
"""

from __future__ import annotations

import hashlib
from html import escape
from math import floor, log10

from llmlab.arguments import real
from llmlab.comm.trace import Run, Trace
from llmlab.plot.lanes import SHORT, Span, lanes_of
from llmlab.plot.style import GREY, KIND_STYLE, KIND_WORDS, caption, text_on, three_digits, time_unit
from llmlab.plot.timelines import describe_timeline, trace_of

WIDTH, LEFT, RIGHT, ROW = 960, 130, 20, 26  # user units; the viewer scales them to the width there is
TOP, AXIS, LINE, GAP, LEAST = 34, 29, 17, 6, 10  # above the rows; below them; a line of words; between ranks; a row
SCREEN = 480  # as tall as a projector of 1280 x 720 shows of a notebook that is as wide as it

# The hatches of KIND_STYLE as strokes on an 8 x 8 tile.
STROKES = {
    "compute": "",
    "collective": "M0 8L8 0M-2 2L2 -2M6 10L10 6",
    "send or recv": "M0 0L8 8M-2 6L2 10M6 -2L10 2",
    "waiting": "M0 0L8 8M0 8L8 0",
    "idle": "M1 3h2M5 7h2",
    "host": "M0 4h8",
}


def timeline_svg(trace: Trace | Run, until: float | None = None, play_s: float = 0.0, *, height: float = SCREEN) -> str:
    """Draw a timeline as SVG, as wide as its place: a bar under the pointer, or focused, tells its story below.

    until: where the time axis ends, in seconds, so that two drawings share one. play_s: let the bars appear from left
    to right in so many seconds of the reader's time (who asked for less motion sees them at once). height: at most, in
    960ths of the width; rows that would be too low to read go beyond it.
    """
    trace, not_modelled = trace_of(trace)
    real("timeline_svg", "play_s", play_s, least=0)
    if until is not None:
        real("timeline_svg", "until", until, above=0)
    real("timeline_svg", "height", height, above=0)
    laid = lanes_of(trace, until)
    end = max(laid.seconds, until or 0.0)
    scale = (WIDTH - LEFT - RIGHT) / end
    below = caption(trace.hardware, trace.clock, not_modelled, laid.note, width=126).splitlines()
    gaps = (len(laid.ranks) - 1) * GAP
    row = max(LEAST, min(ROW, (height - TOP - AXIS - LINE * len(below) - gaps) // len(laid.lanes)))
    story = TOP + row * len(laid.lanes) + gaps + AXIS + LINE - 4  # the base of the first line below the axis
    labels, bars, y, before = [_legend(laid.kinds)], [], float(TOP), None
    for lane in laid.lanes:
        y += GAP if before is not None and before != lane.rank else 0
        words, letters = (f"rank {lane.rank} {lane.stream}" if before != lane.rank else lane.stream), min(14, row)
        base = y + row / 2 + letters / 3 - 1
        labels.append(f'<text x="{LEFT - 8}" y="{base:.1f}" font-size="{letters}" text-anchor="end">{words}</text>')
        bars += [_bar(span, y, row, scale, story) for span in lane.spans]
        y, before = y + row, lane.rank
    parts = [*labels, '<g class="bars">', *bars, "</g>", _axis(y + 2, end, scale)]
    parts += [
        f'<text class="below" x="4" y="{story + i * LINE}" font-size="13" fill="{GREY}">{escape(line)}</text>'
        for i, line in enumerate(below)
    ]
    y = story + LINE * (len(below) - 1) + 5
    body = "\n".join(parts)
    name = "t" + hashlib.sha256(body.encode()).hexdigest()[:8]  # several drawings on a page must not share names
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" id="{name}" viewBox="0 0 {WIDTH} {y}" width="100%" role="group" '
        f'aria-label="{escape(describe_timeline(trace))}" font-family="DejaVu Sans, Verdana, sans-serif" '
        f'style="background:white">\n{_definitions(name, play_s)}\n{body.replace("url(#", f"url(#{name}-")}\n</svg>'
    )


def _definitions(name: str, play_s: float) -> str:
    """The hatches, the look of a bar under the pointer, and the motion."""
    tiles = [
        f'<pattern id="{name}-{_slug(kind)}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<rect width="8" height="8" fill="{colour}"/>'
        f'<path d="{STROKES[kind]}" stroke="#333" stroke-width="1"/></pattern>'
        for kind, (colour, _) in KIND_STYLE.items()
    ]
    told, other = f"#{name} .span:is(:focus,:hover)", f"#{name}:has(.span:hover) .span:focus:not(:hover)"
    rules = f"#{name} .span:focus{{outline:none}} {told} rect{{stroke:#000;stroke-width:3}}"
    rules += f"#{name} .story{{visibility:hidden;pointer-events:none}} {told} .story{{visibility:visible}}"
    # one story at a time, and the caption makes room for it
    rules += f"{other} .story,#{name}:has(.span:is(:focus,:hover)) .below{{visibility:hidden}}"
    if play_s:
        rules += (
            f"@keyframes {name}{{from{{clip-path:inset(0 100% 0 0)}}to{{clip-path:inset(0)}}}}"
            f"@media (prefers-reduced-motion:no-preference){{#{name} .bars{{animation:{name} {play_s}s linear}}}}"
        )
    return f"<defs>{''.join(tiles)}<style>{rules}</style></defs>"


def _slug(kind: str) -> str:
    return kind.replace(" ", "-")


def _bar(span: Span, y: float, row: float, scale: float, story: float) -> str:
    x, width = LEFT + span.start * scale, max(span.seconds * scale, 0.5)  # what is shorter than a pixel is still there
    outline = 0.6 if width > SHORT * (WIDTH - LEFT - RIGHT) else 0
    text, bar, letters = "", 0.77 * row, min(13.0, 0.7 * row)
    if span.label and width > 0.62 * letters * len(span.label) + 8 and span.kind != "idle":
        colour = KIND_STYLE[span.kind][0]
        middle, half = x + width / 2, 0.3 * letters * len(span.label) + 2
        text = (
            f'<rect x="{middle - half:.2f}" y="{y + 0.1 * bar:.1f}" width="{2 * half:.2f}" height="{0.8 * bar:.1f}" '
            f'fill="{colour}" style="stroke:none"/><text x="{middle:.2f}" y="{y + bar / 2 + letters / 3:.1f}" '
            f'font-size="{letters:.1f}" text-anchor="middle" fill="{text_on(colour)}">{escape(span.label)}</text>'
        )
    note = escape(span.note)
    return (
        f'<g class="span" tabindex="0" role="img" aria-label="{note}"><title>{note}</title>'
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{bar:.1f}" fill="url(#{_slug(span.kind)})" '
        f'stroke="white" stroke-width="{outline}"/>{text}'
        f'<text class="story" x="4" y="{story}" font-size="14">{note}</text></g>'
    )


def _legend(kinds: list[str]) -> str:
    parts, x = [], 4
    for kind in kinds:
        words = KIND_WORDS[kind]
        parts.append(
            f'<rect x="{x}" y="6" width="24" height="16" fill="url(#{_slug(kind)})"/>'
            f'<text x="{x + 30}" y="19" font-size="14">{words}</text>'
        )
        x += 30 + round(8.3 * len(words)) + 12  # all six kinds fit the width
    return "".join(parts)


def _axis(y: float, seconds: float, scale: float) -> str:
    unit, unit_name = time_unit(seconds)
    step = tick_step(seconds / unit)
    parts = [f'<path d="M{LEFT} {y}H{LEFT + seconds * scale:.2f}" stroke="#333"/>']
    for i in range(int(seconds / unit / step + 1e-9) + 1):
        x = LEFT + i * step * unit * scale
        words = three_digits(i * step) + ("" if i else f" {unit_name}")
        parts.append(
            f'<path d="M{x:.2f} {y}v5" stroke="#333"/>'
            f'<text x="{x:.2f}" y="{y + 19}" font-size="13" text-anchor="middle">{words}</text>'
        )
    return "".join(parts)


def tick_step(length: float) -> float:
    """Choose a step of 1, 2 or 5 times a power of ten that divides a length into four to ten."""
    power = 10.0 ** floor(log10(length))
    return next(step * power for step in (0.1, 0.2, 0.5, 1.0) if length <= 10 * step * power)
