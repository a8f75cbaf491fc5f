"""A simulated run of a torch program: everything of torch's that has to be ours while it lasts, and as before after it.

The worker's default group is there when it begins; a script makes its own with init_process_group, whatever its
backend, as under torchrun. Both end with torch.distributed as it was, however they end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from llmlab.comm.copying import check_worker
from llmlab.comm.simulated.recorder import unseen
from llmlab.comm.simulated.simulation import Simulation
from llmlab.comm.simulated.surroundings import Surroundings
from llmlab.comm.simulated.torch_programs import private
from llmlab.comm.simulated.torch_programs.group import SimulatedGroup
from llmlab.comm.simulated.torch_programs.memory import count_parameters, count_what_steps, watch_memory
from llmlab.comm.simulated.torch_programs.meta import answer_from_shapes
from llmlab.comm.simulated.torch_programs.recording import (
    ProgramInterceptor,
    ProgramRecorder,
    seen_in_backward,
    shapes_once,
)
from llmlab.comm.simulated.torch_programs.refusals import Replaced, refuse, replaced
from llmlab.comm.simulated.torch_programs.state import (
    Kept,
    RankState,
    World,
    as_before,
    environment,
    kept_once,
    shared_environment,
)
from llmlab.comm.simulated.torch_programs.store import SharedStore
from llmlab.comm.simulated.torch_programs.streams import Streams
from llmlab.comm.trace import Run

if TYPE_CHECKING:
    from llmlab.comm.group import Group
    from llmlab.comm.simulated.rank import Rank
    from llmlab.comm.simulator import Simulator

BACKEND = "simulated"
bindings: Any = torch._C._distributed_c10d


class TorchProgram(Surroundings):
    """The surroundings of one run of a torch program. born_with_group: its default group is there when it begins."""

    def __init__(self, born_with_group: bool = True, rows: Callable[[], list[Kept]] = list):
        private.check_essential()
        self.born_with_group = born_with_group
        self.not_modelled = private.switched_off()
        self._more_rows = rows
        self._rows: list[Kept] = []

    @contextmanager
    def around(self, simulation: Simulation) -> Iterator[None]:
        self._simulation, self._rows = simulation, kept_once() + self._more_rows()
        ranks, per_node = simulation.options.ranks, simulation.cluster.devices_per_node
        store = SharedStore(simulation.scheduler)
        with ExitStack() as after:
            after.enter_context(
                as_before([*self._rows, Kept(sys, "excepthook", list)], shared_environment(ranks, per_node))
            )
            changes = after.enter_context(replaced())
            after.enter_context(registered(self._make_group))
            self._replace(changes, store)
            after.callback(register_optimizer_step_pre_hook(self._count_what_steps).remove)
            after.callback(register_module_forward_pre_hook(self._count_parameters).remove)
            bindings._set_thread_isolation_mode(True)  # names of groups are a thread's own, in C++ too
            after.callback(bindings._set_thread_isolation_mode, False)
            after.callback(bindings._set_global_rank, -1)
            yield

    def prepare(self, rank: Rank) -> None:
        options, per_node = self._simulation.options, self._simulation.cluster.devices_per_node
        variables = environment(rank.number, options.ranks, per_node)
        rank.task.state = RankState(rank.task.state, self._rows, variables)  # type: ignore[assignment]
        rank.recorder, rank.interceptor = ProgramRecorder(rank), ProgramInterceptor(rank)

    # --- what torch calls ------------------------------------------------------------------------------------------

    def _replace(self, changes: Replaced, store: SharedStore) -> None:
        """Groups of any backend are ours, and ranks find one another without a network."""
        make = c10d._new_process_group_helper

        def helper(size: int, rank: int, members: Any, backend: str, *args: Any, **kwargs: Any) -> Any:
            return make(size, rank, members, BACKEND, *args, **{**kwargs, "device_id": None, "backend_options": None})

        def rendezvous(url: str, rank: int = -1, world_size: int = -1, **_: Any) -> Iterator[Any]:
            me, ranks = self._rank().number, self._simulation.options.ranks
            for name, asked, have in (("rank", rank, me), ("world_size", world_size, ranks)):
                if asked not in (-1, None, have):
                    raise ValueError(f"init_process_group says {name}={asked}; this run has {name}={have}")
            yield store, me, ranks

        changes.put(c10d, "_new_process_group_helper", helper)
        changes.put(c10d, "rendezvous", rendezvous)
        changes.put(c10d, "_get_default_timeout", lambda _: c10d.default_pg_timeout)  # NCCL's warns where it is not
        for name, value in Streams(self._rank).replacements().items():
            changes.put(torch.cpu, name, value)
        watch_memory(changes, self._rank_or_none)
        shapes_once(changes)
        seen_in_backward(changes, self._rank_or_none)
        if not self._simulation.options.numerics:
            absent = answer_from_shapes(changes)
            self.not_modelled += (f"numerics=False: {private.says(absent)}",) if absent else ()
        refuse(changes, lambda *args, **_: dist.PrefixStore(" ".join(map(str, args[:2])), store))

    def _make_group(self, options: Any, _: Any = None) -> SimulatedGroup:
        members = tuple(options.global_ranks_in_group or range(self._simulation.options.ranks))
        return SimulatedGroup(self._rank(), options.group_rank, members, options.group_id)

    def _rank_or_none(self) -> Rank | None:
        task = self._simulation.scheduler.current
        return None if task is None else self._simulation.ranks[task.number]

    def _rank(self) -> Rank:
        rank = self._rank_or_none()
        assert rank is not None
        return rank

    def _count_parameters(self, module: nn.Module, inputs: Any) -> None:
        rank = self._rank_or_none()
        if rank is not None:
            count_parameters(rank, module)

    def _count_what_steps(self, optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
        rank = self._rank_or_none()
        if rank is not None:
            count_what_steps(rank, optimizer)


@contextmanager
def registered(make_group: Callable[..., SimulatedGroup]) -> Iterator[None]:
    """Make the backend known to torch, and unknown again afterwards."""
    tables = {name: value for name, value in vars(dist.Backend).items() if isinstance(value, (dict, list))}
    before = {name: value.copy() for name, value in tables.items()}
    dist.Backend.register_backend(BACKEND, make_group, extended_api=True, devices=["cpu", "meta"])
    try:
        yield
    finally:
        delattr(dist.Backend, BACKEND.upper())
        for name, value in tables.items():
            value.clear()
            value.update(before[name]) if isinstance(value, dict) else value.extend(before[name])


def run_worker(world: Group, born_with_group: bool, worker: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
    """Run a worker that uses torch.distributed itself: the body of a rank."""
    if born_with_group:
        with unseen():
            dist.init_process_group(rank=world.rank, world_size=world.size, timeout=timedelta(minutes=30))
        own: World = c10d._world  # type: ignore[assignment]
        own.born_with_group = True
    try:
        with torch.autograd.set_multithreading_enabled(False):
            return worker(*args, **kwargs)
    finally:
        bindings._unregister_all_process_groups()  # this thread's


def run(simulator: Simulator, worker: Callable[..., Any], args: tuple, kwargs: dict) -> Run:
    """Run a worker of torch.distributed on simulated ranks."""
    check_worker(worker)
    return Simulation(simulator, run_worker, (True, worker, args, kwargs), {}, TorchProgram()).run()
