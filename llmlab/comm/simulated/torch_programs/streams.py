"""Streams and events of a torch program: torch.cpu's do nothing; on a modelled device each stream has its own clock.

FSDP2 asks its device's module for them: so its all-gathers are prefetched, and overlap, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from llmlab.comm.simulated.clock import Time

if TYPE_CHECKING:
    from llmlab.comm.simulated.rank import Rank

FindRank = Callable[[], "Rank"]


class Streams:
    """What stands for torch.cpu's streams during a run. `current` finds the rank that asks."""

    def __init__(self, current: FindRank):
        self._current = current
        self._on: dict[int, Stream] = {}  # the stream each rank issues to

    def stream_of(self, rank: Rank) -> Stream:
        """The stream a rank is on; the first it asks for is its device's default one."""
        if rank.number not in self._on:
            self._on[rank.number] = Stream(self, rank)
        return self._on[rank.number]

    @contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        """Let what the rank issues go to a stream, as `torch.cuda.stream` does."""
        rank = self._current()
        before = self.stream_of(rank)
        if stream is None or stream is before:
            yield
            return
        before.time, self._on[rank.number] = rank.compute, stream
        rank.compute = stream.time
        try:
            yield
        finally:
            stream.time, self._on[rank.number] = rank.compute, before
            rank.compute = before.time

    def replacements(self) -> dict[str, Any]:
        """The names of torch.cpu, and what they mean here."""
        current = self._current

        def make_stream(*_: Any, **__: Any) -> Stream:
            self.stream_of(current())  # before this one: the default stream is the one it is on
            return Stream(self, current())

        def make_event(*_: Any, **__: Any) -> Event:
            return Event(self, current())

        def current_stream(device: Any = None) -> Stream:
            return self.stream_of(current())

        def on_stream(stream: Any) -> AbstractContextManager[None]:
            return self.on(stream)

        return {"Stream": make_stream, "Event": make_event, "current_stream": current_stream, "stream": on_stream}


class Stream(torch.cpu.Stream):
    """A queue of a rank's device. `time`: when what it was given is done, while the rank issues to another."""

    def __init__(self, streams: Streams, rank: Rank):
        self._streams, self._rank, self.time = streams, rank, 0  # type: tuple[Streams, Rank, Time]

    def done(self) -> Time:
        return self._rank.compute if self._streams.stream_of(self._rank) is self else self.time

    def wait_until(self, time: Time) -> None:
        latest = self._rank.simulation.timeline.latest(self.done(), time)
        if self._streams.stream_of(self._rank) is self:
            self._rank.compute = latest
        else:
            self.time = latest

    def wait_stream(self, stream: Any) -> None:
        self.wait_until(stream.done())

    def wait_event(self, event: Any) -> None:
        self.wait_until(event.time)

    def record_event(self, event: Any = None) -> Event:  # type: ignore[override]
        return (event or Event(self._streams, self._rank)).record(self)

    def synchronize(self) -> None:
        self._rank.host = self._rank.simulation.timeline.latest(self._rank.host, self.done())


class Event(torch.cpu.Event):
    """A moment on a stream."""

    def __init__(self, streams: Streams, rank: Rank):
        self._streams, self._rank, self.time = streams, rank, 0  # type: tuple[Streams, Rank, Time]

    def record(self, stream: Any = None) -> Event:  # type: ignore[override]
        self.time = (stream or self._streams.stream_of(self._rank)).done()
        return self

    def wait(self, stream: Any = None) -> None:
        (stream or self._streams.stream_of(self._rank)).wait_event(self)

    def synchronize(self) -> None:
        self._rank.host = self._rank.simulation.timeline.latest(self._rank.host, self.time)

    def query(self) -> bool:
        return True
