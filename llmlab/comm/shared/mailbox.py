"""What lies between two ranks in one direction: the counters of a mailbox, and what each end knows of it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llmlab.comm.shared.memory import lines

ROOM = 32  # messages under way from one rank to another; further ones wait at the sender's
HALVES = 2  # of a compartment: one is written while the other is read
HEAD = 18  # words that a message of the tag below may say of itself
DESCRIBED = -2  # the tag of messages whose receiver does not know their size
LISTED = 3 + HEAD  # words on the list for each message: compartment, tag, bytes, and those
_SENDER = lines(1 + (LISTED + 1) * ROOM)  # how many were listed; the list; pieces written, by compartment
BOX_WORDS = _SENDER + lines(ROOM)  # and, written by the receiver, pieces taken


@dataclass(eq=False)
class Transfer:
    """One message, at one of its ends."""

    owner: Any  # the Message that it is part of
    peer: int  # at the receiver's end -1 for any, until one has come
    tag: int
    data: Tensor  # flat, in bytes
    sends: bool
    head: Sequence[int] = ()  # what its sender says of it
    make: Callable[[Sequence[int]], Tensor] | None = None  # at the receiver's end: a place for it, from its head
    order: int = 0
    compartment: int = 0
    moved: int = 0  # pieces of it, by this end
    pieces: int = 0
    before: int = 0  # pieces that the compartment had seen before it


class Outbox:
    """This rank's messages to one other."""

    def __init__(self, at: int):
        self.listed_at, self.list_at, self.written_at, self.taken_at = _places(at)
        self.listed = 0
        self.free = list(range(ROOM))  # a heap: what was used last is used again, and is still in the cache
        self.written = [0] * ROOM
        self.waiting: deque[Transfer] = deque()
        self.moving: list[Transfer] = []


class Inbox:
    """What one other rank has for this one."""

    def __init__(self, at: int):
        self.listed_at, self.list_at, self.written_at, self.taken_at = _places(at)
        self.seen = 0
        self.taken = [0] * ROOM
        # by tag: compartment, bytes, head
        self.arrived: defaultdict[int, deque[tuple[int, int, Sequence[int]]]] = defaultdict(deque)
        self.wanted: defaultdict[int, deque[Transfer]] = defaultdict(deque)
        self.wanting = 0
        self.moving: list[Transfer] = []


def _places(at: int) -> tuple[int, int, int, int]:
    return at, at + 1, at + 1 + LISTED * ROOM, at + _SENDER
