"""Loading: the newest checkpoint that is whole, into any legal layout."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmlab.checkpoint.content import optimizer_options, with_tensors
from llmlab.checkpoint.exchange import everyones
from llmlab.checkpoint.held import Part, Run
from llmlab.checkpoint.pieces import all_of, of_record, whole_of
from llmlab.checkpoint.plan import DTYPE, file_of
from llmlab.checkpoint.random_state import PREFIX, set_random_state
from llmlab.checkpoint.storing import damage, listed, manifest_of, step_of
from llmlab.comm.group import Group
from llmlab.model.safetensors import read_safetensors


def load(
    folder: str | Path,
    target: Any,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    world: Group | None = None,
    step: int | None = None,
) -> dict[str, Any]:
    """Put a saved run into this one, laid out as it was or in any other legal way; give back its `extra`.

    Every rank calls it, after the layout was made. target, optimizer, world: as in `save`; a model without its
    optimizer gets the weights alone.  step: which checkpoint (None: the newest). One that is damaged is told in a
    warning, by name, and the one before it is taken; with `step` it is an error. `extra["step"]` is the number of
    updates it was saved after, unless the saved extra has a "step" itself. Random states come back where as many ranks
    load as saved.

    Raises FileNotFoundError where there is no checkpoint, ValueError if none is whole, or for one of another model or
    optimizer; nothing is changed then.
    """
    run = Run.of("load", target, optimizer, world)
    path, manifest = _find(Path(folder), run.world, step)
    source = Source(path, manifest)
    parts = _wanted(run, source)
    with torch.no_grad():
        for part, values in source.read(parts):
            part.owned.copy_(values.view_as(part.owned))
    run.publish()
    _fill_optimizer(run, source)
    _fill_rest(run, source)
    return {"step": manifest["step"], **with_tensors(manifest["extra"], source.whole)}


class Source:
    """A checkpoint that was found whole: its tensors, read when they are asked for."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]):
        self.path, self.manifest = path, manifest
        self.tensors: dict[str, Any] = manifest["tensors"]
        self._files: dict[int, Any] = {}

    def stored(self, rank: int) -> Any:
        """What a rank has written."""
        if rank not in self._files:
            self._files[rank] = read_safetensors(self.path / file_of(rank))
        return self._files[rank]

    def read(self, parts: Sequence[Part]) -> Iterator[tuple[Part, Tensor]]:
        """Each part's elements, flat; a thread of the disk's own reads one ahead."""
        with ThreadPoolExecutor(1) as disk:
            coming = [disk.submit(self.piece, part) for part in parts[:1]]
            for part, ahead in zip_longest(parts, parts[1:]):
                values = coming.pop().result()
                if ahead is not None:
                    coming.append(disk.submit(self.piece, ahead))
                yield part, values

    def whole(self, key: str) -> Tensor:
        """A tensor that was saved whole, in its shape."""
        shape = tuple(self.tensors[key]["shape"])
        return self.piece(Part(key, shape, all_of(shape), torch.empty(0))).view(shape)

    def piece(self, part: Part) -> Tensor:
        """The elements of a piece, flat: as they were saved, or cut out of a whole that is put together first."""
        entry = self.tensors[part.key]
        writers, pieces = [int(record[0]) for record in entry["pieces"]], [of_record(r[1:]) for r in entry["pieces"]]

        def read(i: int) -> Tensor:
            return self.stored(writers[i])[part.key].read().reshape(-1)

        if part.piece in pieces:
            return read(pieces.index(part.piece))
        return part.piece.take(whole_of(part.key, entry["shape"], DTYPE[entry["dtype"]], pieces, read))


# --- which one --------------------------------------------------------------------------------------------------------


def _find(folder: Path, world: Group | None, step: int | None) -> tuple[Path, dict[str, Any]]:
    """The newest that is whole, on every rank the same. Each rank looks through a share of the files."""
    names = everyones(world, [path.name for path in listed(folder)])[0]
    found = [folder / name for name in names if step is None or step_of(folder / name) == step]
    if not found:
        raise FileNotFoundError(
            f"load wants a checkpoint{'' if step is None else f' of step {step}'} in {folder.name}, got "
            + (f"those of steps {', '.join(str(step_of(folder / name)) for name in names)}" if names else "none there")
        )
    complaints: list[str] = []
    for path in found:
        manifest, complaint = _whole(path, world)
        if complaint is None:
            for each in complaints:
                warnings.warn(f"{each}; {path.name} is loaded in its place", stacklevel=3)
            return path, manifest
        complaints.append(f"checkpoint {path.name} is damaged: {complaint}")
    raise ValueError("load wants a whole checkpoint, got none: " + "; ".join(complaints))


