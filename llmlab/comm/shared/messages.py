"""Messages between two ranks: a mailbox for each direction, with room for a few messages at a time.

The sender lays a message into a free compartment (a long one piece by piece), writes its tag and length on a list, and
counts the list up. The receiver looks through the list when it wants something, takes the pieces of the message that
fits, and counts them: a send is done when all of it was taken, as in gloo, and not before. Messages of different tags
may be taken in any order, those of one tag come in the order in which they were sent.
"""

from __future__ import annotations

import heapq
from array import array
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from llmlab.comm.shared.mailbox import BOX_WORDS, DESCRIBED, HALVES, LISTED, ROOM, Inbox, Outbox, Transfer
from llmlab.comm.shared.memory import Memory
from llmlab.comm.shared.works import Mover, Operation

EXCHANGE = -1  # the tag of all_to_all's own messages; callers have 0 and above
_NOTHING = torch.empty(0, dtype=torch.uint8)


class Message(Operation):
    """One rank's part in one or more messages, done when all of them are."""

    def __init__(
        self,
        mover: Mover,
        lane: Mailboxes,
        words: str,
        results: list[Tensor],
        last: Callable[[], None] | None = None,
    ):
        super().__init__(mover, lane, words, results, lane.limit_s)
        self.transfers: list[Transfer] = []
        self.last = last
        self.left = 0
        self.source = -1

    def send(self, x: Tensor, peer: int, tag: int, head: Sequence[int] = ()) -> Message:
        return self._move(Transfer(self, peer, tag, x.view(torch.uint8), True, head))

    def receive(self, x: Tensor, peer: int, tag: int) -> Message:
        return self._move(Transfer(self, peer, tag, x.view(torch.uint8), False))

    def receive_described(self, peer: int, make: Callable[[Sequence[int]], Tensor]) -> Message:
        """Take what comes, of whatever size, into the flat place that `make` makes from what is said of it."""
        return self._move(Transfer(self, peer, DESCRIBED, _NOTHING, False, make=make))

    def _move(self, transfer: Transfer) -> Message:
        self.transfers.append(transfer)
        self.left += 1
        return self

    def one_done(self, transfer: Transfer) -> None:
        self.left -= 1
        self.source = transfer.peer
        if not self.left:
            if self.last is not None:
                self.last()
            self.finish()

    def _source_rank(self) -> int:
        return self.source


