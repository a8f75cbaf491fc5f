"""One simulated rank: the engine its groups talk through, its two clocks and its memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmlab.comm import reports
from llmlab.comm.call import Call
from llmlab.comm.copying import check_result
from llmlab.comm.errors import RaceError, RankError, rank_error
from llmlab.comm.group import Group
from llmlab.comm.simulated import matching
from llmlab.comm.simulated.charging import Clocks
from llmlab.comm.simulated.clock import known, settled
from llmlab.comm.simulated.folding import Unalike, WatchedGroup
from llmlab.comm.simulated.matching import Post
from llmlab.comm.simulated.memory import MemoryMeter
from llmlab.comm.simulated.recorder import Interceptor, Recorder, unseen
from llmlab.comm.simulated.scheduler import Aborted, Task
from llmlab.comm.turns import as_rank
from llmlab.comm.where import Place, describe, worker_line

if TYPE_CHECKING:
    from llmlab.comm.simulated.simulation import Simulation


class Rank(Clocks):
    """One simulated rank: the Engine its Groups talk through, its two clocks and its memory."""

    def __init__(self, simulation: Simulation, number: int):
        options, cluster = simulation.options, simulation.cluster
        super().__init__(
            number,
            options.devices.get(number, cluster.device),
            simulation.timeline,
            simulation.events,
            cost_dtype=options.cost_dtype,
            speed=options.speeds.get(number, 1.0),
            jitter=options.jitter,
            seed=options.seed,
        )
        self.simulation, self.scheduler = simulation, simulation.scheduler
        self.on_meta = not options.numerics
        self.device = torch.device("meta" if self.on_meta else "cpu")
        capacity = self.hardware.memory_bytes if options.out_of_memory == "raise" else None
        self.meter = MemoryMeter(number, self.hardware.name, capacity)
        self.recorder, self.interceptor = Recorder(self), Interceptor(self)
        self.task: Task = None  # type: ignore[assignment]  # set by start_rank
        self.handles: dict[int, Post] = {}  # begun and not waited for
        self.in_flight: dict[int, Post] = {}  # their outputs, which nobody may touch
        self.waiting_for: Post | None = None
        self.wants_time = False
        self.in_optimizer = False
        self.raised = ""
        self.result: Any = None

    # --- running ----------------------------------------------------------------------------------------------------

    def body(self) -> None:
        """The rank's thread."""
        simulation = self.simulation
        try:
            worker, args, kwargs = simulation.copies.make()
            make = Group if simulation.alike is None else WatchedGroup
            world = make(simulation.everyone, self.number, "world", self)
            with ExitStack() as modes:
                modes.enter_context(as_rank())
                if not simulation.options.numerics:
                    modes.enter_context(torch.device("meta"))
                if simulation.options.kernels:
                    modes.enter_context(self.interceptor)
                    modes.enter_context(self.recorder)
                self.result = check_result(worker(world, *args, **kwargs))
        except Aborted:
            raise
        except RankError as error:
            self.scheduler.fail(error)
        except (Exception, SystemExit) as error:
            self.raised = type(error).__name__
            note = f"all ranks:\n{simulation.all_doing()}" if len(simulation.ranks) > 1 else ""
            self.scheduler.fail(rank_error(self.number, error, note))

    def doing(self) -> str:
        """What this rank is at, for reports."""
        if self.task.status == "done":
            return reports.RETURNED
        if self.raised:
            return f"raised {self.raised}"
        if self.waiting_for is not None:
            return reports.waits_in(self.waiting_for.side)
        frame = sys._current_frames().get(self.task.thread) if self.task.thread is not None else None
        return "has not begun" if frame is None else f"is at {describe(worker_line(frame))}"

    def check_running(self) -> None:
        if self.scheduler.aborting:
            raise Aborted

    # --- Engine -----------------------------------------------------------------------------------------------------

    def start(self, group: Group, call: Call) -> Post:
        self.check_running()
        simulation = self.simulation
        if simulation.faults is not None:
            simulation.faults.strike(self.number, self._device_clock)
        place = worker_line(sys._getframe(1))
        self.meter.names.operation = call.name
        with unseen():
            for x in () if call.takes else call.tensors:
                self.meter.place(x)
            post = self._post(group, call, place)
            self.handles[id(post)] = post
            self.or_end(simulation.meeting.post, post)
        return post

    def _post(self, group: Group, call: Call, place: Place) -> Post:
        """Make this rank's side of an operation: it is ready when host, compute and the group's last one are."""
        key = self.simulation.meeting.matcher.key_of(group)
        self.spend_launch()
        result = None
        if call.is_message:
            ready = self.timeline.latest(self.host, self.compute)
        else:
            ready = self.timeline.latest(self.host, self.compute, self.streams.get(key, 0))
            result = matching.result_like(call, group.size, group.rank)
            if result is not None:
                self.meter.place(result, None if call.out is not None else "communication")
        post = Post(self, group, call, key, place, ready, self.compute, result)
        if call.out is not None:
            self.in_flight[call.out.untyped_storage()._cdata] = post
        return post

    def wait(self, post: Post) -> Any:
        self.check_running()
        if not post.matched:
            self.waiting_for = post
            self.scheduler.wait(lambda: post.matched)
            self.waiting_for = None
        elif self.scheduler.ready:
            self.scheduler.yield_turn()  # the lowest rank goes on first, not the one that came last
        self.handles.pop(id(post), None)
        if post.call.out is not None:
            self.in_flight.pop(post.call.out.untyped_storage()._cdata, None)
        if not post.waited:
            if post.versions:
                with torch._C.DisableTorchFunction():
                    self.or_end(self.check_unchanged, post)
            post.waited, post.versions = True, []
        if self.compute is post.compute:  # which it ends after
            self.compute = settled(post.end)
        else:
            self.compute = self.timeline.latest(self.compute, post.end)
        if self._one_clock or post.call.op == "barrier":
            self.host = self.timeline.latest(self.host, post.end)
        return post.result

    def prepare(self, families: dict[str, list[tuple[int, ...]]]) -> None:
        self.or_end(self.simulation.fold_along, families)

    def _device_clock(self) -> float:
        """The time once the device has done all that it was given; the host waits for it."""
        self.synchronize()
        return self.clock()

    def clock(self) -> float:
        while (now := self.known_host()) is None:
            self.wants_time = True
            self.scheduler.pause()
            self.wants_time = False
        return now

    # --- messages -----------------------------------------------------------------------------------------------------

    def received(self, post: Post) -> None:
        """Take note of a result: whose memory it is, and that writing it was us."""
        if post.call.out is not None:
            post.versions = [(x, x._version) for x, _ in post.versions]
        elif not post.made:  # what was made when it was posted has its place
            self.meter.names.operation = post.call.name
            for x in post.result if isinstance(post.result, list) else [post.result]:
                if x is not None:
                    self.meter.place(x, "communication")

    def log_comm(self, post: Post) -> None:
        call, axis, ready, end = post.call, post.group.axis, post.ready, post.end
        peer = None if call.peer is None else post.group.members[call.peer]
        op, nbytes = call.name, call.nbytes  # not the call: time may come to this long after its tensors go

        def log() -> None:
            self._log("comm", op, axis, nbytes, 0, known(ready), known(end), peer)

        end.waiters.append(log)  # by then it is known when it was ready

    def check_unchanged(self, post: Post) -> None:
        """Raise RaceError if a buffer in flight was written to."""
        if post.changed:
            raise self._race(f"rank {self.number} changed a buffer between an asynchronous call and its wait()", post)

    def check_race(self, inputs: list[Tensor]) -> None:
        """End the run with a RaceError if an operation touches the output of a collective that is not waited for."""
        for x in inputs:
            post = self.in_flight.get(x.untyped_storage()._cdata)
            if post is not None:
                text = f"rank {self.number} touched a buffer that a collective is writing, before its wait()"
                self.scheduler.fail(self._race(text, post))
                raise Aborted

    def _race(self, text: str, post: Post) -> RaceError:
        return RaceError(f"{text}\n  begun: {post.side}\nall ranks:\n{self.simulation.all_doing()}", self.number)

    def or_end(self, action: Callable[..., None], *args: Any) -> None:
        """Do something whose failure ends the run for all ranks, whatever the worker catches."""
        try:
            action(*args)
        except (RankError, Unalike) as error:
            self.scheduler.fail(error)
            raise Aborted from None
