"""torch.distributed's backend "llmlab": CPU tensors between processes of one host, through memory that they share.

    import llmlab.comm.shared
    torch.distributed.init_process_group("llmlab")          # under torchrun, on one machine

DistributedDataParallel, FSDP2, DTensor, pipelining and every program of one's own then run on it, unchanged. It is a
Python subclass of ProcessGroup: torch's own classes call it like any other, from C++ too.
"""

# mypy: disable-error-code="override, assignment"
# torch's stubs describe the overloads of its C++ methods; torch itself calls one of each, as here

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from llmlab.comm.shared.buffers import LEAST, buffer_of
from llmlab.comm.shared.collectives import Collectives
from llmlab.comm.shared.joining import Layout, meet
from llmlab.comm.shared.mailbox import DESCRIBED, HEAD
from llmlab.comm.shared.messages import EXCHANGE, Mailboxes, Message
from llmlab.comm.shared.progress import PROGRESS
from llmlab.comm.shared.rounds import Board, Plan, Rounds
from llmlab.comm.shared.sums import reduction_of
from llmlab.comm.shared.tensors import Back, flat, landing, same_memory, together
from llmlab.comm.shared.works import FINISHED, NAME, Finished, Operation, Several, recorded, recording


class SharedMemoryGroup(dist.ProcessGroup):
    """A process group whose ranks share memory."""

    def __init__(self, store: Any, rank: int, size: int, name: str, limit_s: float):
        super().__init__(rank, size)  # type: ignore[call-arg]  # a constructor that the stubs do not have
        self._label, self._description = name, "llmlab"
        self._rank, self._size = rank, size
        layout = Layout(size)
        memory, processes = meet(store, rank, size, layout, limit_s)
        self._board = Board(memory, rank, size, layout.slot_bytes, layout.slots, limit_s)
        self._mailboxes = Mailboxes(memory, rank, size, layout.boxes, layout.compartments, layout.piece_bytes, limit_s)
        for lane in (self._board, self._mailboxes):
            lane.processes = processes
        self._collectives = Collectives(self._board)
        self._together: list[Operation] | None = None
        PROGRESS.welcome(size)

    # --- what torch asks of a group -----------------------------------------------------------------------------------

    @property
    def group_name(self) -> str:
        return self._label

    @property
    def group_desc(self) -> str:
        return self._description

    def getGroupName(self) -> str:
        return self._label

    def getGroupDesc(self) -> str:
        return self._description

    def setGroupName(self, name: str) -> None:
        self._label = name

    def setGroupDesc(self, description: str) -> None:
        self._description = description

    def getBackendName(self) -> str:
        return NAME

    def _get_backend_name(self) -> str:
        return NAME

    @property
    def supports_splitting(self) -> bool:
        return False

    def shutdown(self) -> None:
        PROGRESS.forget((self._board, self._mailboxes))
        self._collectives.forget()

    abort = shutdown

    # --- collectives --------------------------------------------------------------------------------------------------

    def allreduce(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        x = tensors[0]
        if len(tensors) > 1:
            return self.allreduce_coalesced(tensors, opts)
        there, back = landing(x)
        name = reduction_of(opts.reduceOp if opts is not None else dist.ReduceOp.SUM, x.dtype)
        plan = self._collectives.plan(Collectives.all_reduce, there.dtype, there.numel(), name)
        return self._begin(plan, (there, there), tensors, back, _attended(opts))

    def all_reduce_into(self, out: Tensor, x: Tensor, name: str, attended: bool) -> dist.Work:
        """Leave x as it is. torch's allreduce works in place, and who wants both would have to copy first."""
        mine, there = flat(x), flat(out)
        if mine.data_ptr() == there.data_ptr() and there.nbytes >= LEAST and (buffer := buffer_of(there)) is not None:
            plan = self._collectives.plan(Collectives.all_reduce_in_buffers, there.dtype, there.numel(), name)
            return self._begin(plan, (there, buffer), [out], None, attended)
        plan = self._collectives.plan(Collectives.all_reduce, there.dtype, there.numel(), name)
        return self._begin(plan, (mine, there), [out], None, attended)

    def allreduce_coalesced(self, tensors: list[Tensor], opts: Any = None) -> dist.Work:
        return self._last([self.allreduce([x], opts) for x in tensors], tensors)

    def reduce(self, tensors: list[Tensor], opts: Any) -> dist.Work:
        there, back = landing(tensors[0])
        name = reduction_of(opts.reduceOp, there.dtype)
        plan = self._collectives.plan(Collectives.reduce, there.dtype, there.numel(), name, opts.rootRank)
        return self._begin(plan, there, tensors, back, _attended(opts))

    def broadcast(self, tensors: list[Tensor], opts: Any) -> dist.Work:
        works: list[dist.Work] = []
        for x in tensors:
            there, back = landing(x)
            plan = self._collectives.plan(Collectives.broadcast, there.dtype, there.numel(), opts.rootRank)
            works.append(self._begin(plan, there, tensors, back, _attended(opts)))
        return self._last(works, tensors)

    def barrier(self, opts: Any = None) -> dist.Work:
        return self._begin(self._collectives.plan(Collectives.barrier), None, [], None, _attended(opts))

    def all_gather_single(self, out: Tensor, x: Tensor, opts: Any = None) -> dist.Work:
        self._divides("all_gather", out.numel(), x.numel())
        there, back = landing(out)
        rows = list(there.view(self._size, -1).unbind()) if x.numel() else [there] * self._size
        return self._gather(rows, x, [out], back, opts)

    def allgather(self, outs: list[list[Tensor]], xs: list[Tensor], opts: Any = None) -> dist.Work:
        landings = [landing(out) for out in outs[0]]
        rows, backs = [there for there, _ in landings], [back for _, back in landings]
        return self._gather(rows, xs[0], outs[0], together(backs), opts)

    def all_gather_single_coalesced(self, outs: list[Tensor], xs: list[Tensor], opts: Any = None) -> dist.Work:
        return self._last([self.all_gather_single(out, x, opts) for out, x in zip(outs, xs, strict=True)], outs)

    def allgather_coalesced(self, outs: list[list[Tensor]], xs: list[Tensor], opts: Any = None) -> dist.Work:
        works = [self.allgather([rows], [x], opts) for rows, x in zip(outs, xs, strict=True)]
        return self._last(works, [out for rows in outs for out in rows])

    def gather(self, outs: list[list[Tensor]], xs: list[Tensor], opts: Any) -> dist.Work:
        landings = [landing(out) for out in outs[0]] if self._rank == opts.rootRank else []
        rows, backs = [there for there, _ in landings], [back for _, back in landings]
        return self._gather(rows, xs[0], outs[0] if outs else [], together(backs), opts, opts.rootRank)

    def reduce_scatter_single(self, out: Tensor, x: Tensor, opts: Any = None) -> dist.Work:
        self._divides("reduce_scatter", x.numel(), out.numel())
        whole = flat(x)
        parts = list(whole.view(self._size, -1).unbind()) if whole.numel() else [whole] * self._size
        return self._reduce_scatter(out, parts, opts)

    def reduce_scatter(self, outs: list[Tensor], xs: list[list[Tensor]], opts: Any = None) -> dist.Work:
        return self._reduce_scatter(outs[0], [flat(x) for x in xs[0]], opts)

    def reduce_scatter_single_coalesced(self, outs: list[Tensor], xs: list[Tensor], opts: Any = None) -> dist.Work:
        return self._last([self.reduce_scatter_single(out, x, opts) for out, x in zip(outs, xs, strict=True)], outs)

    def scatter(self, outs: list[Tensor], xs: list[list[Tensor]], opts: Any) -> dist.Work:
        there, back = landing(outs[0])
        parts = [flat(x) for x in xs[0]] if self._rank == opts.rootRank else []
        if parts:
            there.copy_(parts[self._rank].clone() if same_memory(there, parts) else parts[self._rank])
        plan = self._collectives.plan(Collectives.scatter, there.dtype, there.numel(), opts.rootRank)
        return self._begin(plan, (there, parts), outs, back, _attended(opts))

    # their names until torch 2.13
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    # --- messages -----------------------------------------------------------------------------------------------------

    def send(self, tensors: list[Tensor], dst: int, tag: int) -> dist.Work:
        return self._queue(self._message("send", tensors).send(flat(tensors[0]), dst, tag))

    def recv(self, tensors: list[Tensor], src: int, tag: int) -> dist.Work:
        there, back = landing(tensors[0])
        return self._queue(self._message("recv", tensors, back).receive(there, src, tag))

    def recv_anysource(self, tensors: list[Tensor], tag: int) -> dist.Work:
        return self.recv(tensors, -1, tag)

    def alltoall(self, outs: list[Tensor], xs: list[Tensor], opts: Any = None) -> dist.Work:
        landings = [landing(out) for out in outs]
        parts = [flat(x) for x in xs]
        return self._exchange([there for there, _ in landings], parts, outs, together([back for _, back in landings]))

    def all_to_all_single(
        self, out: Tensor, x: Tensor, out_splits: list[int], in_splits: list[int], opts: Any = None
    ) -> dist.Work:
        there, back = landing(out)
        return self._exchange(self._split(there, out, out_splits), self._split(flat(x), x, in_splits), [out], back)

    alltoall_base = all_to_all_single

    def hand_over(
        self,
        parts: Mapping[int, tuple[Sequence[int], Tensor]],
        places: Mapping[int, Callable[[Sequence[int]], Tensor]],
        attended: bool,
    ) -> dist.Work:
        """Hand each rank its part, with at most HEAD numbers that describe it; take what those in `places` have.

        A place is made of the numbers that come: neither side need know the other's shapes.
        """
        message = self._message("all_to_all", [])
        for peer, (head, x) in parts.items():
            assert len(head) <= HEAD
            message.send(flat(x), peer, DESCRIBED, head)
        for peer, place in places.items():
            message.receive_described(peer, place)
        return self._queue(message, None, attended)

    # --- several at once ----------------------------------------------------------------------------------------------

    def _start_coalescing(self, device: Any) -> None:
        self._together = []

    def _end_coalescing(self, device: Any) -> dist.Work | None:
        works, self._together = self._together, None
        return Several(works) if works else None

    # --- inside -------------------------------------------------------------------------------------------------------

    def _begin(self, plan: Plan, tensors: Any, results: list[Tensor], back: Back, attended: bool) -> dist.Work:
        """attended: its caller is about to wait for it."""
        record = recording(plan.words)
        came: bool | None = False
        if plan.rounds == 1 and not PROGRESS.active:
            came = PROGRESS.at_once(self._board, plan, tensors, attended)
            if came:
                if back is not None:
                    back()
                work = FINISHED if attended else Finished(results)
                return work if record is None else recorded(record, work)
        operation = Rounds(PROGRESS, self._board, plan, tensors, results, back)
        operation.written = int(came is None)
        return self._queue(operation, record, attended)

    def _queue(self, operation: Operation, record: Any = None, attended: bool = False) -> dist.Work:
        record = record or recording(operation.words)
        PROGRESS.begin(operation, attended)
        if self._together is not None:
            self._together.append(operation)
        return operation if record is None else recorded(record, operation)

    def _last(self, works: Sequence[Any], results: list[Tensor]) -> Any:
        """A group's collectives end in their order: the last one stands for all."""
        if not works:
            return self._queue(self._message("nothing", results))
        last = works[-1]
        if last is not FINISHED:
            last.results = results
        return last

    def _message(self, words: str, results: list[Tensor], back: Callable[[], None] | None = None) -> Message:
        return Message(PROGRESS, self._mailboxes, words, results, back)

    def _gather(
        self,
        rows: list[Tensor],
        x: Tensor,
        results: list[Tensor],
        back: Callable[[], None] | None,
        opts: Any,
        root: int = -1,
    ) -> dist.Work:
        mine = flat(x)
        if rows and rows[self._rank].data_ptr() != mine.data_ptr() and same_memory(mine, rows):
            mine = mine.clone()  # or a row that comes in might change what is yet to go out
        if rows and rows[self._rank].data_ptr() != mine.data_ptr():
            rows[self._rank].copy_(mine)
        longest = max((row.numel() for row in rows), default=mine.numel())
        plan = self._collectives.plan(Collectives.all_gather, mine.dtype, longest, root)
        return self._begin(plan, (mine, rows), results, back, _attended(opts))

    def _reduce_scatter(self, out: Tensor, parts: list[Tensor], opts: Any) -> dist.Work:
        there, back = landing(out)
        if same_memory(there, parts):
            parts = [part.clone() for part in parts]
        name = reduction_of(opts.reduceOp if opts is not None else dist.ReduceOp.SUM, out.dtype)
        plan = self._collectives.plan(Collectives.reduce_scatter, there.dtype, there.numel(), name)
        return self._begin(plan, (there, parts), [out], back, _attended(opts))

    def _exchange(
        self, outs: Sequence[Tensor], parts: Sequence[Tensor], results: list[Tensor], back: Callable[[], None] | None
    ) -> dist.Work:
        """Hand parts[i] to each rank i, and take what it has for this one."""
        message = self._message("all_to_all", results, back)
        if same_memory(outs[0], parts):
            parts = [part.clone() for part in parts]
        if outs[self._rank].numel() != parts[self._rank].numel():
            raise ValueError(
                f"all_to_all wants a rank's own part as large as its place, got {parts[self._rank].numel()} "
                f"for {outs[self._rank].numel()}"
            )
        outs[self._rank].copy_(parts[self._rank])
        for peer in range(self._size):
            if peer != self._rank:
                message.receive(outs[peer], peer, EXCHANGE).send(parts[peer], peer, EXCHANGE)
        if not message.left and back is not None:
            back()
        return self._queue(message)

    def _split(self, there: Tensor, x: Tensor, splits: Sequence[int]) -> list[Tensor]:
        """A flat tensor's part for each rank; `splits` counts rows of the tensor that it was."""
        if not splits:
            self._divides("all_to_all", x.shape[0] if x.dim() else 1, 1)
            return list(there.tensor_split(self._size))
        row = x.numel() // x.shape[0] if x.shape[0] else 0
        return list(there.split([rows * row for rows in splits]))

    def _divides(self, op: str, whole: int, part: int) -> None:
        if (whole != part * self._size) if part != 1 else whole % self._size:
            raise ValueError(f"{op} over {self._size} ranks wants {self._size} equal parts, got {whole} of {part}")


def _attended(opts: Any) -> bool:
    """Whether the caller is about to wait, as torch's options have it."""
    return not getattr(opts, "asyncOp", True)


def _make(options: Any, _: Any = None) -> SharedMemoryGroup:
    limit_s = options.timeout.total_seconds()
    return SharedMemoryGroup(options.store, options.group_rank, options.group_size, options.group_id, limit_s)


def register() -> None:
    """Make the backend known to torch.distributed."""
    if NAME.upper() not in dist.Backend._plugins:
        dist.Backend.register_backend(NAME, _make, extended_api=True, devices=["cpu"])
