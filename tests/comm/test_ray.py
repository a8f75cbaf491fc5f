"""Ray: the same worker in actors, with the numbers and the errors of the other engines, and nothing left."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from importlib.util import find_spec

import pytest

import llmlab as lab
from llmlab.comm.launched import local_ray
from tests.checkpoint.runs import batch, make_step
from tests.comm.test_processes_leaks import descendants, listening

DOCUMENTS = [f"{word} and {other}, said the {word}." for word in ("hen", "cat", "dog") for other in ("I", "you", "I")]
LOOPBACK = ("0100007F:", "0000000000000000FFFF00000100007F:")  # as in /proc/net/tcp


def work(world):
    """Train, and clean documents as tasks."""
    step = make_step(world, lab.Layout(dp=world.size, zero=1, microbatches=2))
    losses = [float(step(*batch(n))) for n in range(4)]
    print("rank", world.rank)
    return losses, lab.clean_documents(DOCUMENTS, world, near=0.8, schedule="first_free", chunk=2)


def dies(world):
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    world.barrier()


@pytest.fixture
def folder():
    """A short path: sockets lie in it."""
    with tempfile.TemporaryDirectory() as path:
        yield path


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'llmlab[ray]'")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes and sockets are looked up in /proc")
def test_a_local_ray_works_as_the_simulator_and_one_process_and_leaves_nothing(capfd, folder, monkeypatch):
    monkeypatch.setenv("HOME", folder)
    monkeypatch.setattr(tempfile, "tempdir", folder)
    before = os.environ.get("PYTHONPATH"), descendants(os.getpid())
    simulated, (single,) = (lab.Simulator(n, kernels=False).run(work).results for n in (2, 1))
    with lab.Ray(2) as engine:
        run = engine.run(work)
        assert run.results == simulated  # the same layout: to the bit
        assert run.results[0][0] == pytest.approx(single[0], rel=1e-11)  # fp64, sums in another order, steps of Adam
        assert run.results[0][1] == single[1]
        assert run.output == ["rank 0\n", "rank 1\n"] and run.clock == "wall"
        assert sorted(capfd.readouterr().out.splitlines()[-2:]) == ["rank 0 | rank 0", "rank 1 | rank 1"]
        doors = listening({os.getpid(), *descendants(os.getpid())})
        assert len(doors) > 4 and all(door.startswith(LOOPBACK) for door in doors)
        with pytest.raises(ValueError, match="Ray wants 3 CPUs for 3 ranks of 1, got a cluster of 2"):
            lab.Ray(3).run(work)
        with pytest.raises(lab.RankTimeout, match="no rank was placed within 0.2 s.*of its 2 0 are free"):
            lab.Ray(1, timeout_s=0.2).run(work)
        with pytest.raises(ValueError, match="cannot be copied to the ranks: cannot pickle"):
            engine.run(work, threading.Lock())
        with pytest.raises(lab.RankDied, match="rank 1: its process ended(.|\n)*rank 0: (.|\n)*Ray says: .*died"):
            engine.run(dies)
    assert (os.environ.get("PYTHONPATH"), descendants(os.getpid())) == before
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert os.listdir(folder) == []  # nor a token of Ray's in the home folder


def test_without_ray_its_engine_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(local_ray, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"lab.Ray wants Ray, which is not installed: pip install 'llmlab\[ray\]'"):
        lab.Ray(2).run(work)
