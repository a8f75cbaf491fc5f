"""One rank's two clocks, and what is charged to them.

As on a GPU, the host launches kernels and the device runs them, each on its own clock: a kernel starts at the later of
the host's launch and the stream's last one; wait() joins streams; only what needs a value on the host joins the clocks.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from llmlab.comm.simulated.clock import (
    PS,
    Flow,
    Logged,
    PutDown,
    Time,
    Timeline,
    When,
    known,
    least,
    picoseconds,
    settled,
)
from llmlab.hardware import Device

WIDTHS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}
COST_BYTES = {"fp8": 1, "bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}


class Clocks:
    """Of one rank. events: where all that is timed is put down."""

    def __init__(
        self,
        number: int,
        hardware: Device,
        timeline: Timeline,
        events: list[Logged],
        *,
        cost_dtype: str,
        speed: float,
        jitter: float,
        seed: int,
    ):
        self.number, self.hardware, self.timeline, self.events = number, hardware, timeline, events
        self.host: Time = 0
        self.compute: Time = 0
        self.streams: dict[Any, Time] = {}  # of each group, when its last collective is over
        self._launch = picoseconds(hardware.launch_s)
        self._one_clock = hardware.one_clock
        self._cost_dtype, self._speed, self._jitter = cost_dtype, speed, jitter
        self._dice = random.Random(f"{seed} {number}") if jitter else None
        self._durations: dict[tuple[str, int, int, torch.dtype], int] = {}
        self._sizes: dict[torch.dtype, int] = {}

    # --- kernels ----------------------------------------------------------------------------------------------------

    def kernel(self, name: str, kind: str, flops: int, nbytes: int, dtype: torch.dtype) -> None:
        """Put a kernel on the compute stream."""
        duration = self._durations.get((kind, flops, nbytes, dtype)) or self._duration(kind, flops, nbytes, dtype)
        self.spend_launch()
        begin = self.timeline.latest(self.host, self.compute)
        if kind == "matmul" and self.timeline.kernel_share_lost > 0:
            self.compute = self._run_slowed(begin, duration, name, nbytes, flops)
        elif isinstance(begin, int):
            self.compute = begin + duration
            self._log("compute", name, "", nbytes, flops, begin, begin + duration)
        else:
            self.compute = self.timeline.later(begin, duration)
            PutDown(begin, duration, self.events, (self.number, "compute", name, "", nbytes, flops))
        if self._one_clock:
            self.host = self.compute

    def _run_slowed(self, begin: Time, duration: int, name: str, nbytes: int, flops: int) -> Time:
        """When a kernel ends that communication may slow."""
        timeline, end = self.timeline, When(least(begin) + duration)

        def run(start: int) -> None:
            def done(stop: int) -> None:
                self._log("compute", name, "", nbytes, flops, start, stop)
                timeline.resolve(end, stop)

            timeline.start_flow(start, Flow(float(duration), {}, done, self.number))

        timeline.after([begin], run)
        return settled(end)

    def _duration(self, kind: str, flops: int, nbytes: int, dtype: torch.dtype) -> int:
        """Picoseconds of a kernel; those of the same sizes take the same, unless the clock is to jitter."""
        seconds = self.hardware.kernel_seconds(kind, flops, nbytes, self._rate(dtype))
        if self._dice is not None:
            return picoseconds(seconds * (1 + self._jitter * self._dice.random()) / self._speed)
        duration = self._durations[kind, flops, nbytes, dtype] = picoseconds(seconds / self._speed)
        return duration

    def priced_bytes(self, tensors: list[Tensor]) -> int:
        """Bytes a kernel moves for tensors, each once: wider floating-point ones count as `cost_dtype`."""
        nbytes = 0
        for x in {id(x): x for x in tensors}.values() if len(tensors) > 1 else tensors:
            dtype = x.dtype
            nbytes += x.numel() * (self._sizes.get(dtype) or self._priced_size(dtype))
        return nbytes

    def _priced_size(self, dtype: torch.dtype) -> int:
        most = COST_BYTES[self._cost_dtype] if dtype.is_floating_point else dtype.itemsize
        size = self._sizes[dtype] = min(dtype.itemsize, most)
        return size

    def _rate(self, dtype: torch.dtype) -> str:
        """The dtype whose rate prices a kernel."""
        narrow = dtype in WIDTHS and dtype.itemsize < COST_BYTES[self._cost_dtype]
        return WIDTHS[dtype] if narrow else self._cost_dtype

    def spend_launch(self) -> None:
        """The host launches something: its clock goes on; what has become known of both clocks is noted."""
        host = self.host
        if isinstance(host, int):
            self.host = host + self._launch
        else:
            self.host = self.timeline.later(host, self._launch) if self._launch else settled(host)
        if not isinstance(self.compute, int):
            self.compute = settled(self.compute)

    # --- the two clocks -----------------------------------------------------------------------------------------------

    def synchronize(self) -> None:
        """The host waits for its device: it needs a value, or was told to."""
        self.host = self.timeline.latest(self.host, self.compute)

    def end(self) -> Time:
        """When all that this rank has issued so far is done."""
        return self.timeline.latest(self.host, self.compute)

    def sleep(self, seconds: float) -> None:
        self.host = self.timeline.later(self.host, picoseconds(seconds))
        if self._one_clock:
            self.compute = self.timeline.latest(self.host, self.compute)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        start = self.end()
        yield
        stop = self.end()

        def log(ps: int) -> None:
            self._log("host", name, "", 0, 0, known(start), ps)

        self.timeline.after([start, stop], log)

    def known_host(self) -> float | None:
        """Seconds on the host's clock, where they are known."""
        self.host = settled(self.host)
        return self.host / PS if isinstance(self.host, int) else None

    def _log(
        self, stream: str, op: str, axis: str, nbytes: int, flops: int, start: int, stop: int, peer: int | None = None
    ) -> None:
        self.events.append(Logged(self.number, stream, op, axis, nbytes, flops, start, stop, peer))
