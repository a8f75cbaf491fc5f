"""The private names of torch that torch programs need, looked up in one place before a run begins.

torch promises none of them. One that is missing switches off the feature that needs it, and no other; it is named with
torch's version, in the run's `not_modelled`, or in an error where nothing works without it.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch

C10D = "torch.distributed.distributed_c10d"
BINDINGS = "torch._C._distributed_c10d"
SHARDING = "torch.distributed.tensor"
RING = f"{SHARDING}.experimental._context_parallel._attention"

ESSENTIAL = "process groups"
NAMES: dict[str, tuple[str, ...]] = {
    ESSENTIAL: (
        f"{C10D}:_pg_map", f"{C10D}:_pg_names", f"{C10D}:_pg_group_ranks", f"{C10D}:_pg_backend_config",
        f"{C10D}:_tags_to_pg", f"{C10D}:_pg_to_tag", f"{C10D}:_group_count", f"{C10D}:_world", f"{C10D}:_World",
        f"{C10D}:_backend", f"{C10D}:_new_process_group_helper", f"{C10D}:rendezvous",
        f"{BINDINGS}:_set_thread_isolation_mode", f"{BINDINGS}:_unregister_all_process_groups",
        "torch._C:_get_dispatch_mode", "torch._C:_current_autograd_node",
    ),
    "DTensor": (
        f"{SHARDING}:DTensor._op_dispatcher", f"{SHARDING}:DTensor._op_dispatcher._custom_op_handlers",
        f"{SHARDING}._random:_rng_tracker",
    ),
    "DTensor's shapes worked out once for all ranks": (
        f"{SHARDING}._sharding_prop:ShardingPropagator._propagate_tensor_meta_non_cached",
    ),
    "attention that a checkpoint does again": ("torch.autograd:_engine_run_backward",),
    "context parallel": (
        f"{RING}:_dispatch_mode", f"{RING}:_cp_options", f"{RING}:_replaced_functions",
        f"{RING}:_templated_ring_attention", f"{RING}:_templated_ring_attention_backward",
    ),
}  # fmt: skip


class Place(NamedTuple):
    """Where a name is: `owner.name`."""

    owner: Any
    name: str

    @property
    def value(self) -> Any:
        return getattr(self.owner, self.name)


def find(path: str) -> Place | None:
    """Look up `module:attribute.attribute`; None where this torch has no such name."""
    module, _, attributes = path.partition(":")
    *above, name = attributes.split(".")
    try:
        owner: Any = import_module(module)
    except ImportError:
        return None
    for each in above:
        owner = getattr(owner, each, None)
    return Place(owner, name) if hasattr(owner, name) else None


@cache
def missing(feature: str) -> tuple[str, ...]:
    """The names that a feature needs and this torch lacks."""
    return tuple(path for path in NAMES[feature] if find(path) is None)


def works(feature: str) -> bool:
    return not missing(feature)


def check_essential() -> None:
    """Raise ValueError where this torch lacks what every torch program needs."""
    if absent := missing(ESSENTIAL):
        raise ValueError(f"torch programs cannot be simulated: {says(absent)}")


def switched_off() -> tuple[str, ...]:
    """A sentence for each feature that is off under this torch."""
    return tuple(f"{feature}: {says(missing(feature))}" for feature in NAMES if missing(feature))


def says(absent: tuple[str, ...]) -> str:
    return f"torch {torch.__version__} lacks {', '.join(path.replace(':', '.') for path in absent)}"


def place(path: str) -> Place:
    """Look up a name whose feature is known to work."""
    found = find(path)
    assert found is not None, path
    return found
