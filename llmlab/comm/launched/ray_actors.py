"""The ranks' actors on Ray: placed together or not at all, met, and ended together."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

from llmlab.comm.errors import RankTimeout
from llmlab.comm.launched.ray_rank import RayRank

_START_S = 120.0  # for actors to be born, import torch on a busy machine, and meet


class RayActors:
    """An actor for each of `places` (what Ray calls bundles), once all have met; `folder` is theirs, on this machine.

    Raises ValueError when the cluster could never hold them, RankTimeout when it had no room for so many seconds, and
    RuntimeError when Ray cannot start them.
    """

    def __init__(self, ray: Any, places: list[dict[str, int]], threads: int, interface: str | None, timeout_s: float):
        self._ray, self.folder = ray, tempfile.mkdtemp(prefix="llmlab-")  # mode 0700
        self.actors: list[Any] = []
        self._group: Any = None
        try:
            self._reserve(places, timeout_s)
            self._launch(places, threads)
            self._meet(interface)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the actors, whatever they do, and give back their place."""
        if self.actors:  # those that can still hear it clear up
            self._ray.wait([a.close.remote() for a in self.actors], num_returns=len(self.actors), timeout=0.2)
        for actor in self.actors:
            self._ray.kill(actor)
        if self._group is not None:
            self._ray.util.remove_placement_group(self._group)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _reserve(self, places: list[dict[str, int]], timeout_s: float) -> None:
        """All places at once, or none: some ranks alone would wait for the others for ever."""
        each, there = places[0]["CPU"], int(self._ray.cluster_resources().get("CPU", 0))
        wanted = f"{len(places) * each} CPUs for {len(places)} ranks of {each}"
        if len(places) * each > there:
            raise ValueError(f"Ray wants {wanted}, got a cluster of {there}")
        self._group = self._ray.util.placement_group(places, strategy="PACK")
        if not self._group.wait(timeout_seconds=timeout_s):
            free = int(self._ray.available_resources().get("CPU", 0))
            raise RankTimeout(
                f"no rank was placed within {timeout_s:g} s: Ray wants {wanted}, and of its {there} {free} are free"
            )

    def _launch(self, places: list[dict[str, int]], threads: int) -> None:
        for rank, place in enumerate(places):
            where = self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(self._group, rank)
            kind = self._ray.remote(
                num_cpus=place["CPU"], max_restarts=0, scheduling_strategy=where, concurrency_groups={"control": 1}
            )(RayRank)
            self.actors.append(kind.remote(rank, len(places), threads))

    def _meet(self, interface: str | None) -> None:
        """Let the ranks find each other: in a folder of the caller's machine, or at rank 0's address."""
        machines = self._get([actor.machine.remote() for actor in self.actors])
        here = self._ray.get_runtime_context().get_node_id()
        if all(node == here for node, _ in machines):
            self._get([actor.settle.remote(self.folder, None, None) for actor in self.actors])
            return
        if interface is None:
            raise ValueError("Ray wants interface=, the network interface between its machines, for ranks on several")
        address = machines[0][1]
        (port,) = self._get([self.actors[0].offer.remote(address)])
        self._get([actor.settle.remote(None, (address, port), interface) for actor in self.actors])

    def _get(self, calls: list[Any]) -> list[Any]:
        try:
            return self._ray.get(calls, timeout=_START_S)
        except self._ray.exceptions.GetTimeoutError as error:
            raise RankTimeout(f"the ranks took more than {_START_S:g} s to start and to meet") from error
        except self._ray.exceptions.RayError as error:
            raise RuntimeError(f"Ray could not start the ranks: {error}") from error
