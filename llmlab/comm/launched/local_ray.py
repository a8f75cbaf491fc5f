"""A Ray of our own on this machine: started for a run, on loopback only, and gone with all it wrote when it is closed.

A plain `ray.init()` listens on every interface, sends usage reports, and leaves a token in the home folder and its logs
in /tmp (looked at with Ray 2.60). Here it is told not to.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmlab.comm.launched import ray_keeper

_STORE_BYTES = 100 << 20  # Ray's least is 75 MB; what a call carries goes through it
_PATIENCE_MS = 120_000  # for Ray's own processes to find each other on a busy machine
_SLOW = "rfc3987_syntax"  # comes with JupyterLab


def import_ray() -> Any:
    """Import Ray, or say how to get it."""
    if find_spec("ray") is None:
        raise ImportError("lab.Ray wants Ray, which is not installed: pip install 'llmlab[ray]'")
    with _without_slow_module():
        import ray
        import ray.util.scheduling_strategies
    return ray


class LocalRay:
    """A Ray with so many CPUs, in a private folder (mode 0700). Raises RuntimeError with Ray's words."""

    def __init__(self, cpus: int):
        self._ray = import_ray()
        folder = tempfile.mkdtemp(prefix="llmlab-")  # short: a socket's path has at most 107 letters
        self._keeper = ray_keeper.start(folder)
        try:
            with _told_to_stay_here(self._ray, [str(_left_out(folder)), *sys.path]), _quiet():
                self._ray.init(
                    address="local", num_cpus=cpus, num_gpus=0, include_dashboard=False, log_to_driver=False,
                    configure_logging=False, object_store_memory=_STORE_BYTES, _temp_dir=folder,
                    _node_ip_address="127.0.0.1",
                )  # fmt: skip
        except BaseException as error:
            self.close()
            if isinstance(error, Exception):
                raise RuntimeError(f"Ray did not start: {error}") from error
            raise

    def close(self) -> None:
        """End it with all its processes, and remove what it left."""
        self._ray.shutdown()
        self._keeper.communicate()


def _left_out(folder: str) -> Path:
    """Make a folder that, on Python's path, hides the module that slows down each of Ray's processes."""
    path = Path(folder, "left-out")
    path.mkdir()
    (path / f"{_SLOW}.py").write_text('raise ImportError("left out: importing it takes seconds")\n')
    return path


@contextlib.contextmanager
def _without_slow_module() -> Iterator[None]:
    """Keep jsonschema, which Ray imports, from importing a parser it can do without.

    Making that parser takes three seconds of processor in each of Ray's processes; where JupyterLab had brought it
    along, Ray did not start within its time on two busy cores.
    """
    known = _SLOW in sys.modules
    if not known:
        sys.modules[_SLOW] = None  # type: ignore[assignment]  # importing it raises ImportError
    try:
        yield
    finally:
        if not known:
            del sys.modules[_SLOW]


@contextlib.contextmanager
def _told_to_stay_here(ray: Any, path: list[str]) -> Iterator[None]:
    """The environment, and the one setting, that Ray's processes are started with."""
    settings = {
        # else 127.0.0.1 is taken for "find an address that others can reach"
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_agent_register_timeout_ms": str(_PATIENCE_MS),
        "PYTHONPATH": os.pathsep.join(path),
        # else one is made and kept in the home folder: who does not know it can ask Ray for nothing
        "RAY_AUTH_TOKEN": _secret(),
    }
    constants = ray._private.ray_constants
    kept, clusters = dict(os.environ), constants.ENABLE_RAY_CLUSTER
    os.environ.update(settings)
    constants.ENABLE_RAY_CLUSTER = False  # what the first of the settings says, had Ray not been imported before
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters
        for name in os.environ.keys() - kept.keys():  # Ray sets one itself, too
            del os.environ[name]
        os.environ.update(kept)


@functools.cache
def _secret() -> str:
    """One for all Rays of this process: Ray's client reads it once."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray announces itself on stderr, by Python's logging and from C++; what goes wrong comes as an exception."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with contextlib.redirect_stderr(io.StringIO()):  # a notebook's is not descriptor 2
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
