"""Small programs of torch.distributed for two ranks: each runs on real processes with gloo and on simulated ranks.

They know nothing of llmlab. What each returns is compared to the bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel as DDP

WIDTH, CLASSES, BATCH = 12, 6, 8
PROGRAMS: dict[str, Callable[[], Any]] = {}


def program(function: Callable[[], Any]) -> Callable[[], Any]:
    PROGRAMS[function.__name__] = function
    return function


# --- torch.distributed ------------------------------------------------------------------------------------------------


@program
def collectives() -> Any:
    me, n = dist.get_rank(), dist.get_world_size()
    summed, largest, product = (torch.arange(3.0) + me + 1 for _ in range(3))
    dist.all_reduce(summed)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    dist.all_reduce(product, op=dist.ReduceOp.PRODUCT)
    listed = [torch.empty(2) for _ in range(n)]
    dist.all_gather(listed, torch.full((2,), float(me)))
    gathered, scattered, exchanged = torch.empty(2 * n, 2), torch.empty(1, 2), torch.empty(n)
    dist.all_gather_single(gathered, torch.full((2, 2), float(me)))
    dist.reduce_scatter_single(scattered, torch.arange(2.0 * n).reshape(n, 2) + me)
    dist.all_to_all_single(exchanged, torch.arange(float(n)) + 10 * me)
    given = torch.full((2,), float(me))
    dist.broadcast(given, 1)
    reduced = torch.full((2,), float(me + 1))
    dist.reduce(reduced, 1)
    at_root = [torch.empty(2) for _ in range(n)] if me == 0 else None
    dist.gather(torch.full((2,), float(me)), at_root, 0)
    dealt = torch.empty(1)
    dist.scatter(dealt, [torch.full((1,), 5.0 + i) for i in range(n)] if me == 1 else None, 1)
    uneven = torch.empty(3 + 2 * me)
    dist.all_to_all_single(
        uneven, torch.arange(4.0) + 10 * me, [1, 2] if me == 0 else [3, 2], [1, 3] if me == 0 else [2, 2]
    )
    dist.barrier()
    kept = reduced if me == 1 else None
    return summed, largest, product, listed, gathered, scattered, exchanged, given, kept, at_root, dealt, uneven


@program
def objects() -> Any:
    me, n = dist.get_rank(), dist.get_world_size()
    gathered: list[Any] = [None] * n
    dist.all_gather_object(gathered, {"rank": me, "text": "x" * (3 + 5 * me)})
    spoken = [{"from": 0}, (1, 2)] if me == 0 else [None, None]
    dist.broadcast_object_list(spoken, 0)
    mine: list[Any] = [None]
    dist.scatter_object_list(mine, ["for 0", {"for": 1}] if me == 0 else None, 0)
    at_root: Any = [None] * n if me == 1 else None
    dist.gather_object(me * 10, at_root, 1)
    return gathered, spoken, mine, at_root


@program
def messages() -> Any:
    me, other = dist.get_rank(), 1 - dist.get_rank()
    first, second, flat = torch.zeros(2), torch.zeros(2), torch.zeros(6)
    if me == 0:
        late = dist.isend(torch.full((2,), 7.0), 1, tag=7)
        dist.send(torch.full((2,), 9.0), 1, tag=9)
        late.wait()
        dist.send(torch.arange(6.0).reshape(2, 3), 1)
        source = None
    else:
        dist.recv(first, 0, tag=9)  # tags match, not the order
        dist.recv(second, 0, tag=7)
        source = dist.recv(flat)  # from any rank, into another shape
    given, taken = torch.full((2,), float(me)), torch.empty(2)
    for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, given, other), dist.P2POp(dist.irecv, taken, other)]):
        work.wait()
    return first, second, flat, source, taken


@program
def later() -> Any:
    me = dist.get_rank()
    x = torch.full((3,), float(me + 1))
    work = dist.all_reduce(x, async_op=True)
    while not work.is_completed():
        pass
    work.wait()
    future = dist.all_reduce(torch.full((2,), me + 1.0), async_op=True).get_future()
    tenfold = future.then(lambda done: done.value()[0] * 10).wait()
    a, b = torch.full((2,), float(me)), torch.full((3,), 2.0 * me)
    with dist._coalescing_manager(async_ops=True) as together:
        dist.all_reduce(a)
        dist.all_reduce(b)
    together.wait()
    return x, tenfold, a, b


@program
def groups() -> Any:
    me = dist.get_rank()
    both, alone = dist.new_group([0, 1]), dist.new_group([1])
    x, y = torch.ones(2) * (me + 1), torch.ones(2) * (me + 1)
    dist.all_reduce(x, group=both)
    if me == 1:
        dist.all_reduce(y, group=alone)
    mine, _ = dist.new_subgroups(1)
    store = dist.distributed_c10d._get_default_store()
    if me == 0:
        store.set("word", "hello")
    word, count = store.get("word"), store.add("count", 0)
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("a", "b"))
    return x, y, mine.size(), word, count, mesh["b"].get_local_rank(), dist.get_process_group_ranks(both)


# --- data parallel ----------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES))


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(BATCH, WIDTH, generator=generator), torch.randn(BATCH, CLASSES, generator=generator)
    return x.chunk(2)[dist.get_rank()], y.chunk(2)[dist.get_rank()]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> list[Tensor]:
    x, y = batch()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def whole(x: Tensor) -> Tensor:
    return (x.full_tensor() if isinstance(x, DTensor) else x).detach()


def ddp_with(**options: Any) -> Any:
    model = DDP(network(), **options)
    losses = train(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    return losses, [p.detach() for p in model.parameters()]


@program
def ddp() -> Any:
    return ddp_with()


@program
def ddp_small_buckets() -> Any:
    return ddp_with(bucket_cap_mb=0.0005, gradient_as_bucket_view=True)


@program
def ddp_static_graph() -> Any:
    return ddp_with(static_graph=True)


@program
def ddp_unused_parameters() -> Any:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    torch.manual_seed(0)
    model = DDP(Skips(), find_unused_parameters=True)
    return train(model, torch.optim.SGD(model.parameters(), lr=0.1)), [p.detach() for p in model.parameters()]


@program
def ddp_no_sync_then_sync() -> Any:
    model, (x, y) = DDP(network()), batch()
    with model.no_sync():
        F.mse_loss(model(x), y).backward()
    alone = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    F.mse_loss(model(x), y).backward()
    return alone, [p.grad for p in model.parameters()]


def ddp_hooked(state: Any, hook: Any, bucket_mb: float = 25) -> Any:
    model = DDP(network(), bucket_cap_mb=bucket_mb)
    model.register_comm_hook(state, hook)
    return train(model, torch.optim.SGD(model.parameters(), lr=0.1), 3), [p.detach() for p in model.parameters()]


@program
def ddp_fp16_hook() -> Any:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    return ddp_hooked(None, default_hooks.fp16_compress_hook, bucket_mb=0.001)


@program
def ddp_powersgd() -> Any:
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as powersgd

    state = powersgd.PowerSGDState(None, matrix_approximation_rank=2, start_powerSGD_iter=2)
    return ddp_hooked(state, powersgd.powerSGD_hook)


@program
def ddp_join() -> Any:
    from torch.distributed.algorithms.join import Join

    model, (x, y) = DDP(network()), batch()
    with Join([model]):
        for _ in range(1 + dist.get_rank()):
            model.zero_grad()
            F.mse_loss(model(x), y).backward()
    return [p.grad for p in model.parameters()]


@program
def zero_redundancy_optimizer() -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = DDP(network())
    losses = train(model, ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-2))
    return losses, [p.detach() for p in model.parameters()]


@program
def ddp_checkpointed() -> Any:
    from torch.utils.checkpoint import checkpoint

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=False)

    model = DDP(Again())
    return train(model, torch.optim.SGD(model.parameters(), lr=0.1)), [p.grad for p in model.parameters()]


# --- fully sharded ----------------------------------------------------------------------------------------------------


def sharded(shape: tuple[int, ...] = (2,), **options: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    model = network()
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options)


def train_sharded(model: nn.Module) -> Any:
    losses = train(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    return losses, [whole(p) for p in model.parameters()], whole(norm)


@program
def fsdp2() -> Any:
    return train_sharded(sharded())


@program
def fsdp2_keeps_gathered() -> Any:
    return train_sharded(sharded(reshard_after_forward=False))


@program
def hsdp() -> Any:
    return train_sharded(sharded((2, 1)))


@program
def fsdp1() -> Any:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(network(), device_id=torch.device("cpu"))
    return train(model, torch.optim.AdamW(model.parameters(), lr=1e-2)), [p.detach() for p in model.parameters()]


@program
def distributed_checkpoint() -> Any:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    model = sharded()
    where = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(where, 0)
    before = whole(model[0].weight).clone()
    state = {"model": get_model_state_dict(model)}
    dcp.save(state, checkpoint_id=where[0])
    with torch.no_grad():
        model[0].weight.zero_()
    dcp.load(state, checkpoint_id=where[0])
    return before, whole(model[0].weight), len(list(Path(str(where[0])).iterdir()))


# --- DTensor and tensor parallel --------------------------------------------------------------------------------------


@program
def dtensor() -> Any:
    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    a, b = torch.randn(4, 6), torch.randn(6, 4)
    product = distribute_tensor(a, mesh, [Shard(1)]) @ distribute_tensor(b, mesh, [Shard(0)])
    rows = product.redistribute(placements=[Shard(0)])
    turned = rows.redistribute(placements=[Shard(1)])
    return rows.to_local(), turned.to_local(), product.full_tensor(), (rows.sum() * 2).full_tensor()


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Embedding(16, WIDTH), Block(), nn.Linear(WIDTH, 16)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.block(self.embed(ids)))


def tensor_parallel(plan: dict[str, Any], split_loss: bool = False, shard: bool = False) -> Any:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    mesh = init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp", "tp"))
    model = parallelize_module(Small(), mesh["tp"], plan)
    if shard:
        fully_shard(model, mesh=mesh["dp"])
    ids = torch.randint(0, 16, (2, 8), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        if split_loss:
            with loss_parallel():
                loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
                loss.backward()
        else:
            loss = F.cross_entropy(model(ids).flatten(0, 1), ids.flatten())
            loss.backward()
        optimizer.step()
        losses.append(whole(loss))
    return losses, [whole(p) for p in model.parameters()]


MEGATRON = {"block.up": ColwiseParallel, "block.down": RowwiseParallel}


@program
def tensor_parallel_and_fsdp2() -> Any:
    return tensor_parallel({name: style() for name, style in MEGATRON.items()}, shard=True)


@program
def sequence_parallel_and_loss_parallel() -> Any:
    rows = Shard(1)
    plan = {
        "embed": RowwiseParallel(input_layouts=Replicate(), output_layouts=rows, use_local_output=False),
        "block.norm": SequenceParallel(),
        "block.up": ColwiseParallel(input_layouts=rows),
        "block.down": RowwiseParallel(output_layouts=rows, use_local_output=False),
        "head": ColwiseParallel(input_layouts=rows, output_layouts=Shard(-1), use_local_output=False),
    }
    return tensor_parallel(plan, split_loss=True)


@program
def functional_collectives() -> Any:
    me, n, world = dist.get_rank(), dist.get_world_size(), dist.group.WORLD
    x = torch.full((4,), me + 1.0)
    values = [
        functional.all_reduce(x, "sum", world) + 0,
        functional.all_gather_tensor(x, 0, world) * 1,
        functional.reduce_scatter_tensor(torch.arange(4.0 * n) + me, "sum", 0, world) * 1,
        functional.all_to_all_single(torch.arange(float(n)) + 10 * me, None, None, world) * 1,
        functional.broadcast(x, 1, world) * 1,
    ]
    z = torch.ones(3, requires_grad=True)
    y = functional.all_gather_tensor_autograd(z * (me + 1), 0, world)
    (y.sum() * (me + 1)).backward()
    return values, z.grad


# --- pipelines --------------------------------------------------------------------------------------------------------


def pipeline(schedule: str, stages_per_rank: int, folded: bool = False) -> Any:
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining import schedules as known

    me, n, microbatches = dist.get_rank(), dist.get_world_size(), 4
    total = n * stages_per_rank
    mine = [me, total - 1 - me] if folded else [me + i * n for i in range(stages_per_rank)]
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(total)]
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(BATCH, WIDTH, generator=generator) for _ in range(2))
    stages = [PipelineStage(layers[i], i, total, torch.device("cpu")) for i in mine]
    run = getattr(known, schedule)(stages[0] if stages_per_rank == 1 else stages, microbatches, loss_fn=F.mse_loss)
    losses: list[Tensor] = []
    run.step(*((x,) if 0 in mine else ()), **({"target": y, "losses": losses} if total - 1 in mine else {}))
    return [loss.detach() for loss in losses], {i: [p.grad for p in layers[i].parameters()] for i in mine}


for _name, _stages, _folded in (
    ("ScheduleGPipe", 1, False), ("Schedule1F1B", 1, False), ("ScheduleInterleaved1F1B", 2, False),
    ("ScheduleLoopedBFS", 2, False), ("ScheduleInterleavedZeroBubble", 2, False), ("ScheduleZBVZeroBubble", 2, True),
    ("ScheduleDualPipeV", 2, True),
):  # fmt: skip
    PROGRAMS[_name] = lambda args=(_name, _stages, _folded): pipeline(*args)  # type: ignore[misc]
