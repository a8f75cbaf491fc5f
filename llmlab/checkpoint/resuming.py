"""A run that survives: it goes on from its folder's newest checkpoint, and saves as it goes.

    checkpoints = lab.checkpoint.Checkpoints("runs/first", every=50, keep=3)
    for n in checkpoints.steps(1000, step, state={"losses": losses}):
        losses.append(float(step(*batch(n))))

Started again, in this layout or another, the loop takes up at the step after the newest checkpoint: whoever is killed
loses no more than what was done since. Batches must follow from the number of the step, as they do here, or from
something in `state`. Every rank does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmlab.arguments import flag, instance, listing, string, whole
from llmlab.checkpoint.exchange import everyones
from llmlab.checkpoint.loading import load
from llmlab.checkpoint.saving import Saving, save
from llmlab.checkpoint.storing import listed
from llmlab.comm.group import Group
from llmlab.parallel.step import Step

STATE_WANTED = "a list, or an object with state_dict and load_state_dict"


class Checkpoints:
    """Where a run goes on from, and when it saves: after every `every` steps, and after the last.

    folder: this run's own, which all ranks see.  keep: how many to keep.  world: the worker's first argument, for a
    model that is on several ranks by hand (a step of `parallelize` knows its own).  asynchronous: write while training
    goes on; a kill may then cost the steps since the checkpoint before, too, if it comes while the newest is written.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every: int = 100,
        keep: int | None = 2,
        world: Group | None = None,
        asynchronous: bool = True,
    ):
        instance("Checkpoints", "folder", folder, (str, Path))
        self.folder, self.every = Path(folder), whole("Checkpoints", "every (steps)", every, least=1)
        self.keep = None if keep is None else whole("Checkpoints", "keep", keep, least=1)
        if world is not None:
            instance("Checkpoints", "world", world, Group, "the worker's first argument")
        self.world, self.asynchronous = world, flag("Checkpoints", "asynchronous", asynchronous)
        self._last: Saving | None = None

    def steps(
        self,
        steps: int,
        target: Any,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        state: Mapping[str, Any] | None = None,
    ) -> Iterator[int]:
        """Give the numbers of the steps that are left of 0 .. steps - 1, saving on the way; load what is there first.

        target, optimizer: as in `save`.  state: what else goes on, by name, the same on every rank: lists, of losses
        for example, or objects with state_dict and load_state_dict, such as a schedule. Raises ValueError if the folder
        holds a run of other state, or one that went further.
        """
        whole("steps", "steps", steps, least=1)
        kept = _stateful(state or {})
        found = self.resume(target, optimizer, last=steps)
        if found is not None:
            _fill(kept, found["state"])
        for n in range(0 if found is None else found["step"], steps):
            yield n
            self.after(n + 1, target, optimizer, lambda: {"state": _taken(kept)}, last=n + 1 == steps)

    def resume(
        self, target: Any, optimizer: torch.optim.Optimizer | None = None, *, last: float = float("inf")
    ) -> dict[str, Any] | None:
        """Load the newest checkpoint; give its extra, with "step"; None where there is none yet.

        Raises ValueError, with nothing loaded, if the newest is of a step after `last`: the folder is another run's.
        """
        world = self._world(target)
        steps = everyones(world, [int(path.name.split("-")[1]) for path in listed(self.folder)])[0]
        if steps and steps[0] > last:
            raise ValueError(
                f"a run of {last} steps wants a folder of its own, got {self.folder.name}, whose newest checkpoint is "
                f"of step {steps[0]}"
            )
        if not steps:
            return None
        return load(self.folder, target, optimizer, world=self.world)

    def after(
        self,
        n_step: int,
        target: Any,
        optimizer: torch.optim.Optimizer | None,
        extra: Callable[[], Mapping[str, Any]],
        *,
        last: bool = False,
    ) -> None:
        """Save if it is time to; the last is waited for."""
        if last or n_step % self.every == 0:
            self._last = save(
                self.folder, target, optimizer, extra=extra(), step=n_step,
                world=self.world, keep=self.keep, asynchronous=self.asynchronous,
            )  # fmt: skip
        if last and self._last is not None:
            self._last.wait()

    def of_each(self, value: Any) -> list[Any]:
        """Give every rank's value: what ranks may have of their own, on every rank alike."""
        return everyones(self.world, value)

    def mine(self, values: list[Any]) -> Any:
        """Give what this rank saved by `of_each`, or rank 0's, where other ranks go on than saved."""
        rank, size = (0, 1) if self.world is None else (self.world.rank, self.world.size)
        return values[rank if size == len(values) else 0]

    def _world(self, target: Step | nn.Module) -> Group | None:
        return target.axes.world if isinstance(target, Step) else self.world


def _stateful(state: Mapping[str, Any]) -> dict[str, Any]:
    instance("steps", "state", state, Mapping, 'state={"losses": losses}')
    for name, value in state.items():
        string("steps", "each name of state", name)
        if not isinstance(value, list) and not all(hasattr(value, f"{verb}state_dict") for verb in ("", "load_")):
            raise ValueError(f"steps wants state[{name!r}] as {STATE_WANTED}; got a {type(value).__name__}")
    return dict(state)


def _taken(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, list) else value.state_dict() for name, value in state.items()}


def _fill(state: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    if set(state) != set(saved):
        raise ValueError(f"steps wants the state that was saved, {sorted(saved)}; got {sorted(state)}")
    for name, value in state.items():
        if isinstance(value, list):
            value[:] = listing("steps", f"state[{name!r}]", saved[name], "numbers")
        else:
            value.load_state_dict(saved[name])
