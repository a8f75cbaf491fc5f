"""Simulated ranks: the same worker, exact numbers, and a virtual clock of any hardware, inside this process.

Each rank is a thread used as a coroutine (`scheduler`, in simulated/ as all these). Running it *issues* operations:
torch's are seen by the `recorder`, messages and collectives meet in `matching`. When each starts and ends is *timed*
apart, in picoseconds, on the cluster's devices and links (`clock`, `pricing`). With numerics=False the same worker runs
on meta tensors: its cost and memory without its numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llmlab.arguments import choice, flag, instance, listing, real, string, whole
from llmlab.comm.faults import Dies, Fault, Lost, SlowLink
from llmlab.comm.simulated.charging import COST_BYTES
from llmlab.comm.simulated.folding import Alike, Unalike
from llmlab.comm.simulated.simulation import Simulation
from llmlab.comm.trace import Run
from llmlab.hardware import Cluster, Device
from llmlab.hardware import cluster as find_cluster


@dataclass(frozen=True)
class Simulator:
    """`Simulator(ranks=4).run(worker, *args)` runs `worker(world, *args)` on simulated ranks.

    cluster: whose clock it is, a name of `hardware.clusters()` or a Cluster.  numerics: False runs on meta tensors.
    fold: axes of the worker's Mesh (or "world") along which ranks are alike: one runs and stands for all.  "auto" finds
    them, where they are alike for sure, and `run.folded` says along what, and why not along the rest.
    cost_dtype: floating-point kernels wider than this are priced as if they ran in it; memory and messages count the
    bytes there are.  out_of_memory: "raise" as the device would, or "record" and go on.
    speeds: rank -> factor on its compute speed.  devices: rank -> Device, where they differ.
    kernels: False leaves them out: computing takes no time, is not recorded, and holds no memory; only messages count.
    Tests that want many runs' numbers use it.
    jitter: kernels last up to this share longer, drawn from the seed.  comm_slows_matmul: share of a matrix product's
    speed lost while a collective of its rank is under way.  faults: what goes wrong, of `comm.faults`.
    """

    ranks: int
    cluster: str | Cluster = "classroom"
    numerics: bool = True
    fold: Sequence[str] | Literal["auto"] = ()
    cost_dtype: str = "bf16"
    out_of_memory: Literal["raise", "record"] = "raise"
    speeds: Mapping[int, float] = field(default_factory=dict)
    devices: Mapping[int, Device] = field(default_factory=dict)
    kernels: bool = True
    jitter: float = 0.0
    comm_slows_matmul: float = 0.0
    faults: Sequence[Fault] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        wants = "Simulator"
        whole(wants, "ranks", self.ranks, least=1)
        for name in ("numerics", "kernels"):
            flag(wants, name, getattr(self, name))
        whole(wants, "seed", self.seed)
        choice(wants, "cost_dtype", self.cost_dtype, COST_BYTES)
        choice(wants, "out_of_memory", self.out_of_memory, ("raise", "record"))
        real(wants, "jitter", self.jitter, least=0)
        real(wants, "comm_slows_matmul", self.comm_slows_matmul, least=0, below=1)
        axes = ["auto"] if self.fold == "auto" else listing(wants, "fold", self.fold, "axes (or fold='auto')")
        self._check_combination([string(wants, "an axis in fold", axis) for axis in axes])
        for name, keyed in (("speeds", self.speeds), ("devices", self.devices)):
            for rank in instance(wants, name, keyed, Mapping, "write {rank: value}"):
                whole(wants, f"each rank of {name}", rank, least=0, most=self.ranks - 1)
        for factor in self.speeds.values():
            real(wants, "each speed", factor, above=0)
        for device in self.devices.values():
            instance(wants, "each device", device, Device, "see lab.hardware.device(name)")
        for fault in listing(wants, "faults", self.faults, "faults"):
            instance(wants, "each fault", fault, (Dies, SlowLink, Lost), "see lab.comm.faults")
            whole(wants, "each fault's rank", fault.rank, least=0, most=self.ranks - 1)
        find_cluster(self.cluster)

    def _check_combination(self, fold: list[str]) -> None:
        if fold and self.numerics:
            raise ValueError("fold runs one rank for many alike, which only their cost is: it wants numerics=False")
        if fold and self.faults:
            raise ValueError("fold lets one rank run for many alike, and a fault makes one unlike: leave fold out")
        if not self.kernels and not self.numerics:
            raise ValueError("without kernels and without numerics nothing is left: one of them must be True")

    def run(self, worker: Callable[..., Any], *args: Any, **kwargs: Any) -> Run:
        """Run `worker(world, *args, **kwargs)` on every rank. Raises a rank's exception as a RankError."""
        if self.fold == "auto":
            return self._run_alike(worker, args, kwargs)
        return Simulation(self, worker, args, kwargs).run()

    def run_torch(self, worker: Callable[..., Any], *args: Any, **kwargs: Any) -> Run:
        """Run `worker(*args, **kwargs)`, which uses torch.distributed itself, on every rank.

        Its default group is there, and its own init_process_group may make it again, whatever the backend. Tensors are
        on the CPU (device="cpu"), or on meta with numerics=False. Raises a rank's exception as a RankError.
        """
        self._check_fold("run_torch")
        from llmlab.comm.simulated.torch_programs import running  # torch's DTensor takes a second to import

        return running.run(self, worker, args, kwargs)

    def run_script(self, path: str | Path, *argv: str) -> Run:
        """Run a script that torchrun would start, with these arguments on its command line, on every rank."""
        self._check_fold("run_script")
        from llmlab.comm.simulated.torch_programs import scripts

        return scripts.run(self, path, argv)

    def _run_alike(self, worker: Callable[..., Any], args: tuple, kwargs: dict) -> Run:
        """Run with as few ranks as are surely enough: attempt by attempt, each knowing what stopped the last."""
        differing = bool(self.speeds or self.devices or self.jitter)
        told = {"world": "the ranks' hardware differs"} if differing else {}
        alike, per_node = None, find_cluster(self.cluster).devices_per_node
        while True:
            alike = Alike(self.ranks, per_node, told, alike)
            simulation = Simulation(self, worker, args, kwargs, alike=alike)
            try:
                run = simulation.run()
                alike.check(simulation.ranks, simulation.events)
            except Unalike:
                continue
            except Exception as error:  # perhaps only because ranks were left out
                if not alike.axes:
                    simulation.printing.release()
                    raise
                told["world"] = f"{type(error).__name__} in a folded run"
            else:
                simulation.printing.release()
                return replace(run, folded=alike.words)

    def _check_fold(self, call: str) -> None:
        if self.fold == "auto":
            raise ValueError(
                f"{call} wants fold as the axes to fold: 'auto' watches a worker's own groups, not torch's"
            )
