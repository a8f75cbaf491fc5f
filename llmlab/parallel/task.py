"""Task parallelism: independent tasks shared out over ranks, dealt in advance or handed to whoever is free.

    static, chunk 1     rank 0: 0 3 6 9    rank 1: 1 4 7    rank 2: 2 5 8       dealt like cards, before anything runs
    first_free          rank 0 hands out   rank 1: 0 2 3 6 8    rank 2: 1 4 5 7 9      each asks when it is free

Handing out in order to whoever is free is the list scheduling of Graham 1969, "Bounds on multiprocessing timing
anomalies": with p workers it ends within 2 - 1/p of the best schedule there is, longest task first within 4/3 - 1/(3p).
It pays a message there and back for each chunk, and a rank that only hands out.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from llmlab.arguments import choice, flag, function, instance, listing, whole
from llmlab.comm.errors import RankError
from llmlab.comm.group import Group
from llmlab.comm.launched.shipping import pack_result


@dataclass(frozen=True)
class TaskFailure:
    """A task that raised: its place among the items, the rank that tried it, what it said, and where."""

    index: int
    rank: int
    error: str
    traceback: str = field(repr=False)

    def __str__(self) -> str:
        return f"task {self.index} on rank {self.rank}: {self.error}"


class TasksFailed(RuntimeError):
    """Some tasks raised; all others are done. `results` holds a TaskFailure where there is no result."""

    def __init__(self, results: list[Any]):
        self.results = results
        self.failures = [result for result in results if isinstance(result, TaskFailure)]
        said = "\n".join(f"  {failure}" for failure in self.failures)
        super().__init__(f"{len(self.failures)} of {len(results)} tasks failed:\n{said}")

    def __reduce__(self) -> tuple[Any, ...]:
        return TasksFailed, (self.results,)


def map_tasks(
    task: Callable[[Any], Any],
    items: Sequence[Any],
    group: Group,
    schedule: str = "static",
    chunk: int = 1,
    keep_failures: bool = False,
) -> list[Any]:
    """Do task(item) for every item on some rank of the group; every rank gets all results, in the order of the items.

    Every rank calls it with the same items, and tasks do not communicate. schedule: "static" deals chunks of `chunk`
    consecutive tasks in turn; "first_free" lets rank 0 hand them out, so it wants two ranks or more to be parallel at
    all (alone, rank 0 does them itself). Each task is a span "task i" of the timeline. Results travel as bytes and
    come on the CPU. Raises TasksFailed, on every rank alike and once all tasks were tried, unless keep_failures leaves
    a TaskFailure in the place of each missing result.
    """
    function("map_tasks", "task", task, "item")
    flag("map_tasks", "keep_failures", keep_failures)
    items = listing("map_tasks", "items", items, "items")
    _check(items, group, schedule, chunk)
    mine = {index: attempt(task, items[index], index, group) for index in SCHEDULES[schedule](len(items), chunk, group)}
    done = {index: packed for part in exchange(mine, group) for index, packed in part.items()}
    results = [pickle.loads(done[index]) for index in range(len(items))]
    if not keep_failures and any(isinstance(result, TaskFailure) for result in results):
        raise TasksFailed(results)
    return results


def static(n_task: int, chunk: int, group: Group) -> Iterator[int]:
    """Give this rank's tasks: every group.size-th chunk."""
    for start in range(group.rank * chunk, n_task, group.size * chunk):
        yield from range(start, min(start + chunk, n_task))


def first_free(n_task: int, chunk: int, group: Group) -> Iterator[int]:
    """Give this rank's tasks, asking rank 0 for the next chunk whenever the last one is done."""
    if group.size == 1:
        yield from range(n_task)
    elif group.rank == 0:
        hand_out(n_task, chunk, group)
    else:
        while (start := ask(group)) < n_task:
            yield from range(start, min(start + chunk, n_task))


def hand_out(n_task: int, chunk: int, group: Group) -> None:
    """Tell whoever asks where the next chunk starts, until every other rank has been told that there is none."""
    n_chunk = -(-n_task // chunk)
    for i in range(n_chunk + group.size - 1):  # the last ones start past the end: no more tasks
        rank = int(group.recv(_number(0, group), src=None))
        group.send(_number(i * chunk, group), dst=rank)


def ask(group: Group) -> int:
    """Ask rank 0 where the next chunk starts."""
    group.send(_number(group.rank, group), dst=0)
    return int(group.recv(_number(0, group), src=0))


SCHEDULES = {"static": static, "first_free": first_free}


def attempt(task: Callable[[Any], Any], item: Any, index: int, group: Group) -> bytes:
    """Do one task and pack its result, or its failure: one bad task must not cost the others' work."""
    try:
        with group.span(f"task {index}"):
            result = task(item)
        return pack_result(result)
    except RankError:  # the run's own, not the task's
        raise
    except Exception as error:
        said = "".join(traceback.format_exception_only(type(error), error)).strip()
        return pack_result(TaskFailure(index, group.rank, said, traceback.format_exc()))


def exchange(value: Any, group: Group) -> list[Any]:
    """Shard -> Replicate, for any picklable value: every rank gets the list of all ranks' values."""
    packed = torch.frombuffer(bytearray(pickle.dumps(value, protocol=5)), dtype=torch.uint8)
    sizes = group.all_gather(_number(len(packed), group)).tolist()
    padded = torch.zeros(max(sizes), dtype=torch.uint8)  # all_gather wants equal parts
    padded[: len(packed)] = packed
    rows = group.all_gather(padded.to(group.device)).cpu().view(group.size, -1)
    return [pickle.loads(row.numpy()) for row in rows]  # what pads a row lies behind the end of its pickle


def _number(value: int, group: Group) -> torch.Tensor:
    return torch.tensor([value], device=group.device)


def _check(items: Sequence[Any], group: Group, schedule: str, chunk: int) -> None:
    """Refuse what would be wrong on every rank, then what differs between them."""
    choice("map_tasks", "schedule", schedule, SCHEDULES)
    whole("map_tasks", "chunk", chunk, least=1)
    instance("map_tasks", "group", group, Group, "the worker's first argument")
    if group.device.type == "meta":
        raise ValueError("map_tasks sends results as bytes, so it wants values: numerics=True, got numerics=False")
    asked = torch.tensor([[len(items), chunk, list(SCHEDULES).index(schedule)]], device=group.device)
    everyone = group.all_gather(asked).tolist()
    if any(row != everyone[0] for row in everyone):  # or one rank would wait for another for ever
        said = "; ".join(f"rank {rank}: {n} items, chunk {c}" for rank, (n, c, _) in enumerate(everyone))
        raise ValueError(f"map_tasks wants the same items, schedule and chunk on every rank, got {said}")
