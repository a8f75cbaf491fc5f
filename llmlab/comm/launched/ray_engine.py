"""Ranks on Ray: the same worker in actors of a placement group, on this machine or on a Ray cluster of many.

caller                          its own Ray, on loopback, unless one is running or `address` names one
  placement group               a bundle of CPUs for each rank: all of them, or none
    actor: rank 0               gloo; meets the others in a file, or, on several machines, at rank 0's address
    actor: rank 1               ...

Moritz et al. 2018, "Ray: a distributed framework for emerging AI applications". Run on one machine only; no GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmlab.arguments import flag, real, string, whole
from llmlab.comm.launched.local_ray import LocalRay, import_ray
from llmlab.comm.launched.ray_actors import RayActors
from llmlab.comm.launched.ray_watch import RayWatch
from llmlab.comm.launched.shipping import pack_call
from llmlab.comm.launched.wall_run import this_hardware, to_run
from llmlab.comm.trace import Run
from llmlab.comm.turns import turn


class Ray:
    """Ranks as Ray actors, fresh ones for each run. Between `start()` and `close()`, or in a `with` block, they stay,
    and Ray with them; after a failure they are replaced.

    Without `address` this uses the Ray that is running in this process, or starts one of its own, on loopback only, and
    ends it. A cluster listens beyond loopback: give its `address` where you trust the network, and the `interface`
    between its machines when the ranks do not fit on one.

    cpus_per_rank: what each rank reserves.  timeout_s: seconds that a run may take, and that ranks may wait for their
    places.  threads_per_rank, strict: as in `Processes`.
    """

    def __init__(
        self,
        ranks: int = 2,
        *,
        timeout_s: int | float = 60,
        threads_per_rank: int = 1,
        cpus_per_rank: int = 1,
        strict: bool = False,
        address: str | None = None,
        interface: str | None = None,
    ):
        wants = "Ray"
        self.ranks = whole(wants, "ranks", ranks, least=1)
        self.timeout_s = real(wants, "timeout_s", timeout_s, above=0)
        self.threads_per_rank = whole(wants, "threads_per_rank", threads_per_rank, least=1)
        self.cpus_per_rank = whole(wants, "cpus_per_rank", cpus_per_rank, least=1)
        self.strict = flag(wants, "strict", strict)
        self.address = None if address is None else string(wants, "address", address)
        self.interface = None if interface is None else string(wants, "interface", interface)
        self._ray: Any = None
        self._actors: RayActors | None = None
        self._leave: Callable[[], None] = _nothing

    def run(self, worker: Callable[..., Any], *args: Any, **kwargs: Any) -> Run:
        """Run `worker(world, *args, **kwargs)` on every rank.

        Raises a RankError that names the rank, as `Processes` does; ImportError without Ray; ValueError when the
        cluster could never hold the ranks, and RuntimeError when Ray itself does not start.
        """
        with turn():
            payload, kept = pack_call(worker, args, kwargs), self._ray is not None
            self._enter()
            try:
                return self._run(payload)
            finally:
                if not kept:
                    self._exit()

    def start(self) -> Ray:
        """Start Ray, or join it, for several runs."""
        with turn():
            self._enter()
        return self

    def close(self) -> None:
        """End the Ray that was started, or leave the one that was joined."""
        with turn():
            self._exit()

    def __enter__(self) -> Ray:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        if self._ray is not None:
            return
        ray = import_ray()
        if ray.is_initialized():
            self._leave = _nothing  # whoever started it ends it
        elif self.address is None:
            self._leave = LocalRay(self.ranks * self.cpus_per_rank).close
        else:
            try:
                ray.init(address=self.address, log_to_driver=False, configure_logging=False)
            except Exception as error:
                raise RuntimeError(f"there is no Ray to join at {self.address!r}: {error}") from error
            self._leave = ray.shutdown
        self._ray = ray

    def _exit(self) -> None:
        if self._actors is not None:
            self._actors.close()
        leave, self._ray, self._leave, self._actors = self._leave, None, _nothing, None
        leave()

    def _run(self, payload: bytes) -> Run:
        if self._actors is None:
            places = [{"CPU": self.cpus_per_rank}] * self.ranks
            self._actors = RayActors(self._ray, places, self.threads_per_rank, self.interface, self.timeout_s)
        watch = RayWatch(self._ray, self._actors.actors, self._actors.folder)
        try:
            output = watch.run(payload, self.timeout_s, self.strict)
        except BaseException:
            self._actors.close()
            self._actors = None
            raise
        hardware = this_hardware(self.ranks, "gloo on Ray", self.threads_per_rank)
        return to_run(watch.facts.outcomes, output, hardware)


def _nothing() -> None:
    """Nobody to leave."""
