"""Says from the ranks' own records why a run cannot go on: a deadlock, a mismatch, or where everybody is.

Nothing here talks to a process: states and entries in, an error or a text out.

A deadlock is proved, not timed. A rank is *stuck* when what it waits for can only be begun by ranks that have returned
or are stuck themselves, and two looks at it, some time apart, found it waiting in the very same operation: then all
stuck ranks waited at one moment, and none of them can ever begin what another needs. A slow operation is never stuck:
all its members have begun it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from llmlab.comm import where
from llmlab.comm.errors import DeadlockError, MismatchError
from llmlab.comm.ledger import Entry, Key, State, words


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
    lines = [describe(everyone[rank], rank in returned) for rank in sorted(everyone)]
    who = "no rank" if len(stuck) + len(returned) == len(everyone) else "some ranks never"
    return DeadlockError(f"deadlock: {who} can go on\n" + "\n".join(lines), min(stuck))


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
    for (key, number), sides in sorted(met.items(), key=lambda item: min(e.start for e in item[1].values())):
        if len({entry.signature for entry in sides.values()}) > 1:
            text = f"the ranks of {key[0]} are not in the same operation (collective {number} of the group)"
            return _mismatch(text, sides)
    for sides in messages.values():
        if len({entry.signature for entry in sides.values()}) > 1:
            return _mismatch("a message does not fit what its receiver asked for", sides)
    return None


def find_left_over(states: Sequence[State], not_waited: Mapping[int, Sequence[Entry]]) -> MismatchError | None:
    """When all ranks have returned: what somebody began and nobody met, and handles nobody waited for."""
    met: dict[tuple[Key, int], dict[int, Entry]] = {}
    sides: dict[int, Entry] = {}
    totals = {state.rank: state for state in states}
    for state in states:
        for entry in state.recent:
            if entry.op in ("send", "recv"):
                if not _met(entry, state.rank, totals):
                    sides[state.rank] = entry
            else:
                met.setdefault((entry.key, entry.number), {})[state.rank] = entry
    for (key, _), posts in met.items():
        if len(posts) < len(key[1]):
            sides.update(posts)
    if sides:
        return _mismatch("the ranks returned, and left what nobody took", sides)
    unwaited = {rank: entries[0] for rank, entries in not_waited.items() if entries}
    return _mismatch("the ranks returned, and left what nobody waited for", unwaited) if unwaited else None


def describe(state: State, returned: bool = False, since: bool = False) -> str:
    """One rank's line of a report; `since`: with the seconds that it has waited."""
    if returned:
        return f"  rank {state.rank}: has returned"
    if state.waiting is None:
        return f"  rank {state.rank}: at {where.describe(state.line) if state.line else 'a place unknown'}"
    entry = state.waiting
    seconds = f", for {state.when - entry.start:.1f} s" if since else ""
    return f"  rank {state.rank}: waits in {words(entry)}  at {where.describe(entry.line)}{seconds}"


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


def _mismatch(text: str, sides: Mapping[int, Entry]) -> MismatchError:
    lines = [f"  rank {rank}: {words(entry)}  at {where.describe(entry.line)}" for rank, entry in sorted(sides.items())]
    return MismatchError(f"{text}:\n" + "\n".join(lines), min(sides))
