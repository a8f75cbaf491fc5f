"""Saving: who writes what, each rank its file beside the others, and a rename when all are on the disk.

    describe   every rank tells the others which pieces it has; the ranks that have the same share the writing
    copy       asynchronous only: the numbers of now, on the host; from here on training may go on
    write      a thread of each rank writes and hashes its file
    commit     a thread of rank 0 waits for all files, writes the manifest, renames

Ranks that should have the same piece and have not (weights that drifted apart) are named before a byte is written.
"""

from __future__ import annotations

import json
import secrets
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from llmlab.arguments import flag, instance, whole
from llmlab.checkpoint.content import Content
from llmlab.checkpoint.exchange import everyones
from llmlab.checkpoint.held import Run
from llmlab.checkpoint.plan import Plan, file_of
from llmlab.checkpoint.random_state import random_state
from llmlab.checkpoint.storing import (
    WRITING,
    commit,
    listed,
    step_of,
    sweep,
    write_tensors,
    write_text,
)  # fmt: skip
from llmlab.comm.group import Group

POLL_S = 0.005  # how often rank 0 looks whether another rank's file is there
UNDER_WAY: WeakKeyDictionary[nn.Module, Saving] = WeakKeyDictionary()  # the asynchronous save of each model


def save(
    folder: str | Path,
    target: Any,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    world: Group | None = None,
    extra: Mapping[str, Any] | None = None,
    step: int | None = None,
    keep: int | None = None,
    asynchronous: bool = False,
) -> Saving:
    """Save a run into a folder that all ranks see; every rank calls it. Loads into any other layout: see `load`.

    target: what `parallelize` gave, alone; or a model, with its optimizer and, where several ranks hold it, `world`
    (plain, `data_parallel`, `zero`, `tensor_parallel` ...).  extra: what else a run needs to go on, the same on every
    rank, as numbers, texts, tensors, lists and dicts of them: where the data is, a scheduler's state_dict.  step: the
    number of updates so far (None: the step's own count; of a model, one more than the newest checkpoint's).  keep:
    delete all but so many of the newest, this one included.
    asynchronous: return once the numbers are copied; `.wait()`, on every rank, or the next save waits for the disk. A
    process that ends before that loses this checkpoint, never an older one: wait for the last.

    Weights, buffers, optimizer state, learning rates, loss scale, dropout's count and each rank's random state are
    saved. Raises ValueError, on every rank alike, for what cannot be saved, and for ranks whose copies differ; OSError,
    on every rank, if one cannot write: the older checkpoints are untouched.
    """
    instance("save", "folder", folder, (str, Path))
    flag("save", "asynchronous", asynchronous)
    for name, value, least in (("step", step, 0), ("keep", keep, 1)):
        if value is not None:
            whole("save", name, value, least=least)
    instance("save", "extra", {} if extra is None else extra, Mapping, 'extra={"position": 120}')
    run = Run.of("save", target, optimizer, world)
    content = Content.of(run, extra or {})
    if (before := UNDER_WAY.pop(run.model, None)) is not None:
        before.wait()
    saving = Saving(Path(folder), run, content, _number(Path(folder), run, step), keep)
    saving.begin(asynchronous)
    if asynchronous:
        UNDER_WAY[run.model] = saving
    else:
        saving.wait()
    return saving


