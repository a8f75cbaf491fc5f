"""Which ranks are alike, found by the run itself: fold="auto".

Without numbers a rank's operations depend on its place alone. So ranks along an axis of the Mesh are alike unless

- somebody asks for the place along it: the worker's own lines are watched (`Group.rank`, `.members`, a peer, a root),
- messages go along it, or Python's or numpy's generators are drawn from, which differ by rank,
- the parts are uneven: the first and the last rank both run, must have done the same, and stand for those between; what
  cuts by rank inside `parallel` cuts evenly, the longer parts first, so there is nothing else between,
- nodes cut the axes unevenly, or the ranks' hardware differs.

The first that comes up ends the attempt, and the run begins again without that axis. So a worker may run several times:
what it prints is shown once, at the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from types import FrameType
from typing import Any

from llmlab.comm.group import Group
from llmlab.comm.seeding import RandomState
from llmlab.comm.simulated.clock import Logged
from llmlab.comm.where import COMM, Place, describe, is_library

Families = dict[str, list[tuple[int, ...]]]  # of each axis, the ranks of each of its groups
PACKAGE = os.path.dirname(os.path.dirname(COMM))
CUT_EVENLY = tuple(os.path.join(PACKAGE, name) + os.sep for name in ("parallel", "model"))
ROLES = ("server.py", "reinforce.py", "task.py", "jobs.py")  # there, ranks do different things
FLAT = ("flat.py", "zero.py", "zero3.py")  # they cut many parameters laid end to end: each rank gets other pieces
INSIDE = (COMM + "simulated" + os.sep, COMM + "autograd.py")
HARMLESS = ("size", "_family", "_group")  # of Group and Mesh: what they read does not get out


class Unalike(Exception):
    """Ends an attempt: ranks along an axis may differ after all."""


class Alike:
    """What is known so far about who is alike. told: for each axis that is not folded, why; "world" means all."""

    def __init__(self, ranks: int, per_node: int, told: dict[str, str], last: Alike | None = None):
        self.ranks, self.per_node, self.told = ranks, per_node, told
        self.families: Families | None = None if last is None else last.families
        self.warm: bool = last is not None and last.warm
        self.axes: tuple[str, ...] = ()
        self.stands: dict[int, int] | None = None
        if self.families is not None or "world" in told:
            self.decide(self.families or {})

    @property
    def running(self) -> list[int]:
        """The ranks that run."""
        return [0] if self.stands is None else sorted(set(self.stands.values()) or range(self.ranks))

    def decide(self, families: Families) -> None:
        """Say who stands for whom: along each axis the first rank for all but the last, which runs too."""
        self.families = families
        sizes = [len(groups[0]) for groups in families.values()]
        if not cut_evenly(sizes, self.per_node):
            self.told.setdefault("world", f"nodes of {self.per_node} cut {' x '.join(map(str, sizes))} ranks unevenly")
        chosen = [axis for axis, size in zip(families, sizes, strict=True) if size > 2 and axis not in self.told]
        self.axes = () if "world" in self.told else tuple(chosen)
        stands = list(range(self.ranks))
        for axis in self.axes:
            ends = {rank: members[0] if rank != members[-1] else rank for members in families[axis] for rank in members}
            stands = [ends[rank] for rank in stands]
        self.stands = dict(enumerate(stands)) if self.axes else {}

    def along(self, families: Families) -> None:
        """Hear of a Mesh: the first one says along what ranks may be alike."""
        if self.families is not None and "world" in self.families and "world" not in self.told:
            self.families = families  # communication came before it
            raise Unalike
        if self.stands is None:
            self.decide(families)

    def ended(self) -> None:
        """All have returned: without a Mesh or a word to others, the world is what may be alike."""
        if self.stands is None:
            self.families = {"world": [tuple(range(self.ranks))]}
            raise Unalike

    def asked(self, group: Group, name: str, frame: FrameType) -> None:
        """Somebody reads the place in a group, or who is in it: the worker may then do what others do not."""
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if file.startswith(INSIDE) or (file.startswith(COMM) and function in HARMLESS):
            return
        asking: FrameType | None = frame
        while asking is not None and (asking.f_code.co_filename.startswith(COMM) or is_library(asking)):
            asking = asking.f_back
        asking = asking or frame
        code = asking.f_code
        if not code.co_filename.startswith(CUT_EVENLY) or code.co_filename.endswith(ROLES + FLAT):
            line = describe(Place(code.co_filename, asking.f_lineno, code.co_name))
            self.refuse(group, f"a rank's place is asked for, {line}", all_others=name == "members")

    def refuse(self, group: Group, why: str, all_others: bool = False) -> None:
        """Leave the axes out that a group spans (or those it does not); before there is a Mesh, all."""
        spanned = [axis for axis in self.axes if self._spans(vars(group)["members"], axis) != all_others]
        if self.stands is None:
            spanned = ["world"]
        if spanned:
            self.told.update(dict.fromkeys(spanned, why))
            raise Unalike

    def _spans(self, members: tuple[int, ...], axis: str) -> bool:
        assert self.families is not None
        place = {rank: i for row in self.families[axis] for i, rank in enumerate(row)}
        return len({place[rank] for rank in members}) > 1

    def check(self, ranks: Mapping[int, Any], events: Iterable[Logged]) -> None:
        """After the run: nothing was drawn that differs by rank, and both ends of each axis did the same."""
        for rank in ranks.values() if self.axes else ():
            if drew(rank.task.state):
                self.told["world"] = "Python's or numpy's generator was drawn from, and each rank has its own"
                raise Unalike
        did = deeds(ranks, events)
        for axis in self.axes:
            assert self.families is not None
            for row in self.families[axis]:
                first, last = did.get(row[0]), did.get(row[-1])
                if first is None or last is None or first == last:
                    continue
                if self.warm or first[1:] != last[1:]:
                    self.told[axis] = f"rank {row[-1]} did not do what rank {row[0]} did"
                self.warm = True  # rank 0 may hold what torch keeps for good of an operation's first time in a process
                raise Unalike

    @property
    def words(self) -> tuple[str, ...]:
        """What was folded, and why the rest was not."""
        ran = len(self.running)
        folded = [f"along {' and '.join(self.axes)}: {ran} of {self.ranks} ranks ran"] if self.axes else []
        return tuple(folded + [f"not along {axis}: {why}" for axis, why in self.told.items()])


class WatchedGroup(Group):
    """A Group that says when a rank's place is read."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("rank", "members"):
            rank: Any = object.__getattribute__(self, "engine")
            rank.or_end(rank.simulation.alike.asked, self, name, sys._getframe(1))
        return object.__getattribute__(self, name)


def cut_evenly(sizes: Sequence[int], per_node: int) -> bool:
    """Whether nodes lie along the axes alike everywhere: they cut one axis into equal runs, and none inside it."""
    if prod(sizes) <= per_node:
        return True
    for size in reversed(sizes):
        if per_node <= size:
            return size % per_node == 0
        if per_node % size:
            break
        per_node //= size
    return False


def drew(state: RandomState) -> bool:
    """Whether a rank has drawn from a generator of its own."""
    new = RandomState(state.seed, state.rank)
    now, then = (each.numpy.state["state"] for each in (state, new))
    return state.python != new.python or now["pos"] != then["pos"] or bool((now["key"] != then["key"]).any())


def deeds(ranks: Mapping[int, Any], events: Iterable[Logged]) -> dict[int, list[Any]]:
    """All that each rank has held and done, and when."""
    did: dict[int, list[Any]] = {number: [rank.meter.report()] for number, rank in ranks.items()}
    for event in events:
        did[event.rank].append(event[1:8])
    return did
