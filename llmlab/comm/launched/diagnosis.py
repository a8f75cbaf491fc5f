"""Says from the ranks' own records why a run cannot go on: a deadlock, a mismatch, or where everybody is.

Nothing here talks to a process: states and entries in, an error or a text out.

A deadlock is proved, not timed. A rank is *stuck* when what it waits for can only be begun by ranks that have returned
or are stuck themselves, and two looks at it, some time apart, found it waiting in the very same operation: then all
stuck ranks waited at one moment, and none of them can ever begin what another needs. A slow operation is never stuck:
all its members have begun it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from llmlab.comm import reports, where
from llmlab.comm.call import Side
from llmlab.comm.errors import DeadlockError, MismatchError
from llmlab.comm.launched.ledger import Entry, Key, State


def steady(before: Mapping[int, State], now: Mapping[int, State]) -> dict[int, State]:
    """The ranks that wait in the same operation as when last asked, and have no further threads that could help."""
    return {
        rank: state
        for rank, state in now.items()
        if state.waiting and not state.others and rank in before and _same(before[rank].waiting, state.waiting)
    }


def find_deadlock(
    before: Mapping[int, State], now: Mapping[int, State], returned: Mapping[int, State]
) -> DeadlockError | None:
    """Look for ranks that can never go on. returned: the last words of ranks whose worker has ended."""
    stuck = steady(before, now)
    everyone = {**now, **returned}
    while freed := [r for r, state in stuck.items() if not _hopeless(state, everyone, stuck, returned)]:
        for rank in freed:
            del stuck[rank]
    if not stuck:
        return None
    lines = {rank: describe(state, rank in returned) for rank, state in everyone.items()}
    return reports.deadlock(lines, min(stuck), len(stuck) + len(returned) == len(everyone))


def find_mismatch(states: Iterable[State]) -> MismatchError | None:
    """Compare what ranks recorded: the members' n-th collectives of each group, the pairs' n-th messages."""
    met: dict[tuple[Key, int], dict[int, Entry]] = {}
    messages: dict[tuple[Key, int, int, int], dict[int, Entry]] = {}
    for state in states:
        for entry in state.recent:
            if entry.op not in ("send", "recv"):
                met.setdefault((entry.key, entry.number), {})[state.rank] = entry
            elif entry.number:
                pair = (state.rank, entry.peer) if entry.op == "send" else (entry.peer, state.rank)
                messages.setdefault((entry.key, *pair, entry.number), {})[state.rank] = entry
    for (key, _), sides in sorted(met.items(), key=lambda item: min(e.start for e in item[1].values())):
        if len({entry.signature for entry in sides.values()}) > 1:
            return reports.mismatch(key[0], _sides(sides))
    for (_, _, receiver, _), sides in messages.items():
        if len({entry.signature for entry in sides.values()}) > 1:
            return reports.unfit_message(_sides(sides), receiver)
    return None


def find_left_over(states: Sequence[State], not_waited: Mapping[int, Sequence[Entry]]) -> MismatchError | None:
    """When all ranks have returned: what somebody began and nobody met, and handles nobody waited for."""
    met: dict[tuple[Key, int], dict[int, Entry]] = {}
    sides: defaultdict[int, list[Side]] = defaultdict(list)
    totals = {state.rank: state for state in states}
    for state in states:
        for entry in state.recent:
            if entry.op in ("send", "recv"):
                if not _met(entry, state.rank, totals):
                    sides[state.rank].append(entry.side)
            else:
                met.setdefault((entry.key, entry.number), {})[state.rank] = entry
    for (key, _), posts in met.items():
        if len(posts) < len(key[1]):
            for rank, entry in posts.items():
                sides[rank].append(entry.side)
    if sides:
        return reports.left_over(sides, taken=False)
    unwaited = {rank: [entry.side for entry in entries] for rank, entries in not_waited.items() if entries}
    return reports.left_over(unwaited, taken=True) if unwaited else None


def describe(state: State, returned: bool = False, since: bool = False) -> str:
    """What one rank is at, for a report; `since`: with the seconds that it has waited."""
    if returned:
        return reports.RETURNED
    if state.waiting is None:
        return f"is at {where.describe(state.line) if state.line else 'a place unknown'}"
    seconds = f", for {state.when - state.waiting.start:.1f} s" if since else ""
    return reports.waits_in(state.waiting.side) + seconds


# --- who can still be helped -----------------------------------------------------------------------------------------


def _hopeless(
    state: State, everyone: Mapping[int, State], stuck: Mapping[int, State], returned: Mapping[int, State]
) -> bool:
    """Whether what this rank waits for can never come."""
    gone = {*stuck, *returned}
    entry = state.waiting
    assert entry is not None
    if entry.any_source and entry.peer is None:
        others = [rank for rank in entry.key[1] if rank != state.rank]
        coming = any(_sent(everyone, rank, entry.key, state) for rank in others)
        return not coming and gone.issuperset(others)
    return any(rank in gone for rank in _missing(entry, state.rank, everyone))


def _missing(entry: Entry, me: int, everyone: Mapping[int, State]) -> list[int]:
    """The ranks that have not yet begun their side of an operation. One that said nothing may have."""
    if entry.op == "send":
        assert entry.peer is not None
        peer = everyone.get(entry.peer)
        taken = peer is None or _takes(peer, entry.key, me) >= entry.number
        return [] if taken else [entry.peer]
    if entry.op == "recv":
        assert entry.peer is not None
        source = everyone.get(entry.peer)
        sent = source is None or source.sent.get((entry.key, me), 0) >= entry.number
        return [] if sent else [entry.peer]
    begun = ((rank, everyone.get(rank)) for rank in entry.key[1])
    return [rank for rank, state in begun if state and state.collectives.get(entry.key, 0) < entry.number]


def _takes(state: State, key: Key, source: int) -> int:
    """How many messages from `source` a rank has asked for; a recv from any rank may be meant for it."""
    return state.received.get((key, source), 0) + state.any_open.get(key, 0)


def _sent(everyone: Mapping[int, State], rank: int, key: Key, to: State) -> bool:
    """Whether `rank` has a message on its way that `to` has not asked for by name."""
    state = everyone.get(rank)
    return state is None or state.sent.get((key, to.rank), 0) > to.received.get((key, rank), 0)


def _met(entry: Entry, me: int, totals: Mapping[int, State]) -> bool:
    """Whether the other end of a message was there, once all is over."""
    if entry.peer is None or not entry.number:
        return False
    peer = totals[entry.peer]
    table = peer.received if entry.op == "send" else peer.sent
    return table.get((entry.key, me), 0) >= entry.number


def _same(a: Entry | None, b: Entry | None) -> bool:
    """Whether two looks saw one operation (each look is a copy)."""
    return (
        a is not None
        and b is not None
        and (a.op, a.key, a.number, a.peer, a.start) == (b.op, b.key, b.number, b.peer, b.start)
    )


def _sides(entries: Mapping[int, Entry]) -> dict[int, Side]:
    return {rank: entry.side for rank, entry in entries.items()}
