"""Where what ranks post meets: results are given, and the bytes begin to fly."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from llmlab.comm import reports
from llmlab.comm.errors import MismatchError
from llmlab.comm.group import Group
from llmlab.comm.simulated import matching, pricing
from llmlab.comm.simulated.clock import Flow, Time, least, settled
from llmlab.comm.simulated.matching import Matcher, Post
from llmlab.comm.simulated.recorder import unseen
from llmlab.comm.simulated.striking import Faults
from llmlab.comm.where import describe

if TYPE_CHECKING:
    from llmlab.comm.simulated.simulation import Simulation


class Meeting:
    """The posts of one run."""

    def __init__(self, simulation: Simulation, faults: Faults | None):
        self.simulation, self.faults, self.matcher = simulation, faults, Matcher()
        self.timeline, self.scheduler, self.cluster = simulation.timeline, simulation.scheduler, simulation.cluster
        self._numerics = simulation.options.numerics
        self._runs: dict[matching.Key, frozenset[int]] = {}
        self._prices: dict[tuple, pricing.Price] = {}

    def post(self, post: Post) -> None:
        """Put one rank's side of an operation where the others' will find it."""
        if self.simulation.alike is not None:
            self._watch(post)
        if self.simulation.folding is None:
            raise ValueError("with fold, make the Mesh before the first communication: it says who is alike")
        if not post.call.is_message:
            self._collective(post)
        elif post.call.takes:
            self._recv(post)
        else:
            self._send(post)

    def _watch(self, post: Post) -> None:
        """With fold="auto": before there is a Mesh, the world is the only axis; no messages along a folded one."""
        alike = self.simulation.alike
        assert alike is not None
        if alike.stands is None:
            self.simulation.fold_world()
        if post.call.is_message:
            alike.refuse(post.group, f"messages go along it, {describe(post.place)}")
        if post.key not in self._runs and not self._who_runs(post) <= set(post.group.members):
            alike.refuse(post.group, f"the groups of {post.group.axis} cut it, {describe(post.place)}")

    def _who_runs(self, post: Post) -> frozenset[int]:
        """The ranks that run for the members of a post's group."""
        if post.key not in self._runs:
            self._runs[post.key] = frozenset(map(self.simulation.stand_in, post.group.members))
        return self._runs[post.key]

    # --- collectives ------------------------------------------------------------------------------------------------

    def _collective(self, post: Post) -> None:
        met = self.matcher.join(post)
        wanted = self._who_runs(post)
        if next(iter(met.values())).signature != post.signature:
            raise self._mismatch(post.group, met, wanted)
        if len(met) < len(wanted):
            return
        self.matcher.drop(post)
        members, posts = post.group.members, list(met.values())
        everyone = [met[n] for n in (map(self.simulation.stand_in, members) if self.simulation.folding else members)]
        for p in posts:
            if p.changed:
                p.rank.check_unchanged(p)
        if self._numerics:
            matching.fill(post.call.op, everyone)
        else:
            matching.fill_meta(post.call.op, everyone, posts)
        for p in posts:
            p.rank.received(p)
        nbytes = matching.payload(post.call.op, [p.call for p in posts], post.group.size)
        self._fly(self._price(post, nbytes), [p.ready for p in posts], posts)
        for p in posts:
            p.rank.streams[p.key] = p.end
            self._complete(p)

    def _price(self, post: Post, nbytes: int) -> pricing.Price:
        op, root, members = post.call.op, post.call.root, post.group.members
        key = op, post.key, nbytes, root
        if key not in self._prices:
            self._prices[key] = pricing.collective(self.cluster, op, members, nbytes, root, self._who_runs(post))
        return self._prices[key]

    def _mismatch(self, group: Group, posts: dict[int, Post], wanted: frozenset[int]) -> MismatchError:
        others = {n: self.simulation.ranks[n].doing() for n in wanted if n not in posts}
        return reports.mismatch(group.axis, {n: post.side for n, post in posts.items()}, others)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _send(self, post: Post) -> None:
        assert post.call.peer is not None
        src, dst = post.rank.number, self.simulation.stand_in(post.group.members[post.call.peer])
        recvs = self.matcher.queue(self.matcher.recvs, post, src, dst)
        if recvs:
            self._deliver(post, recvs.popleft())
        else:
            self.matcher.queue(self.matcher.sends, post, src, dst).append(post)

    def _recv(self, post: Post) -> None:
        if post.call.peer is None:
            self.matcher.any_recvs.append(post)
            return
        src, dst = self.simulation.stand_in(post.group.members[post.call.peer]), post.rank.number
        sends = self.matcher.queue(self.matcher.sends, post, src, dst)
        if sends:
            self._deliver(sends.popleft(), post)
        else:
            self.matcher.queue(self.matcher.recvs, post, src, dst).append(post)

    def deliver_earliest(self, before: int | None) -> bool:
        """Let a recv from any rank take its message, unless something else happens before. False if none is there."""
        found = []
        for recv in self.matcher.any_recvs:
            for send in self.matcher.senders(recv):
                sent, asked = settled(send.ready), settled(recv.ready)
                if isinstance(sent, int) and isinstance(asked, int):
                    found.append((max(sent, asked), sent, send.rank.number, send, recv))
        # what is ready earliest on both sides, then what was sent earliest, then the lowest rank's
        earliest = min(found, key=lambda f: f[:3], default=None)
        if earliest is None or (before is not None and earliest[0] > before):
            return False
        *_, send, recv = earliest
        self.matcher.any_recvs.remove(recv)
        self.matcher.queue(self.matcher.sends, send, send.rank.number, recv.rank.number).popleft()
        self._deliver(send, recv)
        return True

    def _deliver(self, send: Post, recv: Post) -> None:
        x = send.call.tensors[0]
        if send.signature != recv.signature:
            sides = {send.rank.number: send.side, recv.rank.number: recv.side}
            raise reports.unfit_message(sides, recv.rank.number)
        with unseen():
            send.rank.check_unchanged(send)
            recv.result = x.detach().clone(memory_format=torch.contiguous_format)
            recv.rank.received(recv)
        src, dst = send.group.members.index(send.rank.number), recv.group.members.index(recv.rank.number)
        recv.call = replace(recv.call, peer=src) if recv.call.peer is None else recv.call
        price = self._message_price(send, recv)
        channel = (send.key, src, dst)
        self._fly(price, [send.ready, recv.ready, send.rank.streams.get(channel, 0)], [send, recv])
        send.rank.streams[channel] = send.end
        self._complete(send)
        self._complete(recv)

    def _message_price(self, send: Post, recv: Post) -> pricing.Price:
        """A message's cost; of a folded rank's, the dearest among those it stands for."""
        nbytes, members, stand_in = send.call.nbytes, send.group.members, self.simulation.stand_in
        src, dst = send.rank.number, members[recv.group.members.index(recv.rank.number)]
        if self.simulation.folding and send.call.peer is not None:
            step = send.call.peer - send.group.rank
            hops = [(a, members[(i + step) % len(members)]) for i, a in enumerate(members) if stand_in(a) == src]
            return max((pricing.message(self.cluster, a, b, nbytes) for a, b in hops), key=lambda price: price.alone_ps)
        return pricing.message(self.cluster, src, dst, nbytes)

    # --- both -------------------------------------------------------------------------------------------------------

    def _fly(self, price: pricing.Price, ready: list[Time], posts: list[Post]) -> None:
        """Let the bytes of an operation go as soon as all its sides are ready, and say when they have arrived."""
        if self.faults is not None:
            price = self.faults.priced(price, [post.rank.number for post in posts])
        ends = [post.end for post in posts]  # not the posts: time may come to this long after their tensors should go
        soonest = max(map(least, ready)) + price.alone_ps
        for end in ends:
            end.least = soonest

        def arrived(ps: int) -> None:
            for end in ends:
                self.timeline.resolve(end, ps)

        def leave(ps: int) -> None:
            flow = Flow(float(price.transfer_ps), price.loads, arrived)
            self.timeline.start_flow(ps + price.latency_ps, flow)

        self.timeline.after(ready, leave)

    def _complete(self, post: Post) -> None:
        post.matched = True
        post.rank.log_comm(post)
        self.scheduler.wake(post.rank.task)

    def check_nothing_left(self) -> None:
        """Raise MismatchError if ranks have returned and something they began is open."""
        unmet = self.matcher.left_over()
        left = unmet or [post for rank in self.simulation.ranks.values() for post in rank.handles.values()]
        if left:
            sides: dict[int, list[matching.Side]] = {}
            for post in left:
                sides.setdefault(post.rank.number, []).append(post.side)
            raise reports.left_over(sides, taken=not unmet)
