"""What goes wrong with files: each is told by name, the checkpoint before is taken, and nothing older is lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

import llmlab as lab
from llmlab import checkpoint
from llmlab.checkpoint import storing


def run_of(value: float):
    """A model whose every number says when it was saved, and its optimizer."""
    model = nn.Linear(40, 30)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(value)
    optimizer = torch.optim.SGD(model.parameters(), lr=value, momentum=0.9)
    for p in model.parameters():
        optimizer.state[p]["momentum_buffer"] = torch.full_like(p, value)
    return model, optimizer


def value_of(folder) -> float:
    """What is loaded, after seeing that it is all of one save."""
    model, optimizer = run_of(0.0)
    extra = checkpoint.load(folder, model, optimizer)
    found = {extra["value"], optimizer.param_groups[0]["lr"]}
    for p in model.parameters():
        found |= {*p.flatten().tolist(), *optimizer.state[p]["momentum_buffer"].flatten().tolist()}
    assert len(found) == 1, f"of several saves: {found}"
    return found.pop()


def save(folder, value: float, keep: int | None = None, **how):
    return checkpoint.save(folder, *run_of(value), extra={"value": value}, step=int(value), keep=keep, **how)


def damaged(path: Path, how: str) -> None:
    file = next(path.glob("*.safetensors"))
    if how == "bit":
        data = bytearray(file.read_bytes())
        data[-9] ^= 1
        file.write_bytes(data)
    elif how == "cut":
        os.truncate(file, file.stat().st_size - 3)
    elif how == "gone":
        file.unlink()
    elif how == "manifest":
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["extra"]["value"] = 1.0
        (path / "manifest.json").write_text(json.dumps(manifest, indent=1))
    elif how == "no manifest":
        (path / "manifest.json").unlink()
    elif how == "renamed":
        path.rename(path.with_name(path.name.replace("step-00000002", "step-00000003")[:-1] + "x"))


DAMAGE = {
    "bit": "rank-00000.safetensors is not as it was saved: its sha256 differs",
    "cut": r"rank-00000.safetensors must have \d+ bytes, got",
    "gone": "rank-00000.safetensors is missing",
    "manifest": "manifest.json is not the one it was saved with",
    "no manifest": r"manifest.json cannot be read \(No such file",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_loaded(tmp_path, how: str) -> None:
    save(tmp_path, 1.0)
    save(tmp_path, 2.0)
    damaged(checkpoint.newest(tmp_path), how)
    with pytest.warns(UserWarning, match=f"step-00000002-.* is damaged: {DAMAGE[how]}.*; step-00000001-.* is loaded"):
        assert value_of(tmp_path) == 1.0
    with pytest.raises(ValueError, match=f"wants a whole checkpoint, got none: .*{DAMAGE[how]}"):
        checkpoint.load(tmp_path, *run_of(0.0), step=2)
    damaged(storing.listed(tmp_path)[1], "bit")
    with pytest.raises(ValueError, match="got none: .*step-00000002-.*step-00000001-"):
        value_of(tmp_path)


def test_every_rank_takes_the_same_one_though_one_alone_sees_the_damage(tmp_path) -> None:
    def worker(world, loading: bool):
        model = nn.Linear(2, 2)
        lab.data_parallel(model, world)
        if loading:
            return lab.checkpoint.load(tmp_path, model, world=world)["step"]
        for step in (1, 2):
            lab.checkpoint.save(tmp_path, model, world=world, step=step)

    lab.Simulator(ranks=3).run(worker, False)
    os.truncate(checkpoint.newest(tmp_path) / "rank-00002.safetensors", 50)
    with pytest.warns(UserWarning, match="rank-00002"):
        assert lab.Simulator(ranks=3).run(worker, True).results == [1, 1, 1]


def test_keep_counts_the_newest(tmp_path) -> None:
    for value in (1.0, 2.0, 3.0, 4.0):
        save(tmp_path, value, keep=2)
    assert [storing.step_of(path) for path in storing.listed(tmp_path)] == [4, 3]
    assert sorted(path.name[:13] for path in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]
    save(tmp_path, 3.0)  # gone back, and saved again
    assert value_of(tmp_path) == 4.0


class Killed(BaseException):
    """Stands for the end of the process: no handler runs."""


def test_killed_at_any_call_to_the_system_the_newest_whole_one_loads(tmp_path, monkeypatch) -> None:
    """Every write, sync, rename and deletion of a save in turn is the last thing that it does."""
    calls, last = [0], [10**9]

    def watched(function):
        def call(*args, **kwargs):
            calls[0] += 1
            if calls[0] > last[0]:
                raise Killed
            return function(*args, **kwargs)

        return call

    for owner, name in (
        (os, "fsync"), (Path, "rename"), (Path, "mkdir"), (Path, "open"), (Path, "unlink"),
        (storing, "header_of"), (storing, "bytes_of"), (storing.shutil, "rmtree"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    monkeypatch.setattr(checkpoint.saving.threading, "excepthook", lambda _: None)
    monkeypatch.setattr(checkpoint.saving, "POLL_S", 0.001)
    for value in (1.0, 2.0):
        save(tmp_path, value, keep=2)
    calls[0] = 0
    save(tmp_path, 3.0, keep=2)
    in_all, newest, came_through = calls[0], 3.0, set()
    assert in_all >= 12
    for last[0] in range(2, in_all):  # the first two make the folder, before anything is under way
        calls[0] = 0
        run = save(tmp_path, 4.0 + last[0], keep=2, asynchronous=True)
        run._threads[0].join()
        run._stop.wait(0.02)
        run._stop.set()
        run._threads[1].join()
        calls[0] = -(10**9)
        found = value_of(tmp_path)  # a warning, of a damaged one, would be an error
        assert found in (newest, 4.0 + last[0])
        came_through.add(found > newest)
        newest = found
    assert came_through == {False, True}


def test_a_disk_that_is_full_is_told_on_every_rank_and_the_older_stays(tmp_path) -> None:
    def worker(world):
        model = nn.Linear(400, 400)
        lab.data_parallel(model, world)
        lab.checkpoint.save(tmp_path, model, world=world, step=1)
        limit = 100_000 if world.rank == 0 else resource.RLIM_INFINITY
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write beyond the limit fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        told = ""
        try:
            lab.checkpoint.save(tmp_path, model, world=world, step=2)
        except OSError as error:
            told = str(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return told, lab.checkpoint.load(tmp_path, model, world=world)["step"]

    for told, step in lab.Processes(ranks=2).run(worker).results:
        assert "step 2 was not saved, older ones are as they were: rank 0 could not write" in told
        assert os.strerror(errno.EFBIG) in told
        assert step == 1
    assert [path.name[:13] for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="was not saved, older ones are as they were"):
        save(tmp_path / "file" / "runs", 1.0)


def test_an_asynchronous_save_has_the_numbers_of_its_moment(tmp_path) -> None:
    model, optimizer = run_of(5.0)
    saving = checkpoint.save(tmp_path, model, optimizer, extra={"value": 5.0}, step=5, asynchronous=True)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
            optimizer.state[p]["momentum_buffer"].zero_()
    assert saving.wait() == checkpoint.newest(tmp_path)
    assert value_of(tmp_path) == 5.0


def test_an_asynchronous_save_is_there_though_nobody_waits(tmp_path) -> None:
    def worker(world):
        model = nn.Linear(200, 200)
        lab.data_parallel(model, world)
        for step in range(3):
            lab.checkpoint.save(tmp_path, model, world=world, step=step, asynchronous=True)
        for thread in next(iter(checkpoint.saving.UNDER_WAY.values()))._threads:
            thread.join()

    lab.Processes(ranks=2).run(worker)
    assert [storing.step_of(path) for path in storing.listed(tmp_path)] == [2, 1, 0]


# Saves again and again until it is killed; forks, so that torch is loaded once for all of them.
VICTIM = """
    import os, signal, sys, time
    sys.path[:0] = {path!r}
    from tests.checkpoint.test_damage import save
    import random
    save({folder!r}, 0.0)  # what the first save has to load is loaded once, too
    for life in range({lives}):
        child = os.fork()
        if child == 0:
            value = 1000.0 * life
            while True:
                value += 1.0
                save({folder!r}, value, keep=3)
        time.sleep(random.Random(life).uniform(0.05, 0.3))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(life, flush=True)
        sys.stdin.readline()
"""


def test_killed_at_random_moments_the_newest_loads(tmp_path) -> None:
    lives = int(os.environ.get("LLMLAB_KILLS", "15"))
    program = textwrap.dedent(VICTIM).format(path=[p for p in sys.path if p], folder=str(tmp_path), lives=lives)
    victim = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    before, left_behind = 0.0, 0
    for _ in range(lives):
        assert victim.stdout.readline(), "the victim ended by itself"
        left_behind += any(path.name.startswith(".writing-") for path in tmp_path.iterdir())
        found = value_of(tmp_path)  # a warning, of a damaged one, would be an error
        assert found >= before
        before = found
        victim.stdin.write("\n")
        victim.stdin.flush()
    victim.stdin.close()
    victim.wait()
    victim.stdout.close()
    assert before > 0 and left_behind, "no save was under way when it was killed"
