"""How simulated ranks' operations meet: posts, the result each rank gets, and the errors when they do not fit.

A *post* is one rank's side of one operation. The members' n-th collectives on a group belong together; messages between
two ranks match in the order they were sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llmlab.comm.call import Call, Side, Signature, reduced, signature
from llmlab.comm.group import Group
from llmlab.comm.simulated.clock import Time, When, least
from llmlab.comm.where import Place

if TYPE_CHECKING:
    from llmlab.comm.simulated.rank import Rank

Key = int  # a group, by its axis and members: see Matcher.key_of


@dataclass(eq=False, slots=True)
class Post:
    """One rank's side of an operation, and the handle its asynchronous caller holds."""

    rank: Rank
    group: Group
    call: Call
    key: Key  # its group's
    place: Place
    ready: Time
    compute: Time  # what its rank's device was given before
    result: Any
    matched: bool = False
    waited: bool = False
    made: bool = field(init=False)  # its result is there from the start, to be filled
    end: When = field(init=False)
    signature: Signature = field(init=False)
    versions: list[tuple[Tensor, int]] = field(init=False)  # of the buffers in flight, as we left them

    def __post_init__(self) -> None:
        call = self.call
        self.made, self.end, self.signature = self.result is not None, When(least(self.ready)), signature(call)
        self.versions = [] if call.takes else [(x, x._version) for x in call.tensors]
        if call.out is not None:
            self.versions.append((call.out, call.out._version))

    def wait(self) -> Any:
        return self.rank.wait(self)

    @property
    def changed(self) -> bool:
        return any(x._version != version for x, version in self.versions)

    @property
    def side(self) -> Side:
        """Say what this is, for reports."""
        peer = None if self.call.peer is None else self.group.members[self.call.peer]
        return Side(self.call.name, self.group.axis, self.signature, peer, self.place)


def result_like(call: Call, size: int, rank: int) -> Tensor | None:
    """Make the tensor a collective will fill on this rank, where its shape is known from this rank's side alone."""
    if call.out is not None:
        return call.out
    if call.op in ("barrier", "all_to_all", "scatter") or (call.op in ("reduce", "gather") and rank != call.root):
        return None
    x = call.tensors[0]
    if call.op in ("all_reduce", "broadcast", "reduce") and type(x) is Tensor and not x.is_complex():
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    shape = [*x.shape]
    if call.op in ("all_gather", "gather"):
        shape[0] *= size
    elif call.op == "reduce_scatter":
        shape[0] //= size
    return torch.empty(shape, dtype=x.dtype, device=x.device)


def payload(op: str, calls: list[Call], size: int) -> int:
    """Bytes of the whole operation: what the rank that holds most of it holds."""
    uneven = op in ("all_to_all", "scatter", "broadcast")  # elsewhere all hand over the same
    handed = max(call.nbytes for call in (calls if uneven else calls[:1]))
    return handed * size if op in ("all_gather", "gather") else handed


def fill(op: str, posts: list[Post]) -> None:
    """Give every member its result. posts: by rank within the group (a folded group repeats its representative)."""
    inputs = [post.call.tensors for post in posts]
    reduce, root = posts[0].call.reduce, posts[0].call.root
    if op == "barrier":
        return
    if op == "all_to_all":
        for i, post in enumerate(posts):
            post.result = [given[i].clone() for given in inputs]
    elif op == "scatter":
        assert root is not None
        for post, part in zip(posts, inputs[root][0].chunk(len(posts)), strict=True):
            post.result = part.clone()
    elif op == "broadcast":
        assert root is not None
        _write(posts, inputs[root][0])
    elif op in ("all_gather", "gather"):
        _write(posts, torch.cat([given[0] for given in inputs]))
    else:
        assert reduce is not None
        total = reduced([given[0] for given in inputs], reduce)
        if op != "reduce_scatter":
            return _write(posts, total)
        for post, part in zip(posts, total.chunk(len(posts)), strict=True):
            _write([post], part)


def _write(posts: list[Post], value: Tensor) -> None:
    results = [post.result for post in posts if post.result is not None]
    if len(results) > 1:
        torch._foreach_copy_(results, [value] * len(results))
    elif results:
        results[0].copy_(value)


@dataclass
class Matcher:
    """All that is posted and not yet complete, for one run."""

    collectives: dict[tuple[Key, int], dict[int, Post]] = field(default_factory=dict)
    sends: dict[tuple[Key, int, int], deque[Post]] = field(default_factory=dict)  # group, from, to (world ranks)
    recvs: dict[tuple[Key, int, int], deque[Post]] = field(default_factory=dict)
    any_recvs: list[Post] = field(default_factory=list)
    counts: dict[tuple[Key, int], int] = field(default_factory=dict)
    keys: dict[tuple[str, tuple[int, ...]], Key] = field(default_factory=dict)

    def key_of(self, group: Group) -> Key:
        """The same small number on every rank of a group; kept on the rank's Group, as hashing thousands is slow."""
        known = vars(group)
        if "_key" not in known:
            known["_key"] = self.keys.setdefault((group.axis, group.members), len(self.keys))
        return known["_key"]

    def join(self, post: Post) -> dict[int, Post]:
        """Put a post among those of the same collective, complete when each member or its stand-in is here."""
        mine = post.key, post.rank.number
        count = self.counts[mine] = self.counts.get(mine, -1) + 1
        posts = self.collectives.setdefault((post.key, count), {})
        posts[post.rank.number] = post
        return posts

    def drop(self, post: Post) -> None:
        """Forget a collective that is complete."""
        del self.collectives[post.key, self.counts[post.key, post.rank.number]]

    def queue(self, table: dict, post: Post, src: int, dst: int) -> deque[Post]:
        return table.setdefault((post.key, src, dst), deque())

    def senders(self, recv: Post) -> list[Post]:
        """The first waiting message of each rank that a recv from any rank could take."""
        key, me = recv.key, recv.rank.number
        return [queue[0] for (k, _, dst), queue in self.sends.items() if k == key and dst == me and queue]

    def left_over(self) -> list[Post]:
        """Posts that nobody met, when all ranks have returned."""
        posts = [p for group in self.collectives.values() for p in group.values()]
        queues = [*self.sends.values(), *self.recvs.values()]
        return posts + [p for q in queues for p in q] + self.any_recvs


def fill_meta(op: str, everyone: list[Post], posts: Iterable[Post]) -> None:
    """Give each post that ran the shapes of its results; only what is on the host has numbers to fill in."""
    if any(x.device.type == "cpu" for post in everyone for x in post.call.tensors):
        return fill(op, everyone)
    for post in posts if op in ("all_to_all", "scatter") else ():
        me = everyone.index(post)
        if op == "all_to_all":
            post.result = [torch.empty_like(p.call.tensors[me]) for p in everyone]
        else:
            assert post.call.root is not None
            given = everyone[post.call.root].call.tensors[0]
            post.result = given.new_empty(given.shape[0] // len(everyone), *given.shape[1:])
