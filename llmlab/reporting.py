"""What a practitioner asks of a run, on one page: how long, what is exposed, what is held at the peak, what is left.

`print(lab.report(run))`; the picture beside it is `lab.plot.timeline(run.trace)`, and `run.trace.to_chrome(path)` opens
in ui.perfetto.dev.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmlab.arguments import instance, whole
from llmlab.comm.simulated.memory import amount
from llmlab.comm.trace import Held, Memory, Run, union_seconds
from llmlab.diagnosing import met_of

Traffic = tuple[str, str]  # operation and axis: ("all_gather", "dp")


@dataclass(frozen=True)
class Report:
    """One run. exposed: seconds of each operation that no kernel hides, by (operation, axis), a rank's mean.

    computing: seconds in which a rank's device runs a kernel, the mean of ranks.  travelling: seconds, hidden or not.
    handed_over: bytes.  busiest: the rank whose memory is the fullest, and what it holds at its peak.
    """

    ranks: int
    seconds: float
    computing: float
    exposed: Mapping[Traffic, float]
    travelling: Mapping[Traffic, float]
    handed_over: Mapping[Traffic, float]
    busiest: tuple[int, Memory]
    hardware: str
    modelled: bool
    not_modelled: tuple[str, ...]
    names: int

    def __str__(self) -> str:
        kind = "modelled" if self.modelled else "measured"
        lines = [f"{self.ranks} ranks, {say_seconds(self.seconds)} {kind} on {self.hardware}"]
        lines.append(f"kernels run {self.computing / self.seconds:.0%} of the time" if self.seconds else "")
        lines += self._traffic_lines() + self._memory_lines()
        lines.append(f"not modelled: {', '.join(self.not_modelled)}" if self.not_modelled else "")
        return "\n".join(line for line in lines if line)

    def _traffic_lines(self) -> list[str]:
        rows = sorted(self.exposed, key=lambda key: -self.exposed[key])
        head = f"{'operation':<16}{'axis':<10}{'a rank hands over':>18}{'travels':>12}{'exposed':>12}"
        return [head] * bool(rows) + [
            f"{op:<16}{axis:<10}{amount(self.handed_over[op, axis]):>18}"
            f"{say_seconds(self.travelling[op, axis]):>12}{say_seconds(self.exposed[op, axis]):>12}"
            for op, axis in rows
        ]

    def _memory_lines(self) -> list[str]:
        rank, memory = self.busiest
        held = {name: nbytes for name, nbytes in memory.at_peak.items() if nbytes}
        if not held:
            return []
        parts = ", ".join(f"{name} {amount(nbytes)}" for name, nbytes in sorted(held.items(), key=lambda p: -p[1]))
        head = f"the fullest, rank {rank}, holds {amount(memory.total)} at its peak: {parts}"
        return [head, *held_lines(memory.tensors, self.names)]


def report(run: Run, names: int = 8) -> Report:
    """Answer what a practitioner asks of a run: time, exposed communication by axis, memory at the peak.

    names: of how many of the tensors held at the peak; the small ones are summed. `run.held()` has all of them.
    """
    instance("report", "run", run, Run, "what engine.run(worker) gives, not its trace")
    whole("report", "names", names, least=0)
    trace = run.trace
    ranks = sorted({event.rank for event in trace}) or [0]
    met = met_of(trace)
    computing, exposed, travelling, handed = 0.0, dict[Traffic, float](), dict[Traffic, float](), dict[Traffic, float]()
    for rank in ranks:
        kernels = [(event.start, event.stop) for event in trace.select(rank=rank, stream="compute")]
        computes = union_seconds(kernels)
        computing += computes / len(ranks)
        messages = list(trace.select(rank=rank, stream="comm"))
        for key in sorted({(event.op, event.axis) for event in messages}):
            mine = [event for event in messages if (event.op, event.axis) == key]
            travels = [(met[event], event.stop) for event in mine]
            for table, more in (
                (exposed, union_seconds(kernels + travels) - computes),
                (travelling, union_seconds(travels)),
                (handed, float(sum(event.nbytes for event in mine))),
            ):
                table[key] = table.get(key, 0.0) + more / len(ranks)
    memory = run.memory[run.fullest] if run.memory else Memory()
    return Report(
        run.ranks, run.seconds, computing, exposed, travelling, handed, (run.fullest, memory), run.hardware,
        run.clock == "virtual", run.not_modelled, names,
    )  # fmt: skip


def held_lines(tensors: Sequence[Held], most: int) -> list[str]:
    """A line for each of the largest, and one for the rest: bytes, category, name."""
    if not tensors or not most:
        return []
    lines = [
        f"{amount(held.nbytes):>12}  {held.category:<16}{held.name}{f'  x {held.count}' if held.count > 1 else ''}"
        for held in tensors[:most]
    ]
    rest = tensors[most:]
    count = sum(held.count for held in rest)
    return lines + [f"{amount(sum(held.nbytes for held in rest)):>12}  in {count} smaller"] * bool(rest)


def say_seconds(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds / 1e-6:.4g} us"
