"""What torch and Python keep once for a process, and each rank of a torch program has of its own.

`RankState` is put in place when its rank has the baton, beside the rank's random generators. `Kept` is one such thing.
"""

from __future__ import annotations

import copy
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d

from llmlab.comm.seeding import RandomState
from llmlab.comm.simulated.torch_programs.private import C10D, RING, place, works

_INIT = inspect.unwrap(dist.init_process_group).__code__


class Kept(NamedTuple):
    """`owner.name`, and how a rank's own is made when the run begins."""

    owner: Any
    name: str
    make: Callable[[], Any]


class World(c10d._World):
    """A rank's own torch world. The group it is born with is there until the program makes its own."""

    born_with_group = False

    @property
    def default_pg(self) -> Any:
        if self.born_with_group and sys._getframe(2).f_code is _INIT:
            return None  # so that init_process_group does not find itself called twice
        return self._default_pg

    @default_pg.setter
    def default_pg(self, group: Any) -> None:
        self.born_with_group = False
        self._default_pg = group


def kept_once() -> list[Kept]:
    """All of it, as far as this torch has it."""
    tables = ("_pg_map", "_pg_names", "_pg_group_ranks", "_pg_backend_config", "_tags_to_pg", "_pg_to_tag")
    rows = [Kept(*place(f"{C10D}:{name}"), dict) for name in tables]
    rows += [Kept(c10d, "_group_count", int), Kept(c10d, "_world", World), Kept(c10d, "_backend", lambda: None)]
    if works("DTensor"):
        dispatcher = place("torch.distributed.tensor:DTensor._op_dispatcher").value
        rows += [
            Kept(*place("torch.distributed.tensor._random:_rng_tracker"), lambda: None),
            Kept(dispatcher, "_custom_op_handlers", _copies_of(dispatcher._custom_op_handlers)),
        ]
    if works("context parallel"):
        rows += [
            Kept(*place(f"{RING}:_dispatch_mode"), _copies_of(place(f"{RING}:_dispatch_mode").value)),
            Kept(*place(f"{RING}:_cp_options"), _copies_of(place(f"{RING}:_cp_options").value)),
            Kept(*place(f"{RING}:_replaced_functions"), dict),
        ]
        attention = torch.nn.functional.scaled_dot_product_attention  # which context parallel replaces
        rows.append(Kept(torch.nn.functional, "scaled_dot_product_attention", lambda: attention))
    return rows


def _copies_of(value: Any) -> Callable[[], Any]:
    return lambda: copy.copy(value)


class RankState:
    """What a rank finds when it has its turn: its random generators, torch's module state, its environment."""

    def __init__(self, random: RandomState, rows: list[Kept], environment: dict[str, str]):
        self._random, self._rows, self._environment = random, rows, environment
        self._values = [row.make() for row in rows]

    def enter(self) -> None:
        self._random.enter()
        for (owner, name, _), value in zip(self._rows, self._values, strict=True):
            setattr(owner, name, value)
        os.environ.update(self._environment)

    def leave(self) -> None:
        self._random.leave()
        self._values = [getattr(owner, name) for owner, name, _ in self._rows]


def environment(rank: int, ranks: int, per_node: int) -> dict[str, str]:
    """What torchrun tells a rank and its neighbours do not share, on nodes of so many ranks."""
    per_node = min(per_node, ranks)
    return {"RANK": str(rank), "LOCAL_RANK": str(rank % per_node), "GROUP_RANK": str(rank // per_node)}


def shared_environment(ranks: int, per_node: int) -> dict[str, str]:
    """What torchrun tells every rank alike."""
    return {
        "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(min(per_node, ranks)), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "simulated", "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip


@contextmanager
def as_before(rows: list[Kept], variables: dict[str, str]) -> Iterator[None]:
    """Set some environment variables; afterwards every row, and the environment, is what it was."""
    values = [getattr(owner, name) for owner, name, _ in rows]
    whole_environment = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(rows, values, strict=True):
            setattr(owner, name, value)
        for name in set(os.environ) - set(whole_environment):
            del os.environ[name]
        os.environ.update(whole_environment)
