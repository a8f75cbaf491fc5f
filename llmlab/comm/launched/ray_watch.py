"""One run on Ray actors, watched from the caller: work out, results, prints and trouble in.

The evidence is that of `watch.py`, and so are the verdicts. Only Ray knows how an actor ended: its words come along.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

from llmlab.comm.errors import RankDied
from llmlab.comm.launched.diagnosis import find_left_over, find_mismatch
from llmlab.comm.launched.shipping import cell_sources
from llmlab.comm.launched.verdict import Facts, judge, root_cause, too_late, where_all_are
from llmlab.comm.lines import RankLines

_LOOK_S = 0.3  # between two looks at ranks that have not returned
_SETTLE_S = 0.5  # at the end, for the last of what ranks printed, or what they wait in
_DEATH_S = 5.0  # after a broken connection, for Ray to find out whose actor has died


class RayWatch:
    """Sees one run through."""

    def __init__(self, ray: Any, actors: list[Any], folder: str):
        self._ray, self._actors = ray, actors
        # no process numbers: a signal would ask an actor's main thread where it is, and that is always in Ray
        self.facts = Facts(len(actors), folder, {})
        self._runs: dict[Any, int] = {}  # calls under way, and whose they are
        self._asked: dict[Any, int] = {}
        self._words: dict[int, str] = {}  # Ray's own, on how an actor ended
        self._lines = [RankLines(rank) for rank in range(len(actors))]
        self._printed: list[list[str]] = [[] for _ in actors]

    def run(self, payload: bytes, timeout_s: float, strict: bool) -> list[str]:
        """Have every rank do it; give what each printed."""
        call, sources = self._ray.put(payload), cell_sources()
        self._runs = {actor.run.remote(call, sources, strict): rank for rank, actor in enumerate(self._actors)}
        try:
            self._until(time.monotonic() + timeout_s, timeout_s)
            self._hear(_SETTLE_S, everyone=True)  # the last of what they printed
        except KeyboardInterrupt:
            self._hear(_SETTLE_S)
            print(f"interrupted\n{where_all_are(self.facts, since=True)}", file=sys.stderr, flush=True)
            raise
        finally:
            self._show_rest()
        states = [self.facts.outcomes[rank].state for rank in range(self.facts.size)]
        left = {rank: outcome.not_waited for rank, outcome in self.facts.outcomes.items()}
        if trouble := find_mismatch(states) or find_left_over(states, left):
            raise trouble
        return ["".join(pieces) for pieces in self._printed]

    # --- the loop -----------------------------------------------------------------------------------------------------

    def _until(self, limit: float, limit_s: float) -> None:
        """Read until all have returned. Raises at the first thing that makes it impossible, or at the limit."""
        look = time.monotonic() + _LOOK_S
        while self._runs and not self.facts.failed:
            self._read(min(look, limit) - time.monotonic())
            now = time.monotonic()
            if now >= look:
                look = now + _LOOK_S
                self._look()
            if now >= limit and self._runs and not self.facts.failed:
                self._hear(1.0)
                raise too_late(self.facts, limit_s, "to return")
        if self.facts.failed:
            self._settle()
            raise self._cause()

    def _read(self, seconds: float) -> None:
        """Take what comes first, and what else has come by then."""
        calls = [*self._runs, *self._asked]
        if not calls:
            return
        for wait_s, most in ((max(0.0, seconds), 1), (0, len(calls))):
            ready, calls = self._ray.wait(calls, num_returns=min(most, len(calls)), timeout=wait_s)
            for ref in ready:
                self._take(ref)
            if not ready or not calls:
                return

    def _take(self, ref: Any) -> None:
        runs = ref in self._runs
        rank = (self._runs if runs else self._asked).pop(ref)
        try:
            answer = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            self.facts.deaths.setdefault(rank, (time.monotonic(), None))
            self._words[rank] = textwrap.shorten(str(error).strip().splitlines()[-1], 300)
            return
        if runs:
            self.facts.outcomes[rank] = answer
        else:
            self.facts.states[rank], text = answer
            self._show(rank, text)

    # --- looking for trouble ------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Judge by the answers to the last question, and ask again."""
        judge(self.facts)
        self._ask()

    def _ask(self, everyone: bool = False) -> None:
        """One question at a time to each: a rank that cannot answer gets no second one."""
        for rank in set(range(self.facts.size)) - set(self._asked.values()) - self.facts.deaths.keys():
            if everyone or rank not in self.facts.outcomes:
                where = self._actors[rank].where.options(concurrency_group="control")
                self._asked[where.remote()] = rank

    def _hear(self, seconds: float, everyone: bool = False) -> None:
        """Ask all where they are; read until each has answered, returned or died, or for so long."""
        self.facts.states = {}
        self._ask(everyone)
        self._for(seconds, lambda: bool(self._asked) if everyone else bool(self.facts.silent))

    def _settle(self) -> None:
        """Something failed: give the others a moment to fail too, or to be found waiting in vain."""
        self._for(_DEATH_S, lambda: self.facts.only_echoes and bool(self._runs))
        self._hear(self.facts.patience_s, everyone=True)

    def _for(self, seconds: float, wanted: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while wanted() and (now := time.monotonic()) < end:
            self._read(min(0.05, end - now))

    def _cause(self) -> BaseException:
        cause = root_cause(self.facts)
        if isinstance(cause, RankDied) and cause.rank in self._words:
            return RankDied(f"{cause}\nRay says: {self._words[cause.rank]}", cause.rank)
        return cause

    # --- what ranks print ---------------------------------------------------------------------------------------------

    def _show(self, rank: int, text: str) -> None:
        self._printed[rank].append(text)
        self._write(self._lines[rank].add(text))

    def _show_rest(self) -> None:
        for lines in self._lines:
            self._write(lines.rest())

    def _write(self, lines: str) -> None:
        if lines:
            sys.stdout.write(lines)
            sys.stdout.flush()