class Saving:
    """A save that is under way, or done: `wait()` gives its folder.

    n_bytes: what this rank writes.  path: the checkpoint, once it is there.
    """

    def __init__(self, folder: Path, run: Run, content: Content, step: int, keep: int | None):
        self.folder, self.world, self.step, self.keep = folder, run.world, step, keep
        self.rank = 0 if run.world is None else run.world.rank
        self.path: Path | None = None
        self.n_bytes = 0
        self._content: tuple[Run, Content] | None = run, content
        self._failed: str | None = None
        self._waited = False
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    def __repr__(self) -> str:
        return f"Saving(step {self.step}, {'under way' if self.path is None else self.path.name})"

    def begin(self, copied: bool) -> None:
        """Agree with the other ranks, copy what is to be copied, and let the threads write."""
        assert self._content is not None
        run, content = self._content
        plan = Plan.of(run, content)
        manifest = plan.manifest(run, self.step, content)
        tensors = plan.mine | random_state(self.world)
        if copied:
            tensors = {name: x.detach().to("cpu", copy=True) for name, x in tensors.items()}
        self._content = None  # what is not copied may be freed once it is written
        self.writing = self._room()
        self.n_bytes = sum(x.numel() * x.element_size() for x in tensors.values())
        self._start(self._write, tensors)
        if self.rank == 0:
            self._start(self._commit, manifest, plan.n_rank)

    def wait(self) -> Path:
        """Wait until the checkpoint is there, or raise OSError, on every rank, for the rank that could not write."""
        if self._waited and self.path is not None:
            return self.path
        self._threads[0].join()
        errors = [(rank, error) for rank, error in enumerate(everyones(self.world, self._failed)) if error]
        if errors:
            self._stop.set()
        for thread in self._threads[1:]:
            thread.join()
        # rank 0's thread may have failed at what was left to do: the manifest, the renaming
        path, late = everyones(self.world, (None if self.path is None else str(self.path), self._failed))[0]
        for rank, error in errors or [(0, late)]:
            if error:
                if self.rank == 0:
                    shutil.rmtree(self.writing, ignore_errors=True)
                raise OSError(
                    f"the checkpoint of step {self.step} was not saved, older ones are as they were: "
                    f"rank {rank} could not write ({error})"
                )
        self.path, self._waited = Path(path), True
        return self.path

    # --- inside -----------------------------------------------------------------------------------------------------

    def _room(self) -> Path:
        """Make the folder to write in; rank 0 gives it a name, and clears away what earlier runs have left."""
        name, error = "", None
        if self.rank == 0:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                for left in self.folder.glob(f"{WRITING}*"):
                    shutil.rmtree(left, ignore_errors=True)
                name = f"{WRITING}{secrets.token_hex(8)}"
                (self.folder / name).mkdir()
            except OSError as found:
                error = str(found)
        name, error = everyones(self.world, (name, error))[0]
        if error:
            raise OSError(f"the checkpoint of step {self.step} was not saved, older ones are as they were: {error}")
        return self.folder / name

    def _start(self, task: Any, *args: Any) -> None:
        def guarded() -> None:
            try:
                task(*args)
            except Exception as error:  # told on every rank by `wait`
                self._failed = f"{type(error).__name__}: {error}"

        self._threads.append(threading.Thread(target=guarded, name=f"checkpoint {self.step}", daemon=True))
        self._threads[-1].start()

    def _write(self, tensors: dict[str, Tensor]) -> None:
        record = write_tensors(self.writing / file_of(self.rank), tensors)
        write_text(self.writing / f"{file_of(self.rank)}.beside", json.dumps(record))
        (self.writing / f"{file_of(self.rank)}.beside").rename(self.writing / f"{file_of(self.rank)}.done")

    def _commit(self, manifest: dict[str, Any], n_rank: int) -> None:
        """On rank 0, once all files are there. Nobody has to call `wait` for it: a run that is killed later has it."""
        notes = [self.writing / f"{file_of(rank)}.done" for rank in range(n_rank)]
        while not all(note.exists() for note in notes):
            if self._stop.wait(POLL_S):
                return
        manifest["files"] = [json.loads(note.read_text()) for note in notes]
        for note in notes:
            note.unlink()
        self.path = commit(self.writing, self.step, manifest)
        sweep(self.folder, self.keep)


def _number(folder: Path, run: Run, step: int | None) -> int:
    """The updates so far, the same on every rank."""
    if step is None:
        newest = next(iter(listed(folder)), None)
        step = run.step.n_step if run.step is not None else 1 + (0 if newest is None else step_of(newest))
    return int(everyones(run.world, step)[0])
