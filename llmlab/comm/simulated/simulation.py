"""One simulated run: ranks take turns, what they post meets, and virtual time moves on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from llmlab.comm import reports
from llmlab.comm.call import Side
from llmlab.comm.copying import Copies
from llmlab.comm.errors import DeadlockError, MismatchError, RankError
from llmlab.comm.group import Group
from llmlab.comm.seeding import RandomState
from llmlab.comm.simulated import matching, pricing
from llmlab.comm.simulated.clock import PS, Flow, Logged, Time, Timeline, known, least, settled
from llmlab.comm.simulated.folding import Alike
from llmlab.comm.simulated.matching import Matcher, Post
from llmlab.comm.simulated.naming import OPTIMIZER, watch_modules
from llmlab.comm.simulated.printing import Printing, Progress
from llmlab.comm.simulated.rank import Rank
from llmlab.comm.simulated.recorder import unseen
from llmlab.comm.simulated.scheduler import Scheduler, Task
from llmlab.comm.simulated.striking import Faults
from llmlab.comm.simulated.surroundings import Surroundings, one_thread_at_a_time
from llmlab.comm.trace import Run, Trace
from llmlab.comm.turns import turn
from llmlab.comm.where import describe
from llmlab.hardware import cluster as find_cluster

if TYPE_CHECKING:
    from llmlab.comm.simulator import Simulator

NOT_MODELLED = (
    "memory fragmentation", "clock throttling", "switch congestion", "tile quantisation",
    "compilers and graphs", "data loading", "work on the host",
)  # fmt: skip


class Simulation:
    """One run: the ranks, what they have posted, and the clock."""

    def __init__(
        self,
        options: Simulator,
        worker: Callable[..., Any],
        args: tuple,
        kwargs: dict,
        surroundings: Surroundings | None = None,
        alike: Alike | None = None,
    ):
        self.options, self.cluster = options, find_cluster(options.cluster)
        self.surroundings = surroundings or Surroundings()
        self.copies = Copies(worker, args, kwargs, meta=not options.numerics)
        self.timeline, self.matcher, self.printing = (
            Timeline(options.comm_slows_matmul),
            Matcher(),
            Printing(alike is not None),
        )
        self.events: list[Logged] = []
        self.scheduler = Scheduler(idle=self._idle, on_switch=self._advance)
        self.alike, self.fold = alike, () if alike is not None else options.fold
        self.folding: dict[int, int] | None = None if set(self.fold) - {"world"} else {}
        if alike is not None:
            self.folding = alike.stands
        if "world" in self.fold:
            self.folding = dict.fromkeys(range(options.ranks), 0)
        self.ranks: dict[int, Rank] = {}
        self.faults = Faults(options.faults) if options.faults else None
        self._switches = 0
        self._progress = Progress(self.printing, options.ranks)
        self._runs: dict[matching.Key, frozenset[int]] = {}
        self._prices: dict[tuple, pricing.Price] = {}

    # --- a run ----------------------------------------------------------------------------------------------------

    def run(self) -> Run:
        first = [0] if self.fold else range(self.options.ranks) if self.alike is None else self.alike.running
        with turn(), self._surroundings():
            for number in first:
                self.start_rank(number)
            self.scheduler.run(every=0.05, meanwhile=self._meanwhile)
            if self.alike is not None:
                self.alike.ended()
            self._check_nothing_left()
            while self.timeline.next_event() is not None:
                self.timeline.step()
        return self._report()

    def _meanwhile(self) -> None:
        """Show what ranks print; and of very many ranks, every few seconds, how far they are."""
        self.printing.flush()
        self._progress.show(self.scheduler.tasks)

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """One intra-op thread, no collector, prints caught, the optimizers heard; all as before afterwards."""
        with ExitStack() as after:
            after.enter_context(one_thread_at_a_time())
            after.callback(register_optimizer_step_pre_hook(self._enter_optimizer).remove)
            after.callback(register_optimizer_step_post_hook(self._leave_optimizer).remove)
            after.callback(self._close_meters)
            if self.options.kernels:
                watch_modules(after, self._rank_now)
            after.enter_context(self.printing.caught(self._who_runs_now))
            after.enter_context(self.surroundings.around(self))
            yield

    def _report(self) -> Run:
        stands_for = [self.ranks[self.stand_in(number)] for number in range(self.options.ranks)]
        self.events.sort(key=attrgetter("start", "rank", "stop", "op"))
        events = tuple(logged.event() for logged in self.events)
        end = max([e.stop for e in self.events] + [known(settled(rank.end())) for rank in self.ranks.values()])
        meta = () if self.options.numerics else ("values: what depends on them is balanced",)
        label = self.cluster.name + (" (fictional)" if self.cluster.fictional else "")
        return Run(
            results=[rank.result for rank in stands_for],
            seconds=end / PS,
            clock="virtual",
            trace=Trace(events, "virtual", label),
            memory=[rank.meter.report() for rank in stands_for],
            output=[self.printing.of(rank.number) for rank in stands_for],
            hardware=label,
            not_modelled=NOT_MODELLED
            + meta
            + (() if self.options.kernels else ("kernels",))
            + self.surroundings.not_modelled,
        )

    def _check_nothing_left(self) -> None:
        left = self.matcher.left_over() or [p for rank in self.ranks.values() for p in rank.handles.values()]
        if left:
            sides: dict[int, list[Side]] = {}
            for post in left:
                sides.setdefault(post.rank.number, []).append(post.side)
            raise reports.left_over(sides, taken=not self.matcher.left_over())

    def _enter_optimizer(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        rank = self._rank_now()
        if rank is not None:
            rank.in_optimizer = True
            rank.meter.names.within.append(OPTIMIZER)

    def _leave_optimizer(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        """Count as optimizer state what the optimizer holds, however it made it."""
        rank = self._rank_now()
        if rank is None:
            return
        rank.in_optimizer = False
        rank.meter.names.leave()
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    rank.meter.place(value, "optimizer state")
        rank.meter.name_what_steps(optimizer)

    def _close_meters(self) -> None:
        for rank in self.ranks.values():
            rank.meter.close()

    def _rank_now(self) -> Rank | None:
        number = self._who_runs_now()
        return None if number is None else self.ranks[number]

    def _who_runs_now(self) -> int | None:
        return None if self.scheduler.current is None else self.scheduler.current.number

    # --- ranks ----------------------------------------------------------------------------------------------------

    def start_rank(self, number: int) -> None:
        rank = self.ranks[number] = Rank(self, number)
        rank.task = Task(number, rank.body, RandomState(self.options.seed, number))
        self.surroundings.prepare(rank)
        self.scheduler.add(rank.task)

    def stand_in(self, number: int) -> int:
        """The rank that runs for this one."""
        return number if not self.folding else self.folding[number]

    def who_runs(self, post: Post) -> frozenset[int]:
        """The ranks that run for the members of a post's group."""
        if post.key not in self._runs:
            self._runs[post.key] = frozenset(map(self.stand_in, post.group.members))
        return self._runs[post.key]

    def fold_along(self, families: dict[str, list[tuple[int, ...]]]) -> None:
        """Hear of the first rank's mesh: ranks alike along the folded axes are stood for by the lowest."""
        if self.alike is not None:
            self.alike.along(families)
            self._fold(self.alike.stands)
        if self.folding is not None:
            return
        missing = [axis for axis in self.fold if axis not in families]
        if missing:
            raise ValueError(f"fold={tuple(self.fold)} wants axes of the Mesh, which has {', '.join(families)}")
        stand_in = list(range(self.options.ranks))
        for axis in self.fold:
            lowest = {rank: min(members) for members in families[axis] for rank in members}
            stand_in = [lowest[rank] for rank in stand_in]
        self._fold(dict(enumerate(stand_in)))

    def _fold(self, stand_in: dict[int, int] | None) -> None:
        """Go on with those who run; `stand_in` says for each rank who does, and for none that all do."""
        self.folding = stand_in
        for number in sorted(set((stand_in or {}).values() or range(self.options.ranks)) - set(self.ranks)):
            self.start_rank(number)

    # --- posts meet -------------------------------------------------------------------------------------------------

    def post(self, post: Post) -> None:
        """Put one rank's side of an operation where the others' will find it."""
        if self.alike is not None:
            self._watch(post)
        if self.folding is None:
            raise ValueError("with fold, make the Mesh before the first communication: it says who is alike")
        if not post.call.is_message:
            self._collective(post)
        elif post.call.takes:
            self._recv(post)
        else:
            self._send(post)

    def _watch(self, post: Post) -> None:
        """With fold="auto": before there is a Mesh, the world is the only axis; no messages along a folded one."""
        assert self.alike is not None
        if self.alike.stands is None:
            self.alike.decide({"world": [tuple(range(self.options.ranks))]})
            self._fold(self.alike.stands)
        if post.call.is_message:
            self.alike.refuse(post.group, f"messages go along it, {describe(post.place)}")
        if post.key not in self._runs and not self.who_runs(post) <= set(post.group.members):
            self.alike.refuse(post.group, f"the groups of {post.group.axis} cut it, {describe(post.place)}")

    def _collective(self, post: Post) -> None:
        posts = self.matcher.join(post)
        first = next(iter(posts.values()))
        wanted = self.who_runs(post)
        if first.signature != post.signature:
            raise self._mismatch(post.group, posts, wanted)
        if len(posts) < len(wanted):
            return
        self.matcher.drop(post)
        members = post.group.members
        everyone = [posts[n] for n in (map(self.stand_in, members) if self.folding else members)]
        for p in posts.values():
            p.rank.check_unchanged(p)
        if self.options.numerics:
            matching.fill(post.call.op, everyone)
        else:
            matching.fill_meta(post.call.op, everyone, posts.values())
        for p in posts.values():
            p.rank.received(p)
        self._time_collective(post, list(posts.values()))

    def _time_collective(self, post: Post, posts: list[Post]) -> None:
        nbytes = matching.payload(post.call.op, [p.call for p in posts], post.group.size)
        price = self._price(post, nbytes)
        self._fly(price, [p.ready for p in posts], posts)
        for p in posts:
            p.rank.streams[p.key] = p.end
            self._complete(p)

    def _price(self, post: Post, nbytes: int) -> pricing.Price:
        op, root, members = post.call.op, post.call.root, post.group.members
        key = op, post.key, nbytes, root
        if key not in self._prices:
            self._prices[key] = pricing.collective(self.cluster, op, members, nbytes, root, self.who_runs(post))
        return self._prices[key]

    def _send(self, post: Post) -> None:
        assert post.call.peer is not None
        src, dst = post.rank.number, self.stand_in(post.group.members[post.call.peer])
        recvs = self.matcher.queue(self.matcher.recvs, post, src, dst)
        if recvs:
            self._deliver(post, recvs.popleft())
        else:
            self.matcher.queue(self.matcher.sends, post, src, dst).append(post)

    def _recv(self, post: Post) -> None:
        if post.call.peer is None:
            self.matcher.any_recvs.append(post)
            return
        src, dst = self.stand_in(post.group.members[post.call.peer]), post.rank.number
        sends = self.matcher.queue(self.matcher.sends, post, src, dst)
        if sends:
            self._deliver(sends.popleft(), post)
        else:
            self.matcher.queue(self.matcher.recvs, post, src, dst).append(post)

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
        ready = [send.ready, recv.ready, send.rank.streams.get(channel, 0)]
        self._fly(price, ready, [send, recv])
        send.rank.streams[channel] = send.end
        self._complete(send)
        self._complete(recv)

    def _message_price(self, send: Post, recv: Post) -> pricing.Price:
        """A message's cost; of a folded rank's, the dearest among those it stands for."""
        nbytes, members = send.call.nbytes, send.group.members
        src, dst = send.rank.number, members[recv.group.members.index(recv.rank.number)]
        if self.folding and send.call.peer is not None:
            step = send.call.peer - send.group.rank
            hops = [(a, members[(i + step) % len(members)]) for i, a in enumerate(members) if self.stand_in(a) == src]
            return max((pricing.message(self.cluster, a, b, nbytes) for a, b in hops), key=lambda price: price.alone_ps)
        return pricing.message(self.cluster, src, dst, nbytes)

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

    def _mismatch(self, group: Group, posts: dict[int, Post], wanted: frozenset[int]) -> MismatchError:
        others = {n: self.ranks[n].doing() for n in wanted if n not in posts}
        return reports.mismatch(group.axis, {n: post.side for n, post in posts.items()}, others)

    # --- time moves -----------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Now and then, replay the flows that nothing still to be issued can come before."""
        self._switches += 1
        if self._switches % (len(self.ranks) + 1):
            return
        while (moment := self.timeline.next_event()) is not None:
            live = (rank.host for rank in self.ranks.values() if rank.task.status != "done")
            if any(isinstance(host, int) and host < moment for host in map(settled, live)):
                return
            self.timeline.step()

    def _idle(self) -> bool:
        """Nobody can run: let time move until a rank wakes. False, and the run fails, if nothing wakes one."""
        try:
            self._wake_those_who_asked_the_time()
            while not self.scheduler.ready:
                choice = self._earliest_message()
                moment = self.timeline.next_event()
                if choice is not None and (moment is None or choice[0] <= moment):
                    _, _, _, send, recv = choice
                    self.matcher.any_recvs.remove(recv)
                    self.matcher.queue(self.matcher.sends, send, send.rank.number, recv.rank.number).popleft()
                    self._deliver(send, recv)
                elif moment is not None:
                    self.timeline.step()
                    self._wake_those_who_asked_the_time()
                else:
                    self.scheduler.fail(self._deadlock())
                    return False
        except RankError as error:
            self.scheduler.fail(error)
            return False
        return True

    def _earliest_message(self) -> tuple[int, int, int, Post, Post] | None:
        """What a recv from any rank takes first: ready earliest on both sides, then sent earliest, then lowest rank."""
        found = []
        for recv in self.matcher.any_recvs:
            for send in self.matcher.senders(recv):
                sent, asked = settled(send.ready), settled(recv.ready)
                if isinstance(sent, int) and isinstance(asked, int):
                    found.append((max(sent, asked), sent, send.rank.number, send, recv))
        return min(found, key=lambda f: f[:3], default=None)

    def _wake_those_who_asked_the_time(self) -> None:
        for rank in self.ranks.values():
            if rank.wants_time and isinstance(settled(rank.host), int):
                self.scheduler.wake(rank.task)

    def _deadlock(self) -> DeadlockError:
        stuck = next(n for n, rank in sorted(self.ranks.items()) if rank.task.status == "waiting")
        return reports.deadlock(self._doing(), stuck)

    def all_doing(self) -> str:
        """A line for every rank that runs: what it is at."""
        return reports.by_rank(self._doing())

    def _doing(self) -> dict[int, str]:
        return {n: rank.doing() for n, rank in self.ranks.items()}
