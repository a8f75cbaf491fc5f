"""Speed-up and efficiency against ranks, measured solid and modelled dashed, each over its own reference."""

from __future__ import annotations

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from llmlab.arguments import instance
from llmlab.comm.trace import Run
from llmlab.measuring import CLOCKS, Table, count, tabulate
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import CLOCK_LINE, DOTTED, GREY, caption, line_style, listing, three_digits

RUNS = "what lab.measure(worker) gives, or a list of runs"
NO_CLAIM = "measured, but ranks share processors: no claim"


@styled
def speedup(*tables: Table | Iterable[Run], figure: Picture | None = None) -> Picture:
    """Draw what more ranks bring: speed-up above, efficiency (speed-up over the ideal) below.

    A table is what `measure` gives; a list of runs of one worker will do. A line is the median of the repeats, its bars
    reach from the slowest to the fastest. A measured time of more ranks than processors is a cross without a line:
    those ranks took turns. Raises ValueError when strong and weak scaling are mixed.
    """
    found = [_table(table) for table in tables]
    work = sorted({table.work for table in found})
    if len(work) != 1:
        raise ValueError(f"a speed-up figure wants tables of one kind of work, got {' and '.join(work) or 'no table'}")
    figure = canvas(figure, (9, 6.4))
    top, bottom = figure.subplots(2, sharex=True, height_ratios=[5, 2])
    ranks = sorted({row.ranks for table in found for row in table})
    fewest = sorted({table.rows[0].reference_ranks for table in found})
    top.plot(ranks, [n / fewest[0] for n in ranks], linestyle=DOTTED, color=GREY, linewidth=2, label="ideal")
    bottom.axhline(1, linestyle=DOTTED, color=GREY, linewidth=2)
    if any(min(table.median("speedup").values()) < 1 for table in found):
        top.axhline(1, color=GREY, linewidth=1, label="below this line: slower than the reference")
    for i, table in enumerate(found):
        _draw(top, table, "speedup", i)
        _draw(bottom, table, "efficiency", i)
    _dress(top, bottom, ranks, fewest, work[0])
    handles, labels = top.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i].endswith(NO_CLAIM))  # lines first, crosses last
    legend = [handles[i] for i in order], [labels[i] for i in order]
    figure.legend(*legend, loc="outside upper left", fontsize=11)
    return finish(figure, describe_speedup(*found), "\n".join(_captions(found)))


def _table(table: Table | Iterable[Run]) -> Table:
    if isinstance(table, Run):
        raise ValueError("speedup wants runs on several numbers of ranks, got one Run: try speedup([run, ...])")
    return table if isinstance(table, Table) else tabulate(instance("speedup", "a table", table, Iterable, RUNS))


def describe_speedup(*tables: Table) -> str:
    """Say what a speed-up figure shows. Measured figures differ by run and machine, so only modelled ones are named."""
    return " ".join(_describe(table) for table in tables)


def _describe(table: Table) -> str:
    ranks = sorted(table.by_ranks())
    if table.clock == "wall":
        start = f"{table.worker}, measured on this machine, {table.work} scaling: "
        return f"{start}{listing([str(n) for n in ranks])} ranks, a solid line up to the number of processors."
    start = f"{table.worker}, modelled on {table.hardware}, {table.work} scaling: "
    speedups = [f"{three_digits(s)} on {n}" for n, s in table.median("speedup").items()]
    efficiency = table.median("efficiency")[ranks[-1]]
    over = count(table.rows[0].reference_ranks, "rank")
    return f"{start}speed-up over {over} {listing(speedups)} ranks; efficiency {efficiency:.0%} on {ranks[-1]}."


def _draw(axes: Axes, table: Table, column: str, i: int) -> None:
    claimed = [(n, [getattr(row, column) for row in rows]) for n, rows in table.by_ranks().items() if rows[0].claimed]
    middle = table.median(column)
    line = CLOCK_LINE[table.clock]
    ranks = [n for n, _ in claimed]
    label = f"{table.worker}: {CLOCKS[table.clock]} on {table.hardware}"
    axes.plot(ranks, [middle[n] for n in ranks], linestyle=line, linewidth=2.2, label=label, **line_style(i))
    if table.clock == "wall":
        spread = [[middle[n] - min(v) for n, v in claimed], [max(v) - middle[n] for n, v in claimed]]
        colour = line_style(i)["color"]
        axes.errorbar(ranks, [middle[n] for n in ranks], yerr=spread, fmt="none", capsize=4, color=colour)
    shared = [n for n in middle if n not in ranks]
    if shared:
        axes.plot(
            shared, [middle[n] for n in shared], linestyle="none", marker="x", markersize=9, color=GREY,
            label=f"{table.worker}: {NO_CLAIM}",
        )  # fmt: skip


def _dress(top: Axes, bottom: Axes, ranks: list[int], fewest: list[int], work: str) -> None:
    over = " or ".join(count(n, "rank") for n in fewest)
    top.set_ylabel(f"speed-up over {over}" + (" (weak)" if work == "weak" else ""))
    bottom.set_ylabel("efficiency")
    bottom.set_xlabel("ranks")
    bottom.yaxis.set_major_formatter(PercentFormatter(1.0))
    bottom.set_ylim(0, max(1.1, bottom.get_ylim()[1]))
    if ranks[-1] > 8:  # doubling is a step of its own
        top.set_xscale("log", base=2)
        top.set_yscale("log", base=2)
        top.yaxis.set_major_formatter(lambda value, _: three_digits(value))
    else:
        top.set_ylim(bottom=0)
    for axes in (top, bottom):
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(FixedLocator(ranks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")


def _captions(tables: list[Table]) -> list[str]:
    """One caption per hardware and clock, not one per table."""
    lines: dict[str, None] = {}
    for table in tables:
        over = count(table.rows[0].reference_ranks, "rank")
        note = f"Reference: {table.worker} on {over}."
        lines.setdefault(caption(table.hardware, table.clock, table.not_modelled, note))
    return list(lines)
