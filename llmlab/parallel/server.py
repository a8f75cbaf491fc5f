"""Parameter server: some ranks hold the weights and the optimizer, the others push gradients to them and pull weights.

    workers, ranks 2 to 4                          servers, ranks 0 and 1, each with parameters of its own
    rank 2: its batch -> gradient --.  push   .--> rank 0: optimizer.step on w_0 --.  pull
    rank 3: its batch -> gradient --+---------+                                    +------> w to every worker
    rank 4: its batch -> gradient --'         '--> rank 1: optimizer.step on w_1 --'

Li et al. 2014, "Scaling distributed machine learning with the parameter server", section 3. When a pull is answered is
the whole difference between three ways to train, n_r being how often rank r has pushed:

    staleness=0       synchronous: when all have pushed; one update, with the mean of the gradients
    staleness=s       stale-bounded: when n_r - min n <= s; an update for each push (Ho et al. 2013)
    staleness=None    asynchronous: at once; an update for each push (Dean et al. 2012, section 4.1)

Seam: `optimizer.step`, which on a worker is push and pull.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from llmlab.arguments import function, instance, whole
from llmlab.comm.call import Handle
from llmlab.comm.group import Group
from llmlab.optim import make_over
from llmlab.parallel.rows import deal_rows

MakeOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def parameter_server(
    model: nn.Module, make_optimizer: MakeOptimizer, world: Group, servers: int = 1, staleness: int | None = 0
) -> Server | Worker:
    """Make ranks 0 to servers-1 Servers and the others Workers; all begin with rank 0's weights. Edits the model.

    if optimizer.serves: return optimizer.serve()    # a server's part: it ends when every worker has finished
    optimizer.step()                                 # a worker's, after each backward pass
    optimizer.finish()                               # and once, at the end

    A parameter lives whole on one server, so that any optimizer works there; of the others a server's model keeps
    nothing. A gradient that a worker does not have counts as zero. Real ranks want gloo: NCCL does not receive from
    whoever is first.
    """
    instance("parameter_server", "model", model, nn.Module)
    instance("parameter_server", "world", world, Group, "the worker's first argument")
    function("parameter_server", "make_optimizer", make_optimizer, "parameters")
    parameters = [p for p in model.parameters() if p.requires_grad]
    _check(model, parameters, world, servers, staleness)
    _check_alike(parameters, world, servers, staleness)
    model.to(world.device)
    for tensor in [*model.parameters(), *model.buffers()]:
        world.broadcast_(tensor.data, 0)  # .data: a server soon lets go of most of them
    owned = share_out(parameters, servers)
    role: Server | Worker
    if world.rank < servers:
        role = Server(owned[world.rank], make_optimizer, world, servers, staleness)
        for parameter in set(parameters) - set(owned[world.rank]):
            parameter.data = parameter.data.new_empty(0)
    else:
        role = Worker(owned, world)
        deal_rows(model, role.workers)
    vars(model)["server"] = role  # not a submodule, nor anything of the model's state
    return role


def share_out(parameters: list[nn.Parameter], servers: int) -> list[list[nn.Parameter]]:
    """Give each server its parameters: the largest first, always to the one that has least so far."""
    owned: list[list[nn.Parameter]] = [[] for _ in range(servers)]
    held = [0] * servers
    for parameter in sorted(parameters, key=lambda p: p.numel(), reverse=True):
        lightest = held.index(min(held))
        owned[lightest].append(parameter)
        held[lightest] += parameter.numel()
    return owned


class Worker:
    """Computes gradients on a whole model. `workers`: the group of all workers, for shares of a batch and means."""

    serves: ClassVar[bool] = False

    def __init__(self, owned: list[list[nn.Parameter]], world: Group):
        self.owned, self.world, n_server = owned, world, len(owned)
        self.workers = Group(world.members[n_server:], world.rank - n_server, "workers", world.engine)

    def __repr__(self) -> str:
        n = len(self.owned)
        return f"Worker({self.workers.rank} of {self.workers.size}, of {n} server{'s' * (n > 1)})"

    def step(self) -> None:
        """Push the gradients and pull the weights; how long the answer takes is the servers' `staleness`."""
        self._exchange(push=True)

    def zero_grad(self) -> None:
        for parameter in (p for shard in self.owned for p in shard):
            parameter.grad = None

    def finish(self) -> None:
        """Say that no push will follow; wait until all workers have said so, and pull the final weights."""
        self._exchange(push=False)

    def _exchange(self, push: bool) -> None:
        note = torch.tensor([self.world.rank, push], device=self.world.device)  # recv does not say from whom it was
        n, going, coming = len(self.owned), list[Handle](), dict[int, Handle]()
        for server in ((self.workers.rank + i) % n for i in range(n)):  # not all at one: they would wait in turn
            shard = self.owned[server]
            going.append(self.world.isend(note, server))
            if push:
                gradient = flatten([torch.zeros_like(p) if p.grad is None else p.grad for p in shard])
                going.append(self.world.isend(gradient, server))
            coming[server] = self.world.irecv(shard[0].new_empty(sum(p.numel() for p in shard)).detach(), server)
        for handle in going:
            handle.wait()
        for server, handle in coming.items():
            _unflatten(handle.wait(), [p.data for p in self.owned[server]])


class Update(NamedTuple):
    """One push in an update of a server's parameters: the worker's rank in the world and which of its pushes it was.

    staleness: how many updates these parameters had between the worker's pull and this one, which the gradient does
    not know of.
    """

    worker: int
    step: int
    staleness: int