def _whole(path: Path, world: Group | None) -> tuple[dict[str, Any], str | None]:
    manifest, complaint = manifest_of(path)
    if complaint is None:
        rank, size = (0, 1) if world is None else (world.rank, world.size)
        complaint = damage(path, manifest["files"][rank::size])
    return manifest, next((each for each in everyones(world, complaint) if each), None)


# --- does it fit ------------------------------------------------------------------------------------------------------


def _wanted(run: Run, source: Source) -> list[Part]:
    """The weights here, after seeing that the checkpoint is of this model and this optimizer. Nothing is changed."""
    for name, (module, buffer) in run.buffers.items():
        entry = source.tensors.get(f"model/{name}")
        if entry is not None and getattr(module, buffer) is None:
            like = next(module.parameters())
            setattr(module, buffer, torch.zeros(entry["shape"], dtype=DTYPE[entry["dtype"]], device=like.device))
    parts = [part for part in run.parts() if part.key.startswith("model/")]
    complaint = next(iter(_complaints(run, parts, source)), None)
    for rank, each in enumerate(everyones(run.world, complaint)):
        if each:
            raise ValueError(f"load of {source.path.name}, rank {rank}: {each}")
    held = {key for keys in everyones(run.world, [part.key for part in parts]) for key in keys}
    for key in source.tensors:
        if key.startswith("model/") and key not in held:
            raise ValueError(f"load wants the model that was saved, got one that lacks {key.removeprefix('model/')}")
    return parts


def _complaints(run: Run, parts: list[Part], source: Source) -> list[str]:
    found = []
    for part in parts:
        entry, name = source.tensors.get(part.key), part.key.removeprefix("model/")
        if entry is None:
            found.append(f"the model wants {name}, the checkpoint has none")
        elif tuple(entry["shape"]) != part.shape:
            found.append(f"the model wants {name} of {list(part.shape)}, the checkpoint has {entry['shape']}")
        elif part.owned.is_meta:
            found.append("a checkpoint is numbers, and numerics=False has none: load in a run with numerics=True")
        elif DTYPE[entry["dtype"]] != part.owned.dtype:
            found.append(f"the model wants {name} in {part.owned.dtype}, the checkpoint has {entry['dtype']}")
    saved, here = source.manifest["optimizer"], optimizer_options(run)
    if here is not None and saved is None:
        found.append("the optimizer wants its state, the checkpoint is of a model alone")
    elif here is not None:
        if saved["kind"] != here["kind"]:
            found.append(f"the optimizer is {here['kind']}, the checkpoint's was {saved['kind']}")
        elif len(saved["groups"]) != len(here["groups"]):
            found.append(f"the optimizer has {len(here['groups'])} groups, the checkpoint's had {len(saved['groups'])}")
    return found


# --- all but the weights ----------------------------------------------------------------------------------------------


def _fill_optimizer(run: Run, source: Source) -> None:
    """Its state, cut as the weights are, and what its groups are set to."""
    if run.optimizer is None:
        return
    state: dict[str, dict[str, Any]] = {}
    for key, value in source.manifest["numbers"].items():
        word, name = key.split("/", 1)
        state.setdefault(name, {})[word] = _number(*value)
    for part, values in source.read([part for key in source.tensors for part in _state_part(run, source, key)]):
        _, word, name = part.key.split("/", 2)
        state.setdefault(name, {})[word] = values.to(part.owned.device).view(part.owned.shape)
    run.optimizer.state.clear()
    for name, parameter in run.names.items():
        if name in state:
            run.optimizer.state[run.owned(parameter)] = state[name]
    for group, saved in zip(run.optimizer.param_groups, source.manifest["optimizer"]["groups"], strict=True):
        group.update({k: tuple(v) if isinstance(group.get(k), tuple) else v for k, v in saved.items()})


def _state_part(run: Run, source: Source, key: str) -> list[Part]:
    """Of the optimizer state "optimizer/exp_avg/NAME" what this rank needs: a piece, or nothing."""
    kind, _, name = (key.split("/", 2) + ["", ""])[:3]
    if kind != "optimizer" or name not in run.names:
        return []
    parameter = run.names[name]
    return [Part(key, tuple(source.tensors[key]["shape"]), run.piece(parameter), run.owned(parameter))]


def _number(value: Any, dtype: str | None) -> Any:
    return value if dtype is None else torch.tensor(value, dtype=DTYPE[dtype])


def _fill_rest(run: Run, source: Source) -> None:
    manifest = source.manifest
    run.resume_dropout(manifest["forwards"])
    if run.step is not None:
        run.step.n_step = manifest["step"]
    if run.scaler is not None and manifest["scaler"] is not None:
        run.scaler.load_state_dict(manifest["scaler"])
    rank, size = (0, 1) if run.world is None else (run.world.rank, run.world.size)
    if size == manifest["ranks"]:
        mine = source.stored(rank)
        set_random_state(run.world, {name: mine[name].read() for name in mine if name.startswith(PREFIX)})
