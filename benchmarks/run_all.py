"""How fast all of it is, in one table: data/measured/speeds.csv, and its short form in the README.

    python benchmarks/run_all.py                      # every part, on a machine that does nothing else
    python benchmarks/run_all.py --parts modes bpe    # some of them: the rows of the others stay
    python benchmarks/draw_all.py                     # draws what is recorded

Ours and its opponent take turns within one run, in both orders, so that what else the machine does hits both; a row
keeps the medians, and how many times as fast ours was: median and quartiles of the pairs. Threads are of one process.
What needs a package that is not there (ipyparallel) is left out and said to be. No time is asserted anywhere.
"""

from __future__ import annotations

import argparse
import csv
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path
from statistics import median, quantiles

import torch
from racing import where

FOLDER = Path(__file__).parent
TABLE = FOLDER.parent / "data" / "measured" / "speeds.csv"
README = FOLDER.parent / "README.md"
BEGIN, END = "<!-- speeds: written by benchmarks/run_all.py -->\n", "<!-- end of speeds -->"


@dataclass(frozen=True)
class Row:
    """One measurement, beside its opponent's where there is one; `times_as_fast` is ours over theirs, pair by pair."""

    what: str
    ours: str
    unit: str
    part: str = ""
    opponent: str = ""
    theirs: str = ""
    times_as_fast: str = ""
    low: str = ""
    high: str = ""
    rounds: int = 0
    processes: int = 1
    threads: int = 1
    headline: str = ""  # its words in the README, where it is shown there
    machine: str = ""
    versions: str = ""
    date: str = ""


def beside(what: str, ours: list[float], opponent: str, theirs: list[float], **more: object) -> Row:
    """Seconds of both, pair by pair; the ratio is taken of the pairs."""
    low, middle, high = quantiles([b / a for a, b in zip(ours, theirs, strict=True)], n=4)
    texts = {"times_as_fast": f"{middle:.2f}", "low": f"{low:.2f}", "high": f"{high:.2f}"}
    medians = {"ours": short(median(ours)), "theirs": short(median(theirs))}
    return Row(what=what, unit="s", opponent=opponent, rounds=len(ours), **medians, **texts, **more)


def alone(what: str, values: list[float], unit: str, **more: object) -> Row:
    """A measurement without an opponent; `low` and `high` are its own quartiles."""
    low, middle, high = quantiles(values, n=4) if len(values) > 1 else values * 3
    return Row(what=what, ours=short(middle), unit=unit, low=short(low), high=short(high), rounds=len(values), **more)


def short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def measure(parts: Iterable[str], rounds: int) -> Iterator[Row]:
    """Run these parts of the table one after another; each row carries where and when it was measured."""
    import parts_of_the_table

    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    for part in parts:
        print(f"\n== {part}, on {where()}", flush=True)
        for row in getattr(parts_of_the_table, part)(rounds):
            whole = replace(row, part=part, machine=where(), versions=versions, date=date.today().isoformat())
            ratio = f"{row.times_as_fast} times as fast as {row.opponent}" if row.opponent else ""
            print(f"MEASURED  {row.what:<58} {row.ours:>9} {row.unit:<14} {ratio}", flush=True)
            yield whole


def read(path: Path = TABLE) -> list[Row]:
    """Read the recorded table."""
    if not path.exists():
        return []
    numbers = {"rounds", "processes", "threads"}
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(**{k: int(v) if k in numbers else v for k, v in row.items()}) for row in csv.DictReader(file)]


def write(rows: Iterable[Row], path: Path = TABLE) -> None:
    """Write the table, in the order of the parts."""
    order = {part: place for place, part in enumerate(PARTS)}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in sorted(rows, key=lambda row: order[row.part]))


def in_words(rows: Iterable[Row]) -> str:
    """The short table of the README: the rows that have words for it, with the day and the machine of each kind."""
    shown = [row for row in rows if row.headline]
    lines = ["| what | ours | beside | times as fast |", "|---|---|---|---|"]
    for row in shown:
        times = f"**{row.times_as_fast}** ({row.low} to {row.high})" if row.opponent else ""
        runs = f" (runs: {row.rounds})" if row.rounds < ENOUGH else ""
        lines.append(f"| {row.headline}{runs} | {row.ours} {row.unit} | {row.opponent} | {times} |")
    machines = sorted({row.machine.split("; load")[0] for row in shown})
    days = sorted({row.date for row in shown})
    lines += [
        "",
        f"Measured on {', '.join(days)}; medians of at least {ENOUGH} pairs and their quartiles, or of as many runs "
        f"where no number is given. {'; '.join(machines)}.",
    ]
    return "\n".join(lines) + "\n"


def into_readme(text: str, rows: Iterable[Row]) -> str:
    """Put the short table where the README keeps it."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + in_words(rows) + END + rest.split(END, 1)[1]


ENOUGH = 7  # pairs, for a median to stand in the table without a word
PARTS = ("collectives", "modes", "training", "generation", "bpe", "launching", "simulator", "answering", "notebooks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=9, help=f"pairs of each, at least {ENOUGH} for the table")
    parser.add_argument("--csv", type=Path, default=TABLE, help="write elsewhere, to try; the README then stays")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for row in read(options.csv) if row.part not in options.parts]
    for row in measure(options.parts, options.rounds):
        rows.append(row)
        write(rows, options.csv)  # what is measured is kept, whatever happens to the rest
    if options.csv == TABLE:
        README.write_text(into_readme(README.read_text(encoding="utf-8"), read()), encoding="utf-8")


if __name__ == "__main__":
    main()
