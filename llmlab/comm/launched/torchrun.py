"""torch's own launcher: the same worker under `torchrun`, on this machine or on many.

Inside a job (torchrun's environment, or Slurm's with MASTER_ADDR and MASTER_PORT set) `Torchrun().run(worker)` runs the
worker as this process's rank. Outside, `Torchrun(folder=...)` writes the job into a folder and says what to run where;
beside it lie the same job as a Slurm batch file and as a Kubernetes job (`managers.py`).

Unlike `Processes`, a job of many machines listens beyond loopback, without a secret (pytorch#173909): torchrun's two
stores do, and gloo's or NCCL's sockets. Use it on a network you trust. NCCL has not been run here, nor has Slurm.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import cloudpickle
import torch
import torch.distributed as dist

from llmlab.arguments import flag, listing, real, string, whole
from llmlab.comm.errors import rank_error
from llmlab.comm.launched.diagnosis import find_left_over, find_mismatch
from llmlab.comm.launched.ledger import Ledger
from llmlab.comm.launched.managers import Machines, kubernetes_job, slurm_batch
from llmlab.comm.launched.rank_process import Outcome, outcome, peak_bytes_from_now
from llmlab.comm.launched.shipping import pack_call, pack_result
from llmlab.comm.launched.torch_engine import TorchEngine
from llmlab.comm.launched.wall_run import this_hardware, to_run
from llmlab.comm.seeding import seed_process
from llmlab.comm.trace import Run

_JOB = '''"""A job written by llmlab.Torchrun; run it by the command that came with it."""

from llmlab.comm.launched.torchrun import run_job

run_job(__file__)
'''


@dataclass(frozen=True)
class Job:
    """A job in a folder, one command per machine. The folder must be the same on all of them (copied, or shared).

    slurm, kubernetes: files that start the same job there, with what each line does.
    """

    folder: Path
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(f"machine {i}:\n  {command}" for i, command in enumerate(self.commands))

    @property
    def slurm(self) -> Path:
        return self.folder / "job.sbatch"

    @property
    def kubernetes(self) -> Path:
        return self.folder / "job.yaml"

    def result(self) -> Run:
        """Read the Run that rank 0 wrote into the folder. It is a pickle: read only what your own job wrote."""
        file = self.folder / "run.pkl"
        if not file.exists():
            raise ValueError(f"the job in {self.folder} has not finished: start its commands first")
        return pickle.loads(file.read_bytes())


class Torchrun:
    """The engine of a torchrun job; from outside one, the writer of such a job.

    folder: where to write the job.  addresses: each machine's own IP address, the first one the meeting place.
    interface: the network interface that has these addresses, as `ip address` names it.  max_restarts: how often
    torchrun starts all ranks anew after one has failed, for whatever reason.  fewest_machines: with how many it goes on
    when others are gone (None: all), with as many ranks as those have.
    """

    def __init__(
        self,
        *,
        folder: str | Path | None = None,
        ranks_per_machine: int = 2,
        addresses: Sequence[str] = ("127.0.0.1",),
        interface: str = "lo",
        port: int = 29500,
        timeout_s: int | float = 1800,
        strict: bool = False,
        max_restarts: int = 0,
        fewest_machines: int | None = None,
    ):
        wants = "Torchrun"
        self.folder = None if folder is None else Path(string(wants, "folder", os.fspath(folder)))
        self.addresses = [string(wants, "each address", a) for a in listing(wants, "addresses", addresses, "addresses")]
        if not self.addresses:
            raise ValueError("Torchrun wants the address of at least one machine, got none")
        self.machines = Machines(
            tuple(self.addresses),
            whole(wants, "ranks_per_machine", ranks_per_machine, least=1),
            string(wants, "interface", interface),
            whole(wants, "port", port, least=1, most=65535),
            whole(wants, "max_restarts", max_restarts, least=0),
            len(self.addresses)
            if fewest_machines is None
            else whole(wants, "fewest_machines", fewest_machines, least=1, most=len(self.addresses)),
        )
        self.timeout_s = real(wants, "timeout_s", timeout_s, above=0)
        self.strict = flag(wants, "strict", strict)

    def run(self, worker: Callable[..., Any], *args: Any, **kwargs: Any) -> Run | Job:
        """Inside a job: run the worker as this rank, and give every rank the whole Run. Outside: write the job."""
        place = job_place()
        if place is not None:
            return self._run_here(place, worker, args, kwargs)
        if self.folder is None:
            raise ValueError(
                "Torchrun runs inside a torchrun or Slurm job; elsewhere it writes one and wants folder=, got None"
            )
        return self._write(worker, args, kwargs)

    # --- outside a job ------------------------------------------------------------------------------------------------

    def _write(self, worker: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
        folder = Path(self.folder or ".").absolute()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "job.py").write_text(_JOB)
        (folder / "worker.pkl").write_bytes(
            cloudpickle.dumps((pack_call(worker, args, kwargs), self.timeout_s, self.strict))
        )
        (folder / "run.pkl").unlink(missing_ok=True)
        (folder / "job.sbatch").write_text(slurm_batch(folder, self.machines))
        (folder / "job.yaml").write_text(kubernetes_job(folder, self.machines))
        job = Job(
            folder,
            tuple(self.machines.command(i, folder.name, str(folder / "job.py")) for i in range(len(self.addresses))),
        )
        print(job)
        return job

    # --- inside a job -------------------------------------------------------------------------------------------------

    def _run_here(self, place: Place, worker: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run:
        engine = _meet(place, self.timeout_s, self.strict)
        try:
            return _share(place, *_take_part(engine, worker, args, kwargs))
        finally:
            engine.close()


@dataclass(frozen=True)
class Place:
    """This process's place in a job."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def job_place() -> Place | None:
    """Read the place from torchrun's environment, or Slurm's; None outside a job."""
    for names in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
    ):
        if all(name in os.environ for name in (*names, "MASTER_ADDR", "MASTER_PORT")):
            return Place(*(int(os.environ[name]) for name in names))
    return None


