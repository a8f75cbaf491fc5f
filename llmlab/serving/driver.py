"""One thread that steps an engine, and a queue to it: whoever serves users never touches the engine itself.

HTTP's thread                                         the engine's thread
submit(requests, tell) --.                            take all that is in the queue: add, cancel
cancel(ticket) ----------+--> queue ----------------> engine.step()
tell(choice, token, reason) <------------------------ each new token
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from llmlab.serving.engine import Engine
from llmlab.serving.requests import Request, Token

Tell = Callable[[int, int, str | None], None]  # choice, token, reason: in the engine's thread
FAILED = -1  # told as token when the engine has failed; reason is what went wrong


@dataclass(eq=False)
class Ticket:
    """Some requests that were submitted together."""

    requests: Sequence[Request]
    tell: Tell
    ids: dict[int, int] = field(default_factory=dict)  # the engine's id -> which of the requests; those unanswered


class Driver:
    """Steps the engine while anybody waits for it, and sleeps otherwise."""

    def __init__(self, engine: Engine):
        self.engine, self.failure = engine, ""
        self._orders: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()  # None: end
        self._of: dict[int, Ticket] = {}  # by the engine's id
        self._thread = threading.Thread(target=self._run, name="llmlab engine", daemon=True)
        self._thread.start()

    def submit(self, requests: Sequence[Request], tell: Tell) -> Ticket:
        """Ask the engine. Raises ValueError, here and at once, for what it could never answer."""
        for request in requests:
            self.engine.check(request)  # reads settings only: no thread changes them
        ticket = Ticket(requests, tell)
        self._orders.put(partial(self._add, ticket))
        return ticket

    def cancel(self, ticket: Ticket, choice: int | None = None) -> None:
        """Let a ticket go, or one of its choices, and with it the blocks; nothing happens if it is answered."""
        self._orders.put(partial(self._let_go, ticket, choice))

    def close(self) -> None:
        """Cancel all and end the thread."""
        self._orders.put(None)
        self._thread.join()

    # --- the engine's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            while self.failure or not self._orders.empty() or not self.engine.busy:
                order = self._orders.get()
                if order is None:
                    return self._end()
                order()
            try:
                for token in self.engine.step():
                    self._pass_on(token)
            except Exception as error:  # told to all who wait, and to all who come: the engine's state is not known
                self.failure = f"{type(error).__name__}: {error}"
                for ticket in set(self._of.values()):
                    ticket.tell(0, FAILED, self.failure)

    def _end(self) -> None:
        if not self.failure:
            for ticket in set(self._of.values()):
                self._let_go(ticket)

    def _add(self, ticket: Ticket) -> None:
        if self.failure:
            return ticket.tell(0, FAILED, self.failure)
        for choice, request in enumerate(ticket.requests):
            id = self.engine.add(request)
            ticket.ids[id], self._of[id] = choice, ticket

    def _let_go(self, ticket: Ticket, choice: int | None = None) -> None:
        for id in [id for id, which in ticket.ids.items() if choice in (None, which)]:
            if not self.failure:
                self.engine.cancel(id)
            del ticket.ids[id], self._of[id]

    def _pass_on(self, token: Token) -> None:
        ticket = self._of[token.id]
        choice = ticket.ids[token.id]
        if token.reason is not None:
            del ticket.ids[token.id], self._of[token.id]
        ticket.tell(choice, token.token, token.reason)