class Server:
    """Holds some parameters and their optimizer's state."""

    serves: ClassVar[bool] = True

    def __init__(
        self,
        parameters: list[nn.Parameter],
        make_optimizer: MakeOptimizer,
        world: Group,
        servers: int,
        staleness: int | None,
    ):
        self.parameters, self.world, self.servers, self.staleness = parameters, world, servers, staleness
        self.optimizer = make_over("parameter_server", make_optimizer, parameters)
        self.total = torch.zeros_like(flatten(parameters))  # of the gradients since the last update
        self.pushed = dict.fromkeys(range(servers, world.size), 0)  # by each worker that has not finished
        self.pulled = dict(self.pushed)  # how many updates the weights that a worker has are made of
        self.waiting: list[int] = []  # for the answer to their pull
        self.arrived: list[int] = []  # whose gradients the total is of
        self.updates: list[Update] = []
        self.n_update = 0
        self.answers: dict[int, Handle] = {}

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.parameters)
        way = {0: "synchronous", None: "asynchronous"}.get(self.staleness, f"at most {self.staleness} steps apart")
        return f"Server({self.world.rank} of {self.servers}: {n} numbers, {way})"

    def serve(self) -> list[Update]:
        """Answer the workers until all have finished; return what each push met, in the order of the updates."""
        finished = list(self.pushed)
        while self.pushed:
            rank, push = self.world.recv(torch.zeros(2, dtype=torch.int64, device=self.world.device)).tolist()
            if push:
                self.take(rank)
            else:
                del self.pushed[rank]
            self.answer([rank for rank in self.waiting if self.may_go_on(rank)])
        self.answer(finished)
        for handle in self.answers.values():
            handle.wait()
        return self.updates

    def take(self, rank: int) -> None:
        """Receive a gradient. A synchronous server only adds it up, in the order of arrival."""
        self.total += self.world.recv(self.total, src=rank)
        self.arrived.append(rank)
        self.waiting.append(rank)
        self.pushed[rank] += 1
        if self.staleness != 0:
            self.update()

    def may_go_on(self, rank: int) -> bool:
        """Is the worker no further ahead of the slowest than it may be?"""
        return self.staleness is None or self.pushed[rank] - min(self.pushed.values()) <= self.staleness

    def update(self) -> None:
        """Step the optimizer with the mean of the gradients that have arrived."""
        for parameter in self.parameters:
            parameter.grad = torch.empty_like(parameter)
        _unflatten(self.total.div_(len(self.arrived)), [p.grad for p in self.parameters if p.grad is not None])
        self.optimizer.step()
        self.optimizer.zero_grad()
        for rank in self.arrived:
            self.updates.append(Update(rank, self.pushed[rank] - 1, self.n_update - self.pulled[rank]))
        self.n_update += 1
        self.total.zero_()
        self.arrived.clear()

    def answer(self, ranks: list[int]) -> None:
        """Begin to send the weights as they are now; the next update does not wait for their arrival."""
        if not ranks:
            return
        if self.arrived:
            self.update()
        weights = flatten(self.parameters)
        for rank in ranks:
            if rank in self.answers:
                self.answers[rank].wait()  # it has pushed since, so it has it
            self.answers[rank] = self.world.isend(weights, rank)
            self.pulled[rank] = self.n_update
        self.waiting = [rank for rank in self.waiting if rank not in ranks]


def flatten(tensors: list[nn.Parameter] | list[Tensor]) -> Tensor:
    """Copy tensors into one, end to end: one message costs one latency."""
    return torch.cat([x.detach().flatten() for x in tensors])


def _unflatten(flat: Tensor, tensors: list[Tensor]) -> None:
    """Copy the pieces back."""
    for x, piece in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
        x.copy_(piece.view_as(x))


def _check(model: nn.Module, parameters: list[nn.Parameter], world: Group, servers: int, staleness: int | None) -> None:
    if isinstance(getattr(model, "server", None), Server | Worker):
        raise ValueError(f"parameter_server wants a model that has no server yet, got one with {model.server}")
    if world.device.type == "meta":
        raise ValueError("parameter_server reads whose gradient came, so it wants values: numerics=True, got False")
    if world.size < 2:
        raise ValueError("parameter_server wants a server and a worker, so at least 2 ranks, got 1")
    whole("parameter_server", "servers (so that a worker is left)", servers, least=1, most=world.size - 1)
    if staleness is not None:
        whole("parameter_server", "staleness (steps, or None)", staleness, least=0)
    if len(parameters) < servers:
        raise ValueError(f"servers={servers} want a trained parameter each, got {len(parameters)}")
    if len({p.dtype for p in parameters}) > 1:
        dtypes = ", ".join(sorted({str(p.dtype) for p in parameters}))
        raise ValueError(
            f"parameter_server sends all of a server's parameters as one tensor of one dtype, got {dtypes}"
        )


def _check_alike(parameters: list[nn.Parameter], world: Group, servers: int, staleness: int | None) -> None:
    """Refuse what differs between ranks, or one would wait for another for ever."""
    asked = [servers, -1 if staleness is None else staleness, sum(p.numel() for p in parameters)]
    everyone = world.all_gather(torch.tensor([asked], device=world.device)).tolist()
    if any(row != everyone[0] for row in everyone):
        said = "; ".join(f"rank {rank}: {row}" for rank, row in enumerate(everyone))
        raise ValueError(f"parameter_server wants the same servers, staleness and model on every rank, got {said}")
