"""One run on live ranks, watched from the caller: work out, results, prints and trouble in.

All is read in one loop in the calling thread, so that what ranks print lands in the cell that runs and Ctrl-C is seen
at once. Every look at ranks that have not returned compares where they are with the look before (`diagnosis.py`).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from llmlab.comm.launched.diagnosis import find_left_over, find_mismatch
from llmlab.comm.launched.live_output import RankOutput
from llmlab.comm.launched.pool import Pool, RankEnds
from llmlab.comm.launched.shipping import cell_sources
from llmlab.comm.launched.verdict import Facts, judge, root_cause, too_late, where_all_are
from llmlab.comm.launched.wire import Channel

_START_S = 120.0  # for ranks to be born and meet; interpreters that import torch on a busy machine take their time
_LOOK_S = 0.3  # between two looks at ranks that have not returned
_SETTLE_S = 0.5  # after a failure, for the others to fail too
_DEATH_S = 2.0  # from a closed socket to the word of how the rank ended


class Watch:
    """Sees one run through."""

    def __init__(self, pool: Pool):
        self._pool = pool
        self.facts = Facts(pool.size, pool.folder, {rank.number: rank.pid for rank in pool.ranks})
        self._ready: set[int] = set()
        self.began = 0.0

    def run(self, payload: bytes, timeout_s: float, strict: bool) -> list[str]:
        """Have every rank do it; give what each printed. After an exception the ranks are of no more use."""
        facts = self.facts
        try:
            self._pool.send_all(payload, cell_sources(), strict)
            self._until(lambda: len(self._ready) == facts.size, _START_S, "to start")
            self.began = time.monotonic()
            self._pool.send_all(self.began)
            self._until(lambda: len(facts.outcomes) == facts.size, timeout_s, "to return")
        except KeyboardInterrupt:
            self._hear(0.3)
            print(f"interrupted\n{where_all_are(facts, since=True)}", file=sys.stderr, flush=True)
            raise
        finally:
            output = self._pool.take_output()
        self._check_agreement()
        return output

    def _check_agreement(self) -> None:
        """gloo's collectives of different shapes may just return: compare what each rank did."""
        outcomes = self.facts.outcomes
        states = [outcomes[rank].state for rank in range(self.facts.size)]
        left = {rank: outcome.not_waited for rank, outcome in outcomes.items()}
        trouble = find_mismatch(states) or find_left_over(states, left)
        if trouble:
            raise trouble

    # --- the loop ---------------------------------------------------------------------------------------------------

    def _until(self, done: Callable[[], bool], limit_s: float, what: str) -> None:
        """Read until `done`. Raises at the first thing that makes it impossible, or at the limit."""
        now = time.monotonic()
        limit, look = now + limit_s, now + _LOOK_S
        while not done() and not self.facts.failed:
            self._read(min(look, limit) - now)
            now = time.monotonic()
            if now >= look:
                look = now + _LOOK_S
                self._look()
            if now >= limit and not done() and not self.facts.failed:
                self._hear(1.0)
                raise too_late(self.facts, limit_s, what)
        if self.facts.failed:
            self._settle()
            raise root_cause(self.facts)

    def _read(self, seconds: float) -> None:
        if any(rank.gone is not None and rank.number not in self.facts.deaths for rank in self._pool.ranks):
            seconds = min(seconds, 0.005)  # word of how it ended is on its way
        for key, _ in self._pool.selector.select(max(0.0, seconds)):
            rank, end = key.data
            try:
                self._take(rank, end)
            except BlockingIOError:
                pass
            except EOFError:
                self._pool.selector.unregister(end)
                if end is rank.tasks:
                    rank.gone = time.monotonic()
        for rank in self._pool.ranks:
            if rank.gone is not None:
                self._ask_how_it_ended(rank)

    def _take(self, rank: RankEnds, end: Channel | RankOutput) -> None:
        """Read what came through one of a rank's ends. Raises EOFError when nothing more will."""
        if isinstance(end, RankOutput):
            if not end.read():
                raise EOFError
            return
        for message, *rest in end.arrived():
            if end is rank.control:
                self.facts.states[rank.number] = message
            else:
                self._ready.add(rank.number)  # one that could not unpack its work is as ready as it will be
                if message == "done":
                    self.facts.outcomes[rank.number] = rest[0]

    def _ask_how_it_ended(self, rank: RankEnds) -> None:
        if rank.number not in self.facts.deaths:
            status = self._pool.launcher.ended(rank.pid)
            if status is not None or (rank.gone is not None and time.monotonic() - rank.gone > _DEATH_S):
                self.facts.deaths[rank.number] = rank.gone or time.monotonic(), status

    # --- looking for trouble ----------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Judge by the answers to the last question, and ask again."""
        judge(self.facts)
        self._ask_how_all_ended()
        self._ask()

    def _ask(self) -> None:
        for rank in self._pool.ranks:
            if rank.number not in self.facts.outcomes and rank.gone is None:
                with contextlib.suppress(OSError):
                    rank.control.send("where")

    def _hear(self, seconds: float) -> None:
        """Ask all where they are; read until each has answered, returned or died, or for so long."""
        self.facts.states = {}
        self._ask()
        end = time.monotonic() + seconds
        while self.facts.silent and (now := time.monotonic()) < end:
            self._read(min(0.05, end - now))
            self._ask_how_all_ended()  # the others may have noticed a death before we did

    def _settle(self) -> None:
        """Something failed: give the others a moment to fail too, or to be found waiting in vain."""
        end = time.monotonic() + _SETTLE_S
        self._hear(self.facts.patience_s)
        while time.monotonic() < end and (self.facts.only_echoes or self._some_compute()):
            self._read(0.02)
            self._hear(self.facts.patience_s)

    def _some_compute(self) -> bool:
        return any(state.waiting is None for state in self.facts.busy.values())

    def _ask_how_all_ended(self) -> None:
        """Also of ranks whose sockets are open: a rank's own children may hold them when it dies."""
        for rank in self._pool.ranks:
            self._ask_how_it_ended(rank)