class Mailboxes:
    """One group's messages, as one rank sees them."""

    def __init__(self, memory: Memory, rank: int, size: int, words: int, data: int, piece_bytes: int, limit_s: float):
        """words, data: where in the memory the counters and the compartments begin."""
        self._memory, self._rank, self._size, self._data, self._piece = memory, rank, size, data, piece_bytes
        self.limit_s = limit_s
        self.processes: Sequence[int] = ()
        self._out = [Outbox(words + BOX_WORDS * (rank * size + peer)) for peer in range(size)]
        self._in = [Inbox(words + BOX_WORDS * (peer * size + rank)) for peer in range(size)]
        self._any: defaultdict[int, deque[Transfer]] = defaultdict(deque)
        self._under_way: dict[Message, None] = {}
        self._orders = 0
        self._error: Exception | None = None

    def add(self, message: Message) -> None:
        if self._error is not None:
            raise self._error
        if message.left:
            self._under_way[message] = None
        elif not message.done:
            message.finish()
        for transfer in message.transfers:
            self._orders += 1
            transfer.order = self._orders
            if transfer.sends:
                self._out[transfer.peer].waiting.append(transfer)
            elif transfer.peer < 0:
                self._any[transfer.tag].append(transfer)
            else:
                box = self._in[transfer.peer]
                box.wanted[transfer.tag].append(transfer)
                box.wanting += 1
        message.transfers = []

    @property
    def busy(self) -> bool:
        return bool(self._under_way)

    def advance(self) -> bool:
        moved = False
        for box in self._out:
            if box.waiting or box.moving:
                moved = self._push(box) or moved
        anybody = any(self._any.values())
        for peer, inbox in enumerate(self._in):
            if inbox.wanting or anybody:
                self._look(inbox)
                moved = self._match(peer, inbox) or moved
            if inbox.moving:
                moved = self._pull(peer, inbox) or moved
        return moved

    def missing(self) -> tuple[Memory, int, int] | None:
        """A counter that holds something up, and its value; None where it no longer does, or any rank may act."""
        words = self._memory.words
        for at, least in self._awaited():
            value = words[at]
            return (self._memory, at, value) if value < least else None
        return None

    def fail(self, error: Exception) -> None:
        self._error = error
        under_way, self._under_way = list(self._under_way), {}
        for message in under_way:
            message.finish(error)

    def _awaited(self) -> Iterator[tuple[int, int]]:
        """Counters, each with the value from which on something can be done."""
        for inbox in self._in:
            if inbox.wanting:
                yield inbox.listed_at, inbox.seen + 1
            for transfer in inbox.moving:
                yield inbox.written_at + transfer.compartment, inbox.taken[transfer.compartment] + 1
        for box in self._out:
            for transfer in box.moving:
                taken = transfer.pieces if transfer.moved == transfer.pieces else transfer.moved - HALVES + 1
                yield box.taken_at + transfer.compartment, transfer.before + taken

    # --- the sender's end ---------------------------------------------------------------------------------------------

    def _push(self, box: Outbox) -> bool:
        words, moved = self._memory.words, False
        while box.waiting and box.free:
            transfer = box.waiting.popleft()
            transfer.compartment = heapq.heappop(box.free)
            transfer.before = box.written[transfer.compartment]
            transfer.pieces = self._pieces(transfer.data.numel())
            box.moving.append(transfer)
            self._write(box, transfer)
            listed = box.list_at + box.listed % ROOM * LISTED
            words[listed], words[listed + 1] = transfer.compartment, transfer.tag
            words[listed + 2] = transfer.data.numel()
            if transfer.head:
                words[listed + 3 : listed + 3 + len(transfer.head)] = array("q", transfer.head)
            box.listed += 1
            self._memory.count(box.listed_at, box.listed)
            moved = True
        for transfer in tuple(box.moving):
            moved = self._write(box, transfer) or moved
            if words[box.taken_at + transfer.compartment] == transfer.before + transfer.pieces:
                heapq.heappush(box.free, transfer.compartment)
                box.moving.remove(transfer)
                self._done(transfer)
                moved = True
        return moved

    def _write(self, box: Outbox, transfer: Transfer) -> bool:
        """Write the pieces that there is room for."""
        words, moved, compartment = self._memory.words, False, transfer.compartment
        while transfer.moved < transfer.pieces:
            if transfer.before + transfer.moved - words[box.taken_at + compartment] >= HALVES:
                break
            self._memory.fence()
            self._half(self._rank, transfer.peer, transfer).copy_(self._part(transfer))
            transfer.moved += 1
            box.written[compartment] += 1
            self._memory.count(box.written_at + compartment, box.written[compartment])
            moved = True
        return moved

    # --- the receiver's end -------------------------------------------------------------------------------------------

    def _look(self, box: Inbox) -> None:
        """Read what has been listed since the last look."""
        words = self._memory.words
        listed = words[box.listed_at]
        if listed > box.seen:
            self._memory.fence()
        while box.seen < listed:
            at = box.list_at + box.seen % ROOM * LISTED
            tag = words[at + 1]
            head = words[at + 3 : at + LISTED].tolist() if tag == DESCRIBED else ()
            box.arrived[tag].append((words[at], words[at + 2], head))
            box.seen += 1

    def _match(self, peer: int, box: Inbox) -> bool:
        """Give each message to the receive that has waited longest for its tag, from this rank or from any."""
        moved = False
        for tag, arrived in box.arrived.items():
            while arrived:
                queues = [queue for queue in (box.wanted.get(tag), self._any.get(tag)) if queue]
                if not queues:
                    break
                queue = min(queues, key=lambda each: each[0].order)
                transfer = queue.popleft()
                box.wanting -= transfer.peer >= 0
                transfer.peer = peer
                transfer.compartment, nbytes, head = arrived.popleft()
                if transfer.make is not None:
                    transfer.data = transfer.make(head).view(torch.uint8)
                if nbytes != transfer.data.numel():
                    raise RuntimeError(
                        f"rank {peer} of the group sent {nbytes:,} bytes, rank {self._rank} asked for "
                        f"{transfer.data.numel():,}"
                    )
                transfer.before, transfer.pieces = box.taken[transfer.compartment], self._pieces(nbytes)
                box.moving.append(transfer)
                moved = True
        return moved

    def _pull(self, peer: int, box: Inbox) -> bool:
        words, moved = self._memory.words, False
        for transfer in tuple(box.moving):
            compartment = transfer.compartment
            while transfer.moved < transfer.pieces and words[box.written_at + compartment] > box.taken[compartment]:
                self._memory.fence()
                self._part(transfer).copy_(self._half(peer, self._rank, transfer))
                transfer.moved += 1
                box.taken[compartment] += 1
                self._memory.count(box.taken_at + compartment, box.taken[compartment])
                moved = True
            if transfer.moved == transfer.pieces:
                box.moving.remove(transfer)
                self._done(transfer)
        return moved

    # --- both ---------------------------------------------------------------------------------------------------------

    def _pieces(self, nbytes: int) -> int:
        return max(1, -(-nbytes // self._piece))

    def _part(self, transfer: Transfer) -> Tensor:
        if transfer.pieces == 1:
            return transfer.data
        start = transfer.moved * self._piece
        return transfer.data[start : start + self._piece]

    def _half(self, sender: int, receiver: int, transfer: Transfer) -> Tensor:
        """Where the transfer's next piece goes, or is."""
        box = sender * self._size + receiver
        half = (box * ROOM + transfer.compartment) * HALVES + (transfer.before + transfer.moved) % HALVES
        nbytes = min(self._piece, transfer.data.numel() - transfer.moved * self._piece)
        return self._memory.view(self._data + half * self._piece, torch.uint8, nbytes)

    def _done(self, transfer: Transfer) -> None:
        message = transfer.owner
        message.one_done(transfer)
        if message.done:
            self._under_way.pop(message, None)


def data_bytes(size: int, piece_bytes: int) -> int:
    """What the compartments of a group of this size take."""
    return size * size * ROOM * HALVES * piece_bytes
