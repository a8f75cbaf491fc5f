"""Faults that no error tells: the job runs, and trains another model than was meant, or wastes its network.

Each returns what `examine` looks at: what must be the same on every rank, or the same as on one.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP

from llmlab.gallery.hangs import network, whole_batch


def own_rows(*whole: Tensor) -> list[Tensor]:
    """This rank's share of a batch."""
    return [x.chunk(dist.get_world_size())[dist.get_rank()] for x in whole]


def loss_after(model: nn.Module, optimizer: torch.optim.Optimizer) -> Tensor:
    """The loss on the whole batch, after the step."""
    optimizer.step()
    x, y = whole_batch()
    with torch.no_grad():
        return F.mse_loss(model(x), y)


def average_gradients(model: nn.Module, op: Any = dist.ReduceOp.AVG) -> None:
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad, op=op)


def other_seeds(cured: bool = False) -> dict[str, Any]:
    """Each rank seeds itself with its rank, for other dropout; so it draws other weights too."""
    torch.manual_seed(100 + dist.get_rank())
    model = nn.Linear(8, 4)
    if cured:
        for parameter in model.parameters():
            dist.broadcast(parameter.data, 0)
    x, y = own_rows(*whole_batch())
    F.mse_loss(model(x), y).backward()
    average_gradients(model)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return {"same": [p.detach() for p in model.parameters()]}


def summed_gradients(cured: bool = False) -> dict[str, Any]:
    """Gradients of the ranks' mean losses are summed, and nobody divides: the rate grows with the ranks."""
    model, (x, y) = network(), own_rows(*whole_batch())
    F.mse_loss(model(x), y).backward()
    average_gradients(model, dist.ReduceOp.AVG if cured else dist.ReduceOp.SUM)
    return {"answer": loss_after(model, torch.optim.SGD(model.parameters(), lr=0.1))}


def same_data(cured: bool = False) -> dict[str, Any]:
    """A DataLoader without a DistributedSampler: every rank reads the same half of the batch."""
    model, (x, y) = DDP(network()), whole_batch()
    rows = len(x) // dist.get_world_size()
    first = rows * dist.get_rank() if cured else 0
    F.mse_loss(model(x[first : first + rows]), y[first : first + rows]).backward()
    return {"answer": loss_after(model.module, torch.optim.SGD(model.parameters(), lr=0.1))}


def mean_of_means(cured: bool = False) -> dict[str, Any]:
    """Under context parallel the ranks have other numbers of targets; each divides by its own."""
    model, (x, y) = network(), whole_batch()
    counts = torch.arange(16) < 13  # the rest is padding, and has no target
    mine, targets, valid = own_rows(x, y, counts)
    errors = ((model(mine) - targets) ** 2).mean(dim=1)[valid]
    if cured:
        total = valid.sum()
        dist.all_reduce(total)
        (errors.sum() / total * dist.get_world_size()).backward()
    else:
        errors.mean().backward()
    average_gradients(model)
    return {"answer": loss_after(model, torch.optim.SGD(model.parameters(), lr=0.1))}


def clipped_shards(cured: bool = False) -> dict[str, Any]:
    """Each rank clips by the norm of its own shard of the gradient, and not by the norm of all."""
    from torch.distributed.fsdp import fully_shard

    model, (x, y) = network(), own_rows(*whole_batch())
    fully_shard(model)
    F.mse_loss(model(x), y).backward()
    if cured:
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)
    else:
        sharded: Any = [p.grad for p in model.parameters()]
        shards = [gradient.to_local() for gradient in sharded]
        norm = torch.cat([shard.reshape(-1) for shard in shards]).norm()
        for shard in shards:
            shard.mul_((0.05 / norm).clamp(max=1.0))
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    return {"answer": [x.full_tensor() for x in model.state_dict().values()]}


def tied_weight_twice(cured: bool = False) -> dict[str, Any]:
    """A pipeline's first stage has the embedding and its last the head, tied; each trains its own copy."""
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(16, 8))
    ids = torch.randint(0, 16, (4, 6), generator=torch.Generator().manual_seed(1))
    first, last = dist.get_rank() == 0, dist.get_rank() == dist.get_world_size() - 1
    hidden = F.embedding(ids, table if first else table.detach())  # what the first stage sends
    weight = table if last else table.detach()
    F.cross_entropy((hidden @ weight.T).flatten(0, 1), ids.flatten()).backward()
    if cured:
        dist.all_reduce(table.grad)
    torch.optim.SGD([table], lr=1.0).step()
    return {"same": table.detach(), "answer": table.detach()}


def forgotten_no_sync(cured: bool = False) -> dict[str, Any]:
    """Gradients of four micro-batches are added up, and reduced after every one of them."""
    model, (x, y) = DDP(network()), own_rows(*whole_batch())
    parts = list(zip(x.chunk(4), y.chunk(4), strict=True))
    for number, (a, b) in enumerate(parts):
        with model.no_sync() if cured and number < 3 else nullcontext():
            (F.mse_loss(model(a), b) / 4).backward()
    nbytes = sum(p.numel() * p.element_size() for p in model.parameters())
    answer = loss_after(model.module, torch.optim.SGD(model.parameters(), lr=0.1))
    return {"answer": answer, "gradient_bytes": nbytes, "reductions": 1}
