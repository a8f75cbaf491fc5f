"""`python -m llmlab run worker.py`: a worker from a file, in one process, in several here, or on many machines."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

DAYS_S = 1000 * 86400.0  # a run from a shell ends when it ends


def register(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    running = commands.add_parser("run", help="run a worker from a file on many ranks", description=run_run.__doc__)
    running.add_argument("--ranks", type=int, default=1, help="on each machine (default: 1)")
    running.add_argument("--restarts", type=int, default=0, help="after a rank has died (default: 0)")
    running.add_argument("--addresses", nargs="+", metavar="IP", help="of all machines, the first is where they meet")
    running.add_argument("--machine", type=int, help="which of them this is, from 0 (with --addresses)")
    running.add_argument("--interface", help="the network interface that has these addresses (with --addresses)")
    running.add_argument("--port", type=int, default=29500, help="where they meet, on the first (default: 29500)")
    running.add_argument("--fewest-machines", type=int, metavar="N", help="go on with so many when others are gone")
    running.add_argument("worker", help="worker.py, which defines worker(world, ...); worker.py:NAME for another name")
    running.add_argument("arguments", nargs=argparse.REMAINDER, help="the worker's own, as texts")
    running.set_defaults(run=run_run)


def run_run(asked: argparse.Namespace) -> int:
    """Run worker(world, ...) of a file: on ranks of this machine, or as one machine of several (--addresses).

    The exit code is 0 when all ranks have returned, 1 when one has failed, 2 when the command is wrong. Inside a job
    of torchrun or Slurm it runs this process's rank: torchrun --nproc-per-node=2 -m llmlab run worker.py
    """
    file, name = _file(asked.worker)
    from llmlab.comm.launched.torchrun import job_place  # torch comes with it

    if job_place() is not None:
        return _report(_as_a_rank, file, name, asked.arguments)
    if asked.addresses:
        return _agent(asked)
    of_many = ("machine", "interface", "fewest-machines")
    for option, value in ((f"--{name}", getattr(asked, name.replace("-", "_"))) for name in of_many):
        if value is not None:
            raise ValueError(f"{option} wants the machines' --addresses, got none")
    from llmlab.comm.processes import Processes

    engine = Processes(ranks=asked.ranks, restarts=asked.restarts, timeout_s=DAYS_S)
    return _report(engine.run, _call, file, name, asked.arguments)


def _report(run: Callable[..., Any], *args: Any) -> int:
    """Give the exit code; a rank's failure in words, without the launcher's own frames."""
    from llmlab.comm.errors import RankError

    try:
        run(*args)
    except RankError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _as_a_rank(file: str, name: str, arguments: list[str]) -> None:
    from llmlab.comm.processes import Torchrun

    Torchrun(timeout_s=DAYS_S).run(_call, file, name, arguments)


def _call(world: Any, file: str, name: str, arguments: list[str]) -> None:
    """Load the worker where it runs; what it returns stays there, what it prints is seen."""
    load_worker(Path(file), name)(world, *arguments)


def load_worker(file: Path, name: str) -> Callable[..., Any]:
    """Import a file as a module, its own folder before all others, and give a function of it."""
    sys.path.insert(0, str(file.parent))
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[file.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    worker = getattr(module, name, None)
    if not callable(worker):
        raise ValueError(f"{file.name} wants a function {name}(world, ...), got none; say another by {file.name}:NAME")
    return worker


def _file(asked: str) -> tuple[str, str]:
    file, _, name = asked.partition(":")
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"run wants a Python file, such as worker.py, got {file}")
    return str(path.absolute()), name or "worker"


def _agent(asked: argparse.Namespace) -> int:
    """Become torchrun's agent on this machine: its exit code is ours."""
    from llmlab.comm.processes import Torchrun

    if asked.machine is None or not 0 <= asked.machine < len(asked.addresses):
        raise ValueError(f"--machine wants to be 0 to {len(asked.addresses) - 1}, the place in --addresses")
    if asked.interface is None:
        raise ValueError("--interface wants the name of the network interface that has these addresses, got none")
    machines = Torchrun(
        addresses=asked.addresses, ranks_per_machine=asked.ranks, interface=asked.interface, port=asked.port,
        max_restarts=asked.restarts, fewest_machines=asked.fewest_machines,
    ).machines  # fmt: skip
    words = machines.words(asked.machine, Path(asked.worker).stem, sys.executable)
    environment = os.environ | machines.settings()
    sys.stdout.flush()
    os.execve(sys.executable, [*words, "-m", "llmlab", "run", asked.worker, *asked.arguments], environment)
