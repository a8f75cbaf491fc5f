"""Unmodified programs of torch's own give over shared memory what they give over gloo, to the bit."""

from __future__ import annotations

import os

import pytest
import torch
import torch.distributed as dist

import llmlab as lab
from llmlab.comm.processes import Processes


@pytest.fixture(scope="module")
def two():
    with Processes(2, timeout_s=120, transport="shared") as live:
        yield live


def on_both(program):
    """Run a program on a group over gloo and on one over shared memory; give what differs."""
    theirs, ours = program(dist.new_group(backend="gloo")), program(dist.new_group(backend="llmlab"))
    assert theirs, "the program gave something to compare"
    return [i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if not a.equal(b)]


def layers(width=24, depth=3):
    torch.manual_seed(1)
    return torch.nn.Sequential(*[torch.nn.Linear(width, width) for _ in range(depth)])


def batch(rank, width=24):
    return torch.randn(5, width, generator=torch.Generator().manual_seed(rank))


@pytest.mark.parametrize("how", ["plain", "views", "hook", "16 bit hook", "no_sync"])
def test_distributed_data_parallel(two, how):
    def worker(world, how):
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
        from torch.nn.parallel import DistributedDataParallel

        def program(group):
            options = {"gradient_as_bucket_view": how == "views", "bucket_cap_mb": 0.002}  # many buckets
            model = DistributedDataParallel(layers(), process_group=group, **options)
            if "hook" in how:
                hook = default_hooks.allreduce_hook if how == "hook" else default_hooks.fp16_compress_hook
                model.register_comm_hook(group, hook)
            for step in range(2):
                if how == "no_sync":
                    with model.no_sync():
                        model(batch(world.rank + 7)).pow(2).sum().backward()
                model(batch(world.rank + 2 * step)).pow(2).sum().backward()
            return [p.grad.clone() for p in model.parameters()]

        return on_both(program)

    assert two.run(worker, how).results == [[], []]


def test_fully_shard_and_tensor_parallel(two):
    def worker(world):
        from torch.distributed.device_mesh import DeviceMesh
        from torch.distributed.fsdp import fully_shard
        from torch.distributed.tensor import DTensor, Shard, distribute_tensor
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        def sharded(group):
            mesh, model = DeviceMesh.from_group(group, "cpu"), layers()
            for layer in model:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(2):
                model(batch(world.rank + 2 * step)).pow(2).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            return [p.full_tensor().detach().clone() for p in model.parameters()]

        def tensor_parallel(group):
            mesh, model = DeviceMesh.from_group(group, "cpu"), layers(depth=2)
            parallelize_module(model, mesh, {"0": ColwiseParallel(), "1": RowwiseParallel()})
            out = model(batch(0))
            out.pow(2).sum().backward()
            again = distribute_tensor(batch(3), mesh, [Shard(0)]).redistribute(mesh, [Shard(1)])
            whole = [p.grad.full_tensor() for p in model.parameters() if isinstance(p.grad, DTensor)]
            return [out.detach(), again.to_local(), again.full_tensor(), *whole]

        return on_both(sharded), on_both(tensor_parallel)

    assert two.run(worker).results == [([], [])] * 2


def test_pipelining_and_functional_collectives(two):
    def worker(world):
        import torch.distributed._functional_collectives as functional
        from torch.distributed.pipelining import PipelineStage, Schedule1F1B

        def pipeline(group):
            model = layers(depth=2)
            part = model[world.rank]
            stage = PipelineStage(part, world.rank, 2, torch.device("cpu"), group=group)
            schedule = Schedule1F1B(stage, 4, loss_fn=lambda out, target: (out - target).pow(2).mean())
            x = torch.randn(8, 24, generator=torch.Generator().manual_seed(9))
            schedule.step(x) if world.rank == 0 else schedule.step(target=torch.zeros(8, 24))
            return [p.grad.clone() for p in part.parameters()]

        def functions(group):
            x = batch(world.rank)[:4]
            got = [functional.all_reduce(x, "sum", group), functional.all_gather_tensor(x, 0, group)]
            got += [functional.reduce_scatter_tensor(x, "sum", 0, group)]
            got += [functional.all_to_all_single(x, [2, 2], [2, 2], group), functional.broadcast(x, 1, group)]
            return [functional.wait_tensor(each) for each in got]

        return on_both(pipeline), on_both(functions)

    assert two.run(worker).results == [([], [])] * 2


def test_a_profile_shows_its_operations_as_it_shows_gloos(two, tmp_path):
    def worker(world, folder):
        from torch.nn.parallel import DistributedDataParallel
        from torch.profiler import ProfilerActivity, profile

        os.environ["KINETO_LOG_LEVEL"] = "99"
        for backend in ("gloo", "llmlab"):
            group = dist.new_group(backend=backend)
            model = DistributedDataParallel(layers(), process_group=group, bucket_cap_mb=0.002)
            model(batch(world.rank)).sum().backward()
            with profile(activities=[ProfilerActivity.CPU]) as recorded:
                model(batch(world.rank)).sum().backward()
                dist.barrier(group)
                sent = dist.isend(torch.ones(3), 1 - world.rank, group=group)
                dist.recv(torch.ones(3), 1 - world.rank, group=group)
                sent.wait()
            recorded.export_chrome_trace(f"{folder}/{backend}{world.rank}.json")

    two.run(worker, tmp_path)
    seen = {}
    for backend in ("gloo", "llmlab"):
        run = lab.read_profile(*(tmp_path / f"{backend}{rank}.json" for rank in range(2)))
        assert all(event.seconds > 0 for event in run.trace.select(stream="comm"))
        seen[backend] = sorted((event.rank, event.op) for event in run.trace.select(stream="comm"))
    assert seen["llmlab"] == seen["gloo"] and (0, "all_reduce") in seen["gloo"]
