"""One simulated run: ranks take turns, what they post meets, and virtual time moves on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from llmlab.comm import reports
from llmlab.comm.copying import Copies
from llmlab.comm.errors import DeadlockError, RankError
from llmlab.comm.seeding import RandomState
from llmlab.comm.simulated.clock import PS, Logged, Timeline, known, settled
from llmlab.comm.simulated.folding import Alike
from llmlab.comm.simulated.meeting import Meeting
from llmlab.comm.simulated.naming import OPTIMIZER, watch_modules
from llmlab.comm.simulated.printing import Printing, Progress
from llmlab.comm.simulated.rank import Rank
from llmlab.comm.simulated.scheduler import Scheduler, Task
from llmlab.comm.simulated.striking import Faults
from llmlab.comm.simulated.surroundings import Surroundings, one_thread_at_a_time, without_collector
from llmlab.comm.trace import Run, Trace
from llmlab.comm.turns import turn
from llmlab.hardware import cluster as find_cluster

if TYPE_CHECKING:
    from llmlab.comm.simulator import Simulator

NOT_MODELLED = (
    "memory fragmentation", "clock throttling", "switch congestion", "tile quantisation",
    "compilers and graphs", "data loading", "work on the host",
)  # fmt: skip


_IN_ORDER = itemgetter(*map(Logged._fields.index, ("start", "rank", "stop", "op")))  # attributes take twice as long


class Simulation:
    """One run: the ranks, what they have posted, and the clock."""

    def __init__(
        self,
        options: Simulator,
        worker: Callable[..., Any],
        args: tuple,
        kwargs: dict,
        surroundings: Surroundings | None = None,
        alike: Alike | None = None,
    ):
        self.options, self.cluster = options, find_cluster(options.cluster)
        self.surroundings = surroundings or Surroundings()
        self.copies = Copies(worker, args, kwargs, meta=not options.numerics)
        self.timeline, self.printing = Timeline(options.comm_slows_matmul), Printing(alike is not None)
        self.events: list[Logged] = []
        self.scheduler = Scheduler(idle=self._idle, on_switch=self._advance)
        self.alike, self.fold = alike, () if alike is not None else options.fold
        self.folding: dict[int, int] | None = None if set(self.fold) - {"world"} else {}
        if alike is not None:
            self.folding = alike.stands
        if "world" in self.fold:
            self.folding = dict.fromkeys(range(options.ranks), 0)
        self.everyone = tuple(range(options.ranks))
        self.ranks: dict[int, Rank] = {}
        self.faults = Faults(options.faults) if options.faults else None
        self._switches = 0
        self._progress = Progress(self.printing, options.ranks)
        self.meeting = Meeting(self, self.faults)

    # --- a run ----------------------------------------------------------------------------------------------------

    def run(self) -> Run:
        first = [0] if self.fold else range(self.options.ranks) if self.alike is None else self.alike.running
        with turn(), without_collector():
            with self._surroundings():
                for number in first:
                    self.start_rank(number)
                self.scheduler.run(every=0.05, meanwhile=self._meanwhile)
                if self.alike is not None:
                    self.alike.ended()
                self.meeting.check_nothing_left()
                while self.timeline.next_event() is not None:
                    self.timeline.step()
            return self._report()

    def _meanwhile(self) -> None:
        """Show what ranks print; and of very many ranks, every few seconds, how far they are."""
        self.printing.flush()
        self._progress.show(self.scheduler.tasks)

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """One intra-op thread, prints caught, the optimizers heard; all as before afterwards."""
        with ExitStack() as after:
            after.enter_context(one_thread_at_a_time())
            after.callback(register_optimizer_step_pre_hook(self._enter_optimizer).remove)
            after.callback(register_optimizer_step_post_hook(self._leave_optimizer).remove)
            after.callback(self._close_meters)
            if self.options.kernels:
                watch_modules(after, self._rank_now)
            after.enter_context(self.printing.caught(self._who_runs_now))
            after.enter_context(self.surroundings.around(self))
            yield

    def _report(self) -> Run:
        stands_for = [self.ranks[self.stand_in(number)] for number in range(self.options.ranks)]
        self.events.sort(key=_IN_ORDER)
        events = tuple(logged.event() for logged in self.events)
        end = max([e.stop for e in self.events] + [known(settled(rank.end())) for rank in self.ranks.values()])
        meta = () if self.options.numerics else ("values: what depends on them is balanced",)
        label = self.cluster.name + (" (fictional)" if self.cluster.fictional else "")
        return Run(
            results=[rank.result for rank in stands_for],
            seconds=end / PS,
            clock="virtual",
            trace=Trace(events, "virtual", label),
            memory=[rank.meter.report() for rank in stands_for],
            output=[self.printing.of(rank.number) for rank in stands_for],
            hardware=label,
            not_modelled=NOT_MODELLED
            + meta
            + (() if self.options.kernels else ("kernels",))
            + self.surroundings.not_modelled,
        )

    def _enter_optimizer(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        rank = self._rank_now()
        if rank is not None:
            rank.in_optimizer = True
            rank.meter.names.within.append(OPTIMIZER)

    def _leave_optimizer(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Count as optimizer state what the optimizer holds, however it made it."""
        rank = self._rank_now()
        if rank is None:
            return
        rank.in_optimizer = False
        rank.meter.names.leave()
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    rank.meter.place(value, "optimizer state")
        rank.meter.name_what_steps(optimizer)

    def _close_meters(self) -> None:
        for rank in self.ranks.values():
            rank.meter.close()

    def _rank_now(self) -> Rank | None:
        number = self._who_runs_now()
        return None if number is None else self.ranks[number]

    def _who_runs_now(self) -> int | None:
        return None if self.scheduler.current is None else self.scheduler.current.number

    # --- ranks ----------------------------------------------------------------------------------------------------

    def start_rank(self, number: int) -> None:
        rank = self.ranks[number] = Rank(self, number)
        rank.task = Task(number, rank.body, RandomState(self.options.seed, number))
        self.surroundings.prepare(rank)
        self.scheduler.add(rank.task)

    def stand_in(self, number: int) -> int:
        """The rank that runs for this one."""
        return number if not self.folding else self.folding[number]

    def fold_along(self, families: dict[str, list[tuple[int, ...]]]) -> None:
        """Hear of the first rank's mesh: ranks alike along the folded axes are stood for by the lowest."""
        if self.alike is not None:
            self.alike.along(families)
            self._fold(self.alike.stands)
        if self.folding is not None:
            return
        missing = [axis for axis in self.fold if axis not in families]
        if missing:
            raise ValueError(f"fold={tuple(self.fold)} wants axes of the Mesh, which has {', '.join(families)}")
        stand_in = list(range(self.options.ranks))
        for axis in self.fold:
            lowest = {rank: min(members) for members in families[axis] for rank in members}
            stand_in = [lowest[rank] for rank in stand_in]
        self._fold(dict(enumerate(stand_in)))

    def fold_world(self) -> None:
        """Somebody communicates, and there is no Mesh: the world is the only axis."""
        assert self.alike is not None
        self.alike.decide({"world": [self.everyone]})
        self._fold(self.alike.stands)

    def _fold(self, stand_in: dict[int, int] | None) -> None:
        """Go on with those who run; `stand_in` says for each rank who does, and for none that all do."""
        self.folding = stand_in
        for number in sorted(set((stand_in or {}).values() or range(self.options.ranks)) - set(self.ranks)):
            self.start_rank(number)

    # --- time moves -----------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Now and then, replay the flows that nothing still to be issued can come before."""
        self._switches += 1
        if self._switches % (len(self.ranks) + 1):
            return
        while (moment := self.timeline.next_event()) is not None:
            live = (rank.host for rank in self.ranks.values() if rank.task.status != "done")
            if any(isinstance(host, int) and host < moment for host in map(settled, live)):
                return
            self.timeline.step()

    def _idle(self) -> bool:
        """Nobody can run: let time move until a rank wakes. False, and the run fails, if nothing wakes one."""
        try:
            self._wake_those_who_asked_the_time()
            while not self.scheduler.ready:
                moment = self.timeline.next_event()
                if self.meeting.deliver_earliest(before=moment):
                    continue
                if moment is not None:
                    self.timeline.step()
                    self._wake_those_who_asked_the_time()
                else:
                    self.scheduler.fail(self._deadlock())
                    return False
        except RankError as error:
            self.scheduler.fail(error)
            return False
        return True

    def _wake_those_who_asked_the_time(self) -> None:
        for rank in self.ranks.values():
            if rank.wants_time and isinstance(settled(rank.host), int):
                self.scheduler.wake(rank.task)

    def _deadlock(self) -> DeadlockError:
        stuck = next(n for n, rank in sorted(self.ranks.items()) if rank.task.status == "waiting")
        return reports.deadlock(self._doing(), stuck)

    def all_doing(self) -> str:
        """A line for every rank that runs: what it is at."""
        return reports.by_rank(self._doing())

    def _doing(self) -> dict[int, str]:
        return {n: rank.doing() for n, rank in self.ranks.items()}
