"""The texts of what goes wrong between ranks, the same from every engine: who is where, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from llmlab.comm.call import Side
from llmlab.comm.errors import DeadlockError, MismatchError

_DIFFERENCES = {"reduce": "the reduction", "root": "the root", "shape": "the shape", "dtype": "the dtype"}


def mismatch(axis: str, sides: Mapping[int, Side], others: Mapping[int, str] | None = None) -> MismatchError:
    """Ranks of one group met in what is not one operation. others: what ranks that are not there yet are at."""
    found = [sides[rank] for rank in sorted(sides)]  # whoever came first
    names = {side.op for side in found}
    if len(names) > 1:
        text = f"the ranks of {axis} are not in the same operation ({', '.join(sorted(names))})"
    else:
        text = f"the ranks of {axis} do not agree in {names.pop()}: {differences(found)}"
    lines = {rank: str(side) for rank, side in sides.items()} | dict(others or {})
    return MismatchError(f"{text}\n{by_rank(lines)}", min(sides))


def unfit_message(sides: Mapping[int, Side], receiver: int) -> MismatchError:
    """What was sent has another shape or dtype than its receiver asked for."""
    found = [sides[rank] for rank in sorted(sides)]
    text = f"a message does not fit what its receiver asked for: {differences(found)}"
    return MismatchError(f"{text}\n{by_rank({rank: str(side) for rank, side in sides.items()})}", receiver)


def left_over(sides: Mapping[int, Iterable[Side]], taken: bool) -> MismatchError:
    """The ranks returned, and something they began is open. taken: others met it, but nobody waited for the handle."""
    lines = "\n".join(f"  rank {rank}: {side}" for rank, some in sorted(sides.items()) for side in some)
    what = "nobody waited for" if taken else "nobody took"
    return MismatchError(f"the ranks returned, and left what {what}:\n{lines}", min(sides))


def deadlock(lines: Mapping[int, str], stuck: int, everyone: bool = True) -> DeadlockError:
    """Nobody can go on (or not everyone: some can, and others never will)."""
    who = "no rank" if everyone else "some ranks never"
    return DeadlockError(f"deadlock: {who} can go on\n{by_rank(lines)}", stuck)


def waits_in(side: Side) -> str:
    return f"waits in {side}"


RETURNED = "has returned"


def by_rank(lines: Mapping[int, str]) -> str:
    """A line for each rank."""
    return "\n".join(f"  rank {rank}: {line}" for rank, line in sorted(lines.items()))


def differences(sides: Iterable[Side]) -> str:
    """In what the sides of one operation differ: `the root is 0 and 1`."""
    found = [side.signature for side in sides]
    parts = []
    for field, name in _DIFFERENCES.items():
        values = list(dict.fromkeys(str(getattr(s, field)) for s in found))
        if len(values) > 1:
            parts.append(f"{name} is {' and '.join(values)}")
    return ", ".join(parts)
