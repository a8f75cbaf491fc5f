"""A worker at several rank counts, measured (wall clock) or modelled (virtual clock), as one tidy table.

A table has one clock, so no speed-up is ever a wall-clock time over a modelled one.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

from llmlab.arguments import choice, flag, function, instance, instances, listing, real, string, table, whole
from llmlab.comm.trace import Run
from llmlab.hardware import describe_machine

CLOCKS = {"wall": "measured", "virtual": "modelled"}
WORKS = ("strong", "weak")


@dataclass(frozen=True)
class Row:
    """One run of the worker.

    `speedup`: the reference's median seconds over these seconds; under weak scaling times ranks / reference_ranks,
    since that much more work was done. `claimed` is False for a wall-clock time of more ranks than there are
    processors: such ranks take turns, so their speed-up says nothing about the worker.
    """

    worker: str
    ranks: int
    repeat: int
    seconds: float
    clock: str  # "wall" or "virtual"
    hardware: str
    work: str  # "strong" or "weak"
    speedup: float
    reference_ranks: int
    claimed: bool

    @property
    def ideal(self) -> float:
        """The speed-up of ranks that never wait."""
        return self.ranks / self.reference_ranks

    @property
    def efficiency(self) -> float:
        return self.speedup / self.ideal


@dataclass(frozen=True)
class Table:
    """Rows of one worker, one clock and one kind of work, ordered by ranks, then repeat."""

    rows: tuple[Row, ...]
    not_modelled: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rows = instances("Table", "rows", self.rows, Row, "tabulate(runs) makes them")
        object.__setattr__(self, "rows", tuple(rows))
        for column in ("clock", "work"):
            found = sorted({getattr(row, column) for row in self.rows})
            if len(found) != 1:
                raise ValueError(f"a table wants rows of one {column}, got {' and '.join(found) or 'no rows'}")

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def clock(self) -> str:
        return self.rows[0].clock

    @property
    def work(self) -> str:
        return self.rows[0].work

    @property
    def worker(self) -> str:
        return self.rows[0].worker

    @property
    def hardware(self) -> str:
        """What it ran on (the fewest ranks, should that differ)."""
        return self.rows[0].hardware

    @property
    def reference(self) -> str:
        """What every speed-up of this table is over, in words."""
        row, kind = self.rows[0], CLOCKS[self.clock]
        return f"{row.worker} on {count(row.reference_ranks, 'rank')}, {kind} on {row.hardware}"

    def by_ranks(self) -> dict[int, list[Row]]:
        """Collect the repeats of each rank count."""
        repeats = defaultdict(list)
        for row in self.rows:
            repeats[row.ranks].append(row)
        return dict(repeats)

    def median(self, column: str = "seconds") -> dict[int, float]:
        """Give the median of a column over the repeats, for each rank count."""
        return {ranks: median(getattr(row, column) for row in rows) for ranks, rows in self.by_ranks().items()}

    def to_csv(self, path: str | Path | None = None) -> str:
        """Give the table as CSV, one line per row, and write it to `path` if there is one."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*_COLUMNS, "not_modelled"])
        for row in self.rows:
            writer.writerow([*asdict(row).values(), "; ".join(self.not_modelled)])
        if path is not None:
            instance("to_csv", "path", path, (str, Path))
            Path(path).write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    @classmethod
    def from_csv(cls, path: str | Path) -> Table:
        """Read what `to_csv` wrote."""
        instance("from_csv", "path", path, (str, Path))
        with open(path, newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        missing = [name for name in _COLUMNS if lines and name not in lines[0]]
        if missing:
            raise ValueError(f"{path} wants the columns of Table.to_csv, got none named {', '.join(missing)}")
        rows = tuple(Row(**{name: _READ.get(name, str)(line[name]) for name in _COLUMNS}) for line in lines)
        left_out = lines[0].get("not_modelled") if lines else None
        return cls(rows, tuple(left_out.split("; ")) if left_out else ())

    def __str__(self) -> str:
        head = f"{self.worker}, {self.work} scaling; speed-up over {self.reference}"
        lines = [head, "ranks  repeats  seconds (min to max)               speed-up  efficiency"]
        for ranks, rows in self.by_ranks().items():
            seconds = [row.seconds for row in rows]
            spread = f"{median(seconds):.6g} ({min(seconds):.6g} to {max(seconds):.6g})"
            figures = f"{median(r.speedup for r in rows):8.2f}  {median(r.efficiency for r in rows):10.0%}"
            none = "no claim: more ranks than processors"
            lines.append(f"{ranks:5}  {len(rows):7}  {spread:33}  {figures if rows[0].claimed else none}")
        return "\n".join(lines)


_COLUMNS = tuple(field.name for field in fields(Row))
_READ: dict[str, Callable[[str], Any]] = {
    "ranks": int, "repeat": int, "seconds": float, "speedup": float, "reference_ranks": int, "claimed": "True".__eq__,
}  # fmt: skip


def measure(
    worker: Callable[..., Any],
    *args: Any,
    ranks: Sequence[int] = (1, 2, 4),
    engine: Callable[..., Any],
    repeats: int = 3,
    work: str = "strong",
    seconds: Callable[[Run], float] | None = None,
    processors: int | None = None,
    progress: bool = True,
) -> Table:
    """Run `worker(world, *args)` on each number of ranks, `repeats` times, and tabulate seconds and speed-ups.

    engine: called as engine(ranks=n), gives what has a `run`: lab.Simulator, lab.Processes, or a partial of one. What
    can be started, as processes can, is started once for each number of ranks and not for each repeat.
    work: "strong" if the whole work is the same on any number of ranks, "weak" if each rank's is.
    seconds: what to take from a Run instead of its `seconds`, such as a time the worker took with world.clock().
    processors: how many ranks can truly run at once; None: this machine's cores.

    Repeats go through the rank counts in turn, there and back, so that a machine that slows down is unfair to none of
    them. A virtual clock gives the same time every time, so it runs once.
    """
    from tqdm.auto import tqdm  # in a notebook it brings ipywidgets, which importing llmlab should not

    counts, runs = _ranks(ranks), []
    function("measure", "worker", worker, "world, ...")
    function("measure", "engine", engine, "ranks=n")
    whole("measure", "repeats", repeats, least=1)
    flag("measure", "progress", progress)
    _check("measure", work, seconds, processors)
    with (
        tqdm(total=len(counts) * repeats, desc=_name(worker), unit="run", disable=not progress) as bar,
        ExitStack() as started,
    ):
        engines = {n: engine(ranks=n) for n in counts}
        for each in engines.values():
            if isinstance(each, AbstractContextManager):
                started.enter_context(each)
        for repeat in range(repeats):
            for n in counts if repeat % 2 == 0 else reversed(counts):
                runs.append(engines[n].run(worker, *args))
                bar.update()
            if runs[-1].clock == "virtual":
                bar.total = len(runs)  # the other repeats would be equal to the bit
                bar.refresh()
                break
    return tabulate(runs, worker=_name(worker), work=work, seconds=seconds, processors=processors)


def tabulate(
    runs: Iterable[Run],
    *,
    worker: str = "worker",
    work: str = "strong",
    seconds: Callable[[Run], float] | None = None,
    processors: int | None = None,
) -> Table:
    """Make the table of runs there are; the reference is the median of those on the fewest ranks."""
    runs = instances("tabulate", "runs", runs, Run, "what engine.run(worker) gives")
    string("tabulate", "worker", worker)
    _check("tabulate", work, seconds, processors)
    clocks = sorted({run.clock for run in runs})
    if len(clocks) != 1:
        raise ValueError(
            "a speed-up wants runs of one clock, measured (wall) or modelled (virtual), got "
            f"{' and '.join(clocks) or 'no runs'}"
        )
    timed = [(run.ranks, run.seconds if seconds is None else seconds(run), run.hardware) for run in runs]
    not_modelled = tuple(dict.fromkeys(item for run in runs for item in run.not_modelled))
    return _table(timed, clocks[0], worker, work, processors, not_modelled)


def tabulate_seconds(
    seconds: Mapping[int, float],
    *,
    clock: str,
    hardware: str,
    worker: str = "worker",
    work: str = "strong",
    not_modelled: tuple[str, ...] = (),
) -> Table:
    """Make a table of seconds by number of ranks that did not come from a Run, such as predictions."""
    choice("tabulate_seconds", "clock", clock, CLOCKS)
    choice("tabulate_seconds", "work", work, WORKS)
    for name, words in (("hardware", hardware), ("worker", worker)):
        string("tabulate_seconds", name, words)
    by_ranks = table("tabulate_seconds", "seconds", seconds, "{ranks: seconds}")
    timed = [(whole("tabulate_seconds", "ranks", ranks, 1), s, hardware) for ranks, s in by_ranks.items()]
    return _table(timed, clock, worker, work, None, not_modelled)


def _table(
    timed: list[tuple[int, float, str]],
    clock: str,
    worker: str,
    work: str,
    processors: int | None,
    not_modelled: tuple[str, ...],
) -> Table:
    """Turn (ranks, seconds, hardware) into rows with their repeat and speed-up."""
    for ranks, s, _ in timed:
        real("a speed-up", f"seconds on {count(ranks, 'rank')}", s, above=0)
    fewest = min(ranks for ranks, _, _ in timed)
    reference = median(s for ranks, s, _ in timed if ranks == fewest)
    limit = describe_machine().cores if processors is None else processors
    rows: list[Row] = []
    repeats: Counter[int] = Counter()
    for ranks, s, hardware in timed:
        speedup = reference / s * (ranks / fewest if work == "weak" else 1)
        claimed = clock == "virtual" or ranks <= limit
        shared = hardware.removeprefix(f"{ranks} ")  # "4 processes over gloo ...": the 4 is in `ranks`
        rows.append(Row(worker, ranks, repeats[ranks], s, clock, shared, work, speedup, fewest, claimed))
        repeats[ranks] += 1
    return Table(tuple(sorted(rows, key=lambda row: (row.ranks, row.repeat))), not_modelled)


def count(n: int, noun: str) -> str:
    """Say `1 rank` but `2 ranks`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _name(worker: Callable[..., Any]) -> str:
    return getattr(worker, "__name__", type(worker).__name__)


def _ranks(ranks: Sequence[int]) -> list[int]:
    counts = sorted(
        whole("measure", "ranks", n, least=1) for n in listing("measure", "ranks", ranks, "counts of ranks")
    )
    if not counts or len(set(counts)) != len(counts):
        raise ValueError(f"measure wants ranks as different whole numbers of at least 1, got {ranks!r}")
    return counts


def _check(call: str, work: str, seconds: Callable[[Run], float] | None, processors: int | None) -> None:
    choice(call, "work", work, WORKS)
    if seconds is not None:
        function(call, "seconds", seconds, "run")
    if processors is not None:
        whole(call, "processors", processors, least=1)
