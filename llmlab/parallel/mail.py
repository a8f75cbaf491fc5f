"""A pipeline's messages, planned from its schedule: who sends what to whom, and in which order it is taken.

Between two ranks messages arrive in the order they were sent, with no name on them. Every rank knows the whole
schedule, so a receiver asks in the order of its sender's list, whatever it needs first; and a sender knows from what
comes back which of its own messages have been taken, so it waits for none while others still work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import cache

from torch import Tensor

from llmlab.comm.call import Handle
from llmlab.comm.group import Group
from llmlab.parallel.schedules import Action, Schedule


@cache
def inbox(schedule: Schedule, src: int, dst: int) -> tuple[Action, ...]:
    """The actions of rank dst that take something from rank src, in the order in which src sends it."""
    taken = (schedule.feeds(action) for action in schedule.actions[src])
    return tuple(action for action in taken if action is not None and schedule.place[action][0] == dst)


class Mail:
    """One rank's messages during one run of a schedule, each named by the action that takes it.

    `like`: (action) -> an empty tensor of the shape and dtype of what it takes.
    """

    def __init__(self, group: Group, schedule: Schedule, like: Callable[[Action], Tensor]):
        self.group, self.schedule, self.like = group, schedule, like
        others = [rank for rank in range(group.size) if rank != group.rank]
        self.to_ask = {rank: deque(inbox(schedule, rank, group.rank)) for rank in others}
        self.asked: dict[Action, Handle] = {}
        self.under_way: dict[int, list[tuple[int, Handle, Tensor]]] = {rank: [] for rank in others}
        self.own: dict[Action, Tensor] = {}  # from one stage to the next on the same rank: nothing is sent

    def ask(self, action: Action) -> None:
        """Begin to receive what an action takes, and all that its sender sends before."""
        needed = self.schedule.needs(action)
        if needed is None or action in self.asked:
            return
        src, _ = self.schedule.place[needed]
        while src != self.group.rank and action not in self.asked:
            following = self.to_ask[src].popleft()
            self.asked[following] = self.group.irecv(self.like(following), src)

    def take(self, action: Action) -> Tensor:
        """Give what an action takes, once it is there."""
        if action in self.own:
            return self.own.pop(action)
        self.ask(action)
        taken = self.asked.pop(action).wait()
        self._settle(action)
        return taken

    def hand_on(self, action: Action, x: Tensor) -> None:
        """Hand an action's result to the one that takes it, and keep it alive until it has been taken."""
        taker = self.schedule.feeds(action)
        assert taker is not None
        dst, when = self.schedule.place[taker]
        if dst == self.group.rank:
            self.own[taker] = x
        else:
            self.under_way[dst].append((when, self.group.isend(x, dst), x))

    def close(self) -> None:
        """Wait for what is still under way."""
        for messages in self.under_way.values():
            for _, handle, _ in messages:
                handle.wait()
            messages.clear()

    def _settle(self, action: Action) -> None:
        """Let go of what the sender of this message had taken from here before it sent it: those waits are over."""
        needed = self.schedule.needs(action)
        assert needed is not None
        rank, sent = self.schedule.place[needed]
        for when, handle, _ in self.under_way[rank]:
            if when <= sent:
                handle.wait()
        self.under_way[rank] = [message for message in self.under_way[rank] if message[0] > sent]
