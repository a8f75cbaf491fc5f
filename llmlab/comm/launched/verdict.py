"""From what is known of a failed run to the one error that its caller sees: the root cause, not its echo."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import time
from dataclasses import dataclass, field

from llmlab.comm import reports, where
from llmlab.comm.errors import MismatchError, RankDied, RankTimeout, rank_error
from llmlab.comm.launched.diagnosis import describe, find_deadlock, find_mismatch, steady
from llmlab.comm.launched.ledger import Entry, State
from llmlab.comm.launched.rank_process import Outcome, note_file
from llmlab.comm.launched.shipping import Failure, unpack_failure

_SETTLE_S = 0.5  # after a failure, for the others to say theirs, or what they wait in
_SILENCE_S = 5.0  # after what can only be an echo, for a rank that has said nothing: it is the one that knows why


@dataclass
class Facts:
    """What is known of a run."""

    size: int
    folder: str  # where crashing ranks leave their reports
    pids: dict[int, int]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    deaths: dict[int, tuple[float, int | None]] = field(default_factory=dict)  # when, wait status
    states: dict[int, State] = field(default_factory=dict)  # answers to the last question
    before: dict[int, State] = field(default_factory=dict)  # and to the one before

    @property
    def failures(self) -> dict[int, Failure]:
        return {rank: o.result for rank, o in self.outcomes.items() if isinstance(o.result, Failure)}

    @property
    def failed(self) -> bool:
        return bool(self.deaths or self.failures)

    @property
    def only_echoes(self) -> bool:
        """Whether what failed so far failed because of somebody of whom nothing is known yet."""
        return not self.deaths and all(failure.echo for failure in self.failures.values())

    @property
    def patience_s(self) -> float:
        """For how long to wait for answers after a failure: what is cut short on a busy machine may be the cause."""
        return _SILENCE_S if self.only_echoes else _SETTLE_S

    @property
    def returned(self) -> dict[int, State]:
        return {rank: outcome.state for rank, outcome in self.outcomes.items()}

    @property
    def busy(self) -> dict[int, State]:
        return {rank: state for rank, state in self.states.items() if rank not in self.outcomes}

    @property
    def silent(self) -> list[int]:
        """Ranks that neither answered, nor returned, nor died."""
        known = self.states.keys() | self.outcomes.keys() | self.deaths.keys()
        return [rank for rank in range(self.size) if rank not in known]


def judge(facts: Facts) -> None:
    """Raise the mismatch or deadlock that the answers to the last question show; else keep them for the next."""
    busy = facts.busy
    if steady(facts.before, busy):
        recent = [state.short() for state in facts.returned.values()]
        trouble = find_mismatch([*busy.values(), *recent]) or find_deadlock(facts.before, busy, facts.returned)
        if trouble:
            raise trouble
    facts.before, facts.states = busy, {}


def root_cause(facts: Facts) -> BaseException:
    """The earliest death or exception that is not the echo of another; ranks that say the same speak as the lowest."""
    own = {rank: failure for rank, failure in facts.failures.items() if not failure.echo}
    causes = [(when, rank) for rank, (when, _) in facts.deaths.items()]
    causes += [(failure.when, rank) for rank, failure in own.items()]
    if not causes:  # only echoes: the transport broke because the ranks' parts did not fit
        trouble = find_mismatch([*facts.returned.values(), *facts.busy.values()])
        if trouble:
            return trouble
        own = facts.failures
        causes = [(failure.when, rank) for rank, failure in own.items()]
    first = min(causes)[1]
    if first in facts.deaths:
        return _unfit(facts, first) or _death(facts, first)
    first = min(rank for rank, failure in own.items() if failure.summary == own[first].summary)
    return _failure(facts, first)


def too_late(facts: Facts, limit_s: float, what: str) -> RankTimeout:
    """Name the ranks that held up the others: those that wait for nobody."""
    late = [rank for rank in range(facts.size) if rank not in facts.outcomes]
    waiting = [rank for rank, state in facts.busy.items() if state.waiting]
    culprits = [rank for rank in late if rank not in waiting] or late
    names = ", ".join(f"rank {rank}" for rank in culprits)
    return RankTimeout(f"{names} took more than {limit_s:g} s {what}\n{where_all_are(facts, since=True)}", culprits[0])


def where_all_are(facts: Facts, but: int | None = None, since: bool = False) -> str:
    """A line for each rank (but one)."""
    return reports.by_rank({rank: _where(facts, rank, since) for rank in range(facts.size) if rank != but})


def _where(facts: Facts, rank: int, since: bool) -> str:
    if rank in facts.failures:
        return f"raised {facts.failures[rank].summary}"
    if rank in facts.outcomes:
        return describe(facts.outcomes[rank].state, returned=True)
    if rank in facts.deaths:
        return _how_it_ended(facts, rank)
    if rank in facts.states:
        return describe(facts.states[rank], since=since)
    return _from_outside(facts, rank)


def _failure(facts: Facts, rank: int) -> BaseException:
    failure = facts.failures[rank]
    others = where_all_are(facts, but=rank)
    meanwhile = ["", "meanwhile", others] if others else []
    return rank_error(rank, unpack_failure(failure), "\n".join(["", failure.text.rstrip(), *meanwhile]))


def _death(facts: Facts, rank: int) -> RankDied:
    others, entry = where_all_are(facts, but=rank), _last_entry(facts, rank)
    parts = [f"rank {rank}: {_how_it_ended(facts, rank)}"]
    parts += [f"  the last it began: {entry.side}"] if entry else []
    parts += [_report(facts, rank), *(["meanwhile", others] if others else [])]
    return RankDied("\n".join(part for part in parts if part), rank)


def _unfit(facts: Facts, rank: int) -> MismatchError | None:
    """gloo aborts the process (SIGABRT) that gets more bytes than it asked for."""
    status, entry = facts.deaths[rank][1], _last_entry(facts, rank)
    if entry is None or status is None or not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGABRT:
        return None
    dead = State(rank, entry, entry.line, {}, {}, {}, {}, [entry], entry.start)
    return find_mismatch([dead, *facts.returned.values(), *facts.busy.values()])


def _last_entry(facts: Facts, rank: int) -> Entry | None:
    """The last operation that a dead rank began."""
    with (
        contextlib.suppress(OSError, EOFError, pickle.UnpicklingError),
        open(note_file(facts.folder, rank), "rb") as file,
    ):
        return pickle.load(file)
    return None


def _how_it_ended(facts: Facts, rank: int) -> str:
    status = facts.deaths[rank][1]
    if status is None:
        return "its process ended, nobody knows how"
    if not os.WIFSIGNALED(status):
        return f"its process ended itself with exit code {os.waitstatus_to_exitcode(status)}"
    name = signal.Signals(os.WTERMSIG(status)).name
    return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _from_outside(facts: Facts, rank: int) -> str:
    """Where a rank is that does not answer: C code holds the interpreter's lock. faulthandler works without it."""
    with contextlib.suppress(OSError, KeyError):  # no number: it cannot be asked so
        os.kill(facts.pids[rank], signal.SIGUSR1)
        time.sleep(0.1)
    found = re.search(r'^  File "(.*)", line (\d+) in (.*)$', _report(facts, rank), re.MULTILINE)
    if found is None:
        return "does not answer"
    line = where.Place(found[1], int(found[2]), found[3])
    return f"does not answer: C code holds Python's lock, called at {where.describe(line)}"


def _report(facts: Facts, rank: int) -> str:
    """What faulthandler wrote of a rank as it crashed, or when asked."""
    with contextlib.suppress(OSError), open(os.path.join(facts.folder, f"crash-{rank}")) as file:
        return file.read().strip()[:4000]
    return ""
