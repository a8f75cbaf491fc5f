"""Saving and loading a run beside torch.save and torch.distributed.checkpoint, and the pause that a save causes.

    python benchmarks/checkpoints.py            # about two minutes; --mb 400 for a larger run

One process, a model with Adam's two moments, in turns within one run. Ours hashes each file (sha256) and forces it to
the disk before the checkpoint appears, and loading checks the hashes; the others do neither by themselves, so
torch.save is timed with an fsync too. The pause is how long an asynchronous save keeps training waiting: the numbers
are copied in it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from statistics import median

import torch
import torch.distributed.checkpoint as dcp
from racing import Race, race, read_options, where
from torch import nn

import llmlab as lab


def make_run(mb: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A stack of linears whose weights and moments take about so many MB, after one step."""
    width = 1024
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(max(1, mb * 2**20 // (3 * 4 * width * width)))))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, object]:
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def torch_save(path: Path, state: object, to_disk: bool) -> None:
    with path.open("wb") as file:
        torch.save(state, file)
        if to_disk:
            file.flush()
            os.fsync(file.fileno())


def main() -> None:
    options = read_options(__doc__, mb=120, rounds=7)
    model, optimizer = make_run(options.mb)
    n_mb = 3 * sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    print(f"MEASURED  on {where()}; {n_mb:.0f} MB of weights and moments")
    with tempfile.TemporaryDirectory() as made:
        root = Path(made)
        saves = race(
            {
                "lab.checkpoint.save": lambda: lab.checkpoint.save(emptied(root / "ours"), model, optimizer),
                "torch.save, fsync": lambda: torch_save(root / "torch.pt", state_of(model, optimizer), True),
                "torch.save": lambda: torch_save(root / "torch.pt", state_of(model, optimizer), False),
                "torch.distributed.checkpoint": lambda: dcp.save(
                    state_of(model, optimizer), checkpoint_id=emptied(root / "dcp"), no_dist=True
                ),
            },
            options.rounds,
        )
        report("save", saves, n_mb, "lab.checkpoint.save")
        loads = race(
            {
                "lab.checkpoint.load": lambda: lab.checkpoint.load(root / "ours", model, optimizer),
                "torch.load": lambda: load_plain(root / "torch.pt", model, optimizer),
                "torch.distributed.checkpoint": lambda: dcp.load(
                    state_of(model, optimizer), checkpoint_id=root / "dcp", no_dist=True
                ),
            },
            options.rounds,
        )
        report("load", loads, n_mb, "lab.checkpoint.load")
        pauses = pause(root, model, optimizer, options.rounds)
        print(
            f"MEASURED  pause of an asynchronous save: {1e3 * median(pauses):.0f} ms, {n_mb / median(pauses):.0f} MB/s"
        )


def load_plain(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])


def pause(root: Path, model: nn.Module, optimizer: torch.optim.Optimizer, rounds: int) -> list[float]:
    """Seconds until an asynchronous save gives control back, nothing else being under way."""
    found = []
    for _ in range(rounds):
        emptied(root / "later")
        waiting: list[lab.checkpoint.Saving] = []

        def begin(waiting: list[lab.checkpoint.Saving] = waiting) -> None:
            waiting.append(lab.checkpoint.save(root / "later", model, optimizer, asynchronous=True))

        found += race({"begin": begin}, 1, warm_up=0).wall["begin"]
        waiting[0].wait()
    return found


def report(what: str, result: Race, n_mb: float, ours: str) -> None:
    for name, seconds in result.wall.items():
        print(f"MEASURED  {what}, {name:<30}{1e3 * median(seconds):>8.0f} ms{n_mb / median(seconds):>8.0f} MB/s")
    result.report(ours)


if __name__ == "__main__":
    main()
