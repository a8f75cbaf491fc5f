"""Runs that are killed, started again, and end as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import llmlab as lab
from llmlab.checkpoint import storing
from tests.checkpoint.runs import DENSE, LAYOUTS, batch, make_optimizer, make_step, ranks

KILLS = int(os.environ.get("LLMLAB_KILLS", "2"))


class Stopped(Exception):
    """Stands for whatever ends a run."""


def train(world, layout, folder, steps, stop_at=None, every=2, begun=None, **how):
    """The loop that a user would write: losses and weights, and at which steps it was."""
    step, losses, seen = make_step(world, layout), [], []
    schedule = lab.optim.LRScheduler(step.optimizer, lab.optim.linear(2 * steps))
    checkpoints = lab.checkpoint.Checkpoints(folder, every=every, **how)
    for n in checkpoints.steps(steps, step, state={"losses": losses, "schedule": schedule}):
        seen.append(n)
        if begun is not None and world.rank == 0:
            (begun / "step").write_text(str(n))
        if n == stop_at:
            raise Stopped
        losses.append(float(step(*batch(n))))
        schedule.step()
    return losses, step.state_dict(), seen


def same(state, other, atol=0.0):
    return list(state) == list(other) and all((state[name] - other[name]).abs().max() <= atol for name in state)


def quick(layout):
    """An engine without a price for each kernel."""
    return lab.Simulator(ranks=ranks(layout), kernels=False)


def test_a_run_that_was_stopped_ends_as_one_that_was_not_to_the_bit(tmp_path) -> None:
    layout = LAYOUTS["zero2 tp"]
    engine = quick(layout)
    losses, weights, _ = engine.run(train, layout, tmp_path / "undisturbed", 6).results[0]
    for stop_at in (0, 5):
        with pytest.raises(Stopped):
            engine.run(train, layout, tmp_path / "stopped", 6, stop_at, asynchronous=False)
    found, state, seen = engine.run(train, layout, tmp_path / "stopped", 6).results[0]
    assert found == losses and same(state, weights)
    assert seen == [4, 5]  # stopped at 5, saved after each second


def test_other_numbers_of_ranks_go_on_with_the_same_losses(tmp_path) -> None:
    """Four ranks, then two, then one: whoever is left."""
    losses, weights, _ = (
        quick(LAYOUTS["one process"]).run(train, LAYOUTS["one process"], tmp_path / "one", 6).results[0]
    )
    for name, stop_at in (("dp", 2), ("zero3", 4), ("one process", None)):
        engine = quick(LAYOUTS[name])
        if stop_at is not None:
            with pytest.raises(Stopped):
                engine.run(train, LAYOUTS[name], tmp_path / "fewer", 6, stop_at, asynchronous=False)
    found, state, seen = engine.run(train, LAYOUTS[name], tmp_path / "fewer", 6).results[0]
    assert seen == [4, 5]
    assert found == pytest.approx(losses, rel=1e-11)  # fp64, sums in another order, six steps of Adam
    assert same(state, weights, atol=1e-9)


def train_and_tell(world, folder, steps):
    (folder / f"pid-{world.rank}").write_text(str(os.getpid()))
    return train(world, lab.Layout(dp=2, zero=1), folder, steps, every=5, begun=folder)


def killer(folder: Path, steps: int, kills: int, killed: list[int]) -> None:
    """Kill a random rank each time the run has come to a random step that it has not come to before."""
    dice = random.Random(kills)
    for goal in sorted(dice.sample(range(3, steps - 3), kills)):
        while not (folder / "step").exists() or int((folder / "step").read_text() or 0) < goal:
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.02))
        pid = int((folder / f"pid-{dice.randrange(2)}").read_text())
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.002)


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="ranks are watched in /proc")
def test_ranks_killed_at_random_moments_end_with_the_undisturbed_weights(tmp_path) -> None:
    steps = 20 + 10 * KILLS
    for folder in ("undisturbed", "killed"):
        (tmp_path / folder).mkdir()
    losses, weights, _ = lab.Processes(ranks=2).run(train_and_tell, tmp_path / "undisturbed", steps).results[0]
    killed: list[int] = []
    thread = threading.Thread(target=killer, args=(tmp_path / "killed", steps, KILLS, killed))
    thread.start()
    run = lab.Processes(ranks=2, restarts=KILLS).run(train_and_tell, tmp_path / "killed", steps)
    thread.join()
    assert len(killed) == len(run.restarts) == KILLS
    assert all("was killed by SIGKILL" in said for said in run.restarts)
    for found, state, seen in run.results:
        assert found == losses and same(state, weights)
        assert seen[0] % 5 == 0


def test_a_rank_that_dies_again_and_again_and_an_exception_end_the_run(tmp_path, capfd) -> None:
    def worker(world, how):
        with (tmp_path / f"{how}-{world.rank}").open("a") as file:
            file.write("x")
        if world.rank == 1 and how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if world.rank == 1:
            raise KeyError("planted")
        world.barrier()

    with pytest.raises(lab.RankDied, match="rank 1: its process was killed by SIGKILL"):
        lab.Processes(ranks=2, restarts=2).run(worker, "dies")
    assert "restart 2 of 2: rank 1" in capfd.readouterr().err
    with pytest.raises(KeyError, match="planted"):
        lab.Processes(ranks=2, restarts=2).run(worker, "raises")
    assert (tmp_path / "dies-1").read_text() == "xxx" and (tmp_path / "raises-1").read_text() == "x"


def test_a_folder_of_another_run_is_refused(tmp_path) -> None:
    model = nn.Linear(2, 2)
    checkpoints = lab.checkpoint.Checkpoints(tmp_path, every=3)
    assert list(checkpoints.steps(7, model, state={"losses": []})) == list(range(7))
    assert [storing.step_of(path) for path in storing.listed(tmp_path)] == [7, 6]
    assert list(checkpoints.steps(7, model, state={"losses": []})) == []
    with pytest.raises(ValueError, match=r"a run of 5 steps wants a folder of its own, .* of step 7"):
        next(checkpoints.steps(5, model, state={"losses": []}))
    with pytest.raises(ValueError, match=r"wants the state that was saved, \['losses'\]; got \[\]"):
        next(checkpoints.steps(9, model))
    with pytest.raises(ValueError, match=r"wants state\['rate'\] as a list, or an object with state_dict"):
        next(checkpoints.steps(9, model, state={"rate": 3}))
    with pytest.raises(ValueError, match="got checkpoints of another loop"):
        optimizer = lab.optim.SGD(model.parameters(), lr=0.1)
        checkpoints = lab.checkpoint.Checkpoints(tmp_path / "other")
        list(checkpoints.steps(1, model, optimizer))
        lab.Trainer(model, optimizer).fit([(torch.ones(1), torch.ones(1))], checkpoints=checkpoints)


# --- the trainer ------------------------------------------------------------------------------------------------------

SMALL = replace(DENSE, n_layer=1)


def fit(world, folder, stop_at=None, patience=None, steps=6):
    """Data-parallel training of two microbatches per step, validated; the batches from their first."""
    model = lab.Transformer(SMALL)
    lab.data_parallel(model, world)
    optimizer = make_optimizer(model.parameters())
    schedule = lab.optim.LRScheduler(optimizer, lab.optim.linear(20))
    trainer = lab.Trainer(model, optimizer, schedule=schedule, accumulate=2, clip=1.0, patience=patience)

    def batches():
        for n in range(100):
            if n == stop_at:
                raise Stopped
            rows = slice(world.rank * 8 // world.size, (world.rank + 1) * 8 // world.size)
            yield tuple(x[rows] for x in batch(n))

    checkpoints = lab.checkpoint.Checkpoints(folder, every=2, world=world)
    curves = trainer.fit(batches(), steps, valid=[batch(100)], valid_every=2, progress=False, checkpoints=checkpoints)
    return curves, model.state_dict(), trainer.state_dict()["progress"]


@pytest.mark.parametrize("patience", [None, 1])
def test_fit_goes_on_by_itself_to_the_bit(tmp_path, patience) -> None:
    engine = lab.Simulator(ranks=2, kernels=False)
    wanted = engine.run(fit, tmp_path / "undisturbed", None, patience, 6).results
    for stop_at in (1, 7):
        with pytest.raises(Stopped):
            engine.run(fit, tmp_path / "stopped", stop_at, patience, 6)
    for _ in range(2):  # once more, when all is done
        found = engine.run(fit, tmp_path / "stopped", None, patience, 6).results
        for (curves, state, progress), (their_curves, weights, theirs) in zip(found, wanted, strict=True):
            assert curves == their_curves and same(state, weights) and progress == theirs
    assert wanted[0][0]["train"] != wanted[1][0]["train"]  # each rank has its own batches, and its own curve


def test_fit_goes_on_with_fewer_ranks(tmp_path) -> None:
    _, weights, _ = lab.Simulator(1, kernels=False).run(fit, tmp_path / "one").results[0]
    with pytest.raises(Stopped):
        lab.Simulator(2, kernels=False).run(fit, tmp_path / "two", 9)
    (curves, state, progress), *_ = lab.Simulator(1, kernels=False).run(fit, tmp_path / "two").results
    assert same(state, weights, atol=1e-9) and progress[:2] == (6, 12) and set(curves["train"]) == set(range(1, 7))


# --- what a save holds ------------------------------------------------------------------------------------------------


def test_tensors_come_back_in_extra(tmp_path) -> None:
    model = nn.Linear(2, 2)
    extra = {"best": {"weights": [torch.arange(6).view(2, 3), torch.tensor(0.5)]}, "loss": 1.5}
    lab.checkpoint.save(tmp_path, model, extra=extra)
    found = lab.checkpoint.load(tmp_path, model)
    first, second = found["best"]["weights"]
    assert first.equal(extra["best"]["weights"][0]) and second.equal(torch.tensor(0.5)) and found["loss"] == 1.5


def test_what_one_rank_alone_cannot_save_is_refused_on_every_rank(tmp_path) -> None:
    def refused(world, what):
        model = nn.Linear(2, 2)
        lab.data_parallel(model, world)
        optimizer, extra = torch.optim.SGD(model.parameters(), lr=0.1), {}
        if world.rank == 1:
            bad = {"state of another shape": torch.ones(7), "state of another kind": "a", "extra": None}
            optimizer.state[model.bias]["odd"] = bad.get(what, torch.ones(2, dtype=torch.complex64))
            extra = {"when": object()} if what == "extra" else {}
        try:
            lab.checkpoint.save(tmp_path, model, optimizer, world=world, extra=extra)
        except ValueError as error:
            return str(error)

    def worker(world):
        return [refused(world, what) for what in ("state of another shape", "state of another kind", "extra", "dtype")]

    for engine in (lab.Simulator(ranks=2), lab.Processes(ranks=2)):
        one, other = engine.run(worker).results
        assert one == other and all(said.startswith("rank 1: ") for said in one), one


def test_what_modes_hide_in_a_step_is_not_lost_silently(tmp_path) -> None:
    def worker(world, mode):
        model = lab.Transformer(SMALL)
        optimizer = lab.optim.SGD(model.parameters(), lr=0.1)
        mode(optimizer, world)
        lab.checkpoint.save(tmp_path, model, optimizer, world=world)

    for mode in (lab.diloco, lambda optimizer, world: lab.compress_gradients(optimizer, world, lab.TopK(0.5))):
        with pytest.raises(ValueError, match="save cannot keep .* has hidden in its step"):
            lab.Simulator(ranks=2).run(worker, mode)
