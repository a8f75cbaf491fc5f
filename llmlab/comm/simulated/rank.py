"""One simulated rank: the engine its groups talk through, its two clocks and its memory.

As on a GPU, the host launches kernels and the device runs them, each on its own clock: a kernel starts at the later of
the host's launch and the stream's last one; wait() joins streams; only what needs a value on the host joins the clocks.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmlab.comm import reports
from llmlab.comm.call import Call
from llmlab.comm.copying import check_result
from llmlab.comm.errors import RaceError, RankError, rank_error
from llmlab.comm.group import Group
from llmlab.comm.simulated import matching
from llmlab.comm.simulated.clock import PS, Flow, Logged, Time, When, known, least, picoseconds, settled
from llmlab.comm.simulated.folding import Unalike, WatchedGroup
from llmlab.comm.simulated.matching import Post
from llmlab.comm.simulated.memory import MemoryMeter
from llmlab.comm.simulated.recorder import Interceptor, Recorder, unseen
from llmlab.comm.simulated.scheduler import Aborted, Task
from llmlab.comm.turns import as_rank
from llmlab.comm.where import Place, describe, worker_line

if TYPE_CHECKING:
    from llmlab.comm.simulated.simulation import Simulation

WIDTHS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}
COST_BYTES = {"fp8": 1, "bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}


class Rank:
    """One simulated rank: the Engine its Groups talk through, its two clocks and its memory."""

    def __init__(self, simulation: Simulation, number: int):
        options, cluster = simulation.options, simulation.cluster
        self.simulation, self.number = simulation, number
        self.hardware = options.devices.get(number, cluster.device)
        self.on_meta = not options.numerics
        self.device = torch.device("meta" if self.on_meta else "cpu")
        capacity = self.hardware.memory_bytes if options.out_of_memory == "raise" else None
        self.meter = MemoryMeter(number, self.hardware.name, capacity)
        self.recorder, self.interceptor = Recorder(self), Interceptor(self)
        self.task: Task = None  # type: ignore[assignment]  # set by start_rank
        self.host: Time = 0
        self.compute: Time = 0
        self.streams: dict[Any, Time] = {}
        self.handles: dict[int, Post] = {}  # begun and not waited for
        self.in_flight: dict[int, Post] = {}  # their outputs, which nobody may touch
        self.waiting_for: Post | None = None
        self.wants_time = False
        self.in_optimizer = False
        self.raised = ""
        self.result: Any = None
        self._launch = picoseconds(self.hardware.launch_s)
        self._speed = options.speeds.get(number, 1.0)
        self._dice = random.Random(f"{options.seed} {number}")
        self._cost_bytes = COST_BYTES[options.cost_dtype]
        self._seconds: dict[tuple, float] = {}

    # --- running ----------------------------------------------------------------------------------------------------

    def body(self) -> None:
        """The rank's thread."""
        simulation = self.simulation
        try:
            worker, args, kwargs = simulation.copies.make()
            make = Group if simulation.alike is None else WatchedGroup
            world = make(tuple(range(simulation.options.ranks)), self.number, "world", self)
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
            simulation.scheduler.fail(error)
        except (Exception, SystemExit) as error:
            self.raised = type(error).__name__
            note = f"all ranks:\n{simulation.all_doing()}" if len(simulation.ranks) > 1 else ""
            simulation.scheduler.fail(rank_error(self.number, error, note))

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
        if self.simulation.scheduler.aborting:
            raise Aborted

    # --- Engine -----------------------------------------------------------------------------------------------------

    def start(self, group: Group, call: Call) -> Post:
        self.check_running()
        if self.simulation.faults is not None:
            self.simulation.faults.strike(self.number, self._device_clock)
        place = worker_line(sys._getframe(1))
        self.meter.names.operation = call.name
        with unseen():
            for x in () if call.takes else call.tensors:
                self.meter.place(x)
            post = self._post(group, call, place)
            self.handles[id(post)] = post
            self.or_end(self.simulation.post, post)
        return post

    def _post(self, group: Group, call: Call, place: Place) -> Post:
        """Make this rank's side of an operation: it is ready when host, compute and the group's last one are."""
        key = self.simulation.matcher.key_of(group)
        self._spend_launch()
        ready, result = [self.host, self.compute], None
        if not call.is_message:
            ready.append(self.streams.get(key, 0))
            result = matching.result_like(call, group.size, group.rank)
            if result is not None:
                self.meter.place(result, None if call.out is not None else "communication")
        post = Post(self, group, call, key, place, self.simulation.timeline.latest(*ready), self.compute, result)
        if call.out is not None:
            self.in_flight[call.out.untyped_storage()._cdata] = post
        return post

    def wait(self, post: Post) -> Any:
        self.check_running()
        if not post.matched:
            self.waiting_for = post
            self.simulation.scheduler.wait(lambda: post.matched)
            self.waiting_for = None
        elif self.simulation.scheduler.ready:
            self.simulation.scheduler.yield_turn()  # the lowest rank goes on first, not the one that came last
        self.handles.pop(id(post), None)
        if post.call.out is not None:
            self.in_flight.pop(post.call.out.untyped_storage()._cdata, None)
        if not post.waited:
            with torch._C.DisableTorchFunction():
                self.or_end(self.check_unchanged, post)
            post.waited = True
            post.versions = []
        timeline = self.simulation.timeline
        if self.compute is post.compute:  # which it ends after
            self.compute = settled(post.end)
        else:
            self.compute = timeline.latest(self.compute, post.end)
        if self.hardware.one_clock or post.call.op == "barrier":
            self.host = timeline.latest(self.host, post.end)
        return post.result

    def prepare(self, families: dict[str, list[tuple[int, ...]]]) -> None:
        self.or_end(self.simulation.fold_along, families)

    def synchronize(self) -> None:
        self.host = self.simulation.timeline.latest(self.host, self.compute)

    def _device_clock(self) -> float:
        """The time once the device has done all that it was given; the host waits for it."""
        self.synchronize()
        return self.clock()

    def clock(self) -> float:
        self.host = settled(self.host)
        if isinstance(self.host, When):
            self.wants_time = True
            self.simulation.scheduler.wait(lambda: isinstance(settled(self.host), int))
            self.wants_time = False
        return known(self.host) / PS

    def sleep(self, seconds: float) -> None:
        self.host = self.simulation.timeline.later(self.host, picoseconds(seconds))
        if self.hardware.one_clock:
            self.compute = self.simulation.timeline.latest(self.host, self.compute)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        start = self.end()
        yield
        stop = self.end()

        def log(ps: int) -> None:
            self._log("host", name, "", 0, 0, known(start), ps)

        self.simulation.timeline.after([start, stop], log)

    # --- charging ---------------------------------------------------------------------------------------------------

    def kernel(self, name: str, kind: str, flops: int, nbytes: int, dtype: torch.dtype) -> None:
        """Put a kernel on the compute stream."""
        timeline = self.simulation.timeline
        duration = self._duration(kind, flops, nbytes, dtype)
        self._spend_launch()
        slowed = kind == "matmul" and timeline.kernel_share_lost > 0
        if isinstance(self.host, int) and isinstance(self.compute, int) and not slowed:
            start = max(self.host, self.compute)
            self.compute = start + duration
            self._log("compute", name, "", nbytes, flops, start, self.compute)
        else:
            begin = timeline.latest(self.host, self.compute)
            end = When(least(begin) + duration)

            def done(start: int, stop: int) -> None:
                self._log("compute", name, "", nbytes, flops, start, stop)
                timeline.resolve(end, stop)

            def run(ps: int) -> None:
                if slowed:
                    timeline.start_flow(ps, Flow(float(duration), {}, lambda stop: done(ps, stop), self.number))
                else:
                    done(ps, ps + duration)

            timeline.after([begin], run)
            self.compute = settled(end)
        if self.hardware.one_clock:
            self.host = self.compute

    def _duration(self, kind: str, flops: int, nbytes: int, dtype: torch.dtype) -> int:
        """Picoseconds of a kernel; those of the same sizes take the same, unless the clock is to jitter."""
        key = kind, flops, nbytes, dtype
        seconds = self._seconds.get(key)
        if seconds is None:
            seconds = self._seconds[key] = self.hardware.kernel_seconds(kind, flops, nbytes, self._rate(dtype))
        return picoseconds(seconds * (1 + self._jitter()) / self._speed)

    def host_waits(self) -> None:
        """The host needs a value: it waits for the device."""
        self.host = self.simulation.timeline.latest(self.host, self.compute)

    def end(self) -> Time:
        """When all that this rank has issued so far is done."""
        return self.simulation.timeline.latest(self.host, self.compute)

    def priced_bytes(self, tensors: list[Tensor]) -> int:
        """Bytes a kernel moves for tensors, each once: wider floating-point ones count as `cost_dtype`."""
        nbytes = 0
        for x in {id(x): x for x in tensors}.values() if len(tensors) > 1 else tensors:
            dtype = x.dtype
            size = dtype.itemsize
            nbytes += x.numel() * (self._cost_bytes if size > self._cost_bytes and dtype.is_floating_point else size)
        return nbytes

    def _rate(self, dtype: torch.dtype) -> str:
        """The dtype whose rate prices a kernel."""
        cost = self.simulation.options.cost_dtype
        return WIDTHS[dtype] if dtype in WIDTHS and dtype.itemsize < self._cost_bytes else cost

    def _spend_launch(self) -> None:
        if self._launch:
            self.host = self.simulation.timeline.later(self.host, self._launch)
        self.host, self.compute = settled(self.host), settled(self.compute)

    def _jitter(self) -> float:
        return self.simulation.options.jitter * self._dice.random() if self.simulation.options.jitter else 0.0

    # --- messages -----------------------------------------------------------------------------------------------------

    def received(self, post: Post) -> None:
        """Take note of a result: whose memory it is, and that writing it was us."""
        if post.call.out is not None:
            post.versions = [(x, x._version) for x, _ in post.versions]
            return
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
                self.simulation.scheduler.fail(self._race(text, post))
                raise Aborted

    def _race(self, text: str, post: Post) -> RaceError:
        return RaceError(f"{text}\n  begun: {post.side}\nall ranks:\n{self.simulation.all_doing()}", self.number)

    def or_end(self, action: Callable[..., None], *args: Any) -> None:
        """Do something whose failure ends the run for all ranks, whatever the worker catches."""
        try:
            action(*args)
        except (RankError, Unalike) as error:
            self.simulation.scheduler.fail(error)
            raise Aborted from None

    def _log(
        self, stream: str, op: str, axis: str, nbytes: int, flops: int, start: int, stop: int, peer: int | None = None
    ) -> None:
        self.simulation.events.append(Logged(self.number, stream, op, axis, nbytes, flops, start, stop, peer))
