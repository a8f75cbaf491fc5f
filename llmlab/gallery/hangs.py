"""Faults that end a job, or hang it: programs of torch.distributed, each with its cure behind `cured`."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel as DDP


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))


def whole_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 8, generator=generator), torch.randn(16, 4, generator=generator)


def skipped_collective(cured: bool = False) -> None:
    """The mean loss is logged where it is finite; on one rank it is not."""
    loss = torch.tensor(float("inf") if dist.get_rank() == 1 else 1.0)
    if cured or loss.isfinite():
        dist.all_reduce(loss.nan_to_num(posinf=0.0))


def unequal_batches(cured: bool = False) -> None:
    """One rank's share of the data has a batch more than the other's."""
    from torch.distributed.algorithms.join import Join

    model = DDP(network())
    x, y = whole_batch()
    batches = range(2 + dist.get_rank())
    with Join([model], enable=cured):
        for _ in batches:
            loss = F.mse_loss(model(x), y)
            loss.backward()


def crossed_groups(cured: bool = False) -> None:
    """Two groups of the same ranks, entered in another order by one of them."""
    data, tensor = dist.new_group([0, 1]), dist.new_group([0, 1])
    order = (data, tensor) if cured or dist.get_rank() == 0 else (tensor, data)
    for group in order:
        dist.all_reduce(torch.ones(4), group=group)


def both_send_first(cured: bool = False) -> None:
    """Neighbours exchange their halves: each sends, then receives, and send waits until it is taken."""
    other = 1 - dist.get_rank()
    mine, theirs = torch.ones(4), torch.empty(4)
    if cured:
        exchange = [dist.P2POp(dist.isend, mine, other), dist.P2POp(dist.irecv, theirs, other)]
        for work in dist.batch_isend_irecv(exchange):
            work.wait()
    else:
        dist.send(mine, other)
        dist.recv(theirs, other)


def saved_by_one_rank(cured: bool = False) -> None:
    """Rank 0 saves the whole model; but to put its shards together is an operation of all ranks."""
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model)
    if cured or dist.get_rank() == 0:
        whole = {name: x.full_tensor() for name, x in model.state_dict().items()}
        assert whole
    dist.barrier()


def last_batch_is_smaller(cured: bool = False) -> None:
    """Scores of all ranks are gathered for a metric; one rank's last batch has fewer rows."""
    scores = torch.ones(4 - dist.get_rank(), 2)
    if cured:
        scores = F.pad(scores, (0, 0, 0, 4 - len(scores)), value=float("nan"))
    gathered = [torch.empty_like(scores) for _ in range(2)]
    dist.all_gather(gathered, scores)


def other_dtype(cured: bool = False) -> None:
    """One rank counts its tokens with len(), the other with a sum of floats."""
    count = torch.tensor(7) if dist.get_rank() == 0 else torch.tensor(9.0)
    dist.all_reduce(count.long() if cured else count)


def read_before_wait(cured: bool = False) -> None:
    """A gradient is reduced in the background, and zeroed for the next step before that has ended."""
    gradient = torch.ones(8)
    work = dist.all_reduce(gradient, async_op=True)
    if cured:
        work.wait()
    gradient.zero_()
    work.wait()


def forgotten_wait(cured: bool = False) -> None:
    """The last reduction is begun and nobody waits for it."""
    work = dist.all_reduce(torch.ones(8), async_op=True)
    if cured:
        work.wait()


def unused_layer(cured: bool = False) -> None:
    """A layer takes part only where its expert is chosen; DDP waits for its gradient."""

    class TwoExperts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(8, 4), nn.Linear(8, 4)])

        def forward(self, x: Tensor) -> Tensor:
            return self.experts[dist.get_rank() % 2](x)

    model = DDP(TwoExperts(), find_unused_parameters=cured)
    x, y = whole_batch()
    for _ in range(2):
        F.mse_loss(model(x), y).backward()