def run_job(file: str) -> None:
    """What a written job does on each rank."""
    folder = Path(file).parent
    payload, timeout_s, strict = pickle.loads((folder / "worker.pkl").read_bytes())
    worker, args, kwargs = pickle.loads(payload)
    run = Torchrun(timeout_s=timeout_s, strict=strict).run(worker, *args, **kwargs)
    if os.environ.get("RANK", os.environ.get("SLURM_PROCID")) == "0":
        (folder / "run.pkl").write_bytes(cloudpickle.dumps(run))


def _meet(place: Place, timeout_s: float, strict: bool) -> TorchEngine:
    """Meet the others at MASTER_ADDR, over NCCL where each local rank has a GPU."""
    gpu = torch.cuda.device_count() >= place.local_size
    device = torch.device("cuda", place.local_rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        limit = timedelta(seconds=timeout_s)
        dist.init_process_group("nccl" if gpu else "gloo", rank=place.rank, world_size=place.size, timeout=limit)
        atexit.register(dist.destroy_process_group)  # kept until then: a job may run several workers
    return TorchEngine(Ledger(place.rank), place.size, device, strict)


def _take_part(engine: TorchEngine, worker: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Outcome, str]:
    """Run the worker as this rank. An exception leaves this process, and torchrun then ends the others."""
    before = peak_bytes_from_now()
    seed_process(0, engine.ledger.rank)
    dist.barrier()
    engine.begin(time.monotonic())
    with _copied_output() as text:
        try:
            result = pack_result(worker(engine.world(), *args, **kwargs))
        except Exception as error:
            raise rank_error(engine.ledger.rank, error) from error
    return outcome(engine, result, before), text.getvalue()


def _share(place: Place, mine: Outcome, text: str) -> Run:
    """Give every rank what all did."""
    everyone: list[Any] = [None] * place.size
    dist.all_gather_object(everyone, (mine, text))
    outcomes = {rank: part[0] for rank, part in enumerate(everyone)}
    states = [part.state for part in outcomes.values()]
    trouble = find_mismatch(states) or find_left_over(
        states, {rank: part.not_waited for rank, part in outcomes.items()}
    )
    if trouble:
        raise trouble
    hardware = this_hardware(place.size, str(dist.get_backend()), torch.get_num_threads())
    return to_run(outcomes, [part[1] for part in everyone], hardware)


class _Both(io.TextIOBase):
    """Writes to two places."""

    def __init__(self, a: TextIO, b: io.StringIO):
        self._a, self._b = a, b

    def write(self, text: str) -> int:
        self._b.write(text)
        return self._a.write(text)

    def flush(self) -> None:
        self._a.flush()


@contextlib.contextmanager
def _copied_output() -> Iterator[io.StringIO]:
    """Keep what is printed, and print it."""
    copy, out = io.StringIO(), sys.stdout
    sys.stdout = _Both(out, copy)
    try:
        yield copy
    finally:
        sys.stdout = out
