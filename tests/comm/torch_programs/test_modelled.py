"""What a torch program costs on a modelled cluster: overlap, memory by category, and the same without numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import llmlab as lab
from tests.comm.torch_programs import programs
from tests.comm.torch_programs.programs import PROGRAMS

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, of its deprecated names

WITHOUT_VALUES = [
    "ddp", "ddp_small_buckets", "fsdp2", "hsdp", "tensor_parallel_and_fsdp2", "functional_collectives", "Schedule1F1B",
    "ScheduleInterleaved1F1B",
]  # fmt: skip


def traffic(run: lab.Run) -> dict[tuple[str, str], int]:
    """Bytes of rank 1 by operation and axis. DDP's buckets are others: its first step's order is learnt from values."""
    mine = run.trace.select(rank=1, stream="comm")
    found = {(e.op, e.axis): run.trace.comm_bytes(rank=1, op=e.op, axis=e.axis) for e in mine}
    return {key: nbytes for key, nbytes in found.items() if nbytes}


@pytest.mark.parametrize("name", WITHOUT_VALUES)
def test_without_numerics_a_program_communicates_what_it_does_with_them(name: str) -> None:
    with_numbers, without = (
        lab.Simulator(ranks=2, numerics=numerics).run_torch(PROGRAMS[name]) for numerics in (True, False)
    )
    expected = traffic(with_numbers)
    if name.startswith("ddp"):
        del expected["all_gather", "world"]  # a check of values
    assert {key: nbytes for key, nbytes in traffic(without).items() if key in expected} == expected
    assert expected


def wide(width: int, layers: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))


def fully_sharded(width: int = 512, layers: int = 4, tokens: int = 64) -> int:
    from torch.distributed.fsdp import fully_shard

    model = wide(width, layers)
    for layer in model:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        model(torch.ones(tokens, width)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return sum(p.numel() for p in model.parameters())


def test_fully_sharded_memory_is_the_theorys_on_64_folded_ranks() -> None:
    simulator = lab.Simulator(ranks=64, cluster="h100", numerics=False, fold=("world",))
    run = simulator.run_torch(fully_sharded)
    n, memory = run.results[0], run.memory[5]
    assert memory.at_peak["parameters"] == pytest.approx(4 * n / 64, rel=0.1)  # fp32
    assert memory.peaks["gradients"] == pytest.approx(4 * n / 64, rel=0.1)
    assert memory.peaks["optimizer state"] == pytest.approx(8 * n / 64, rel=0.1)  # two moments


def test_gathered_weights_are_held_only_while_they_are_used() -> None:
    run = lab.Simulator(ranks=4, numerics=False).run_torch(fully_sharded)
    layer = 4 * (512 * 512 + 512)
    held = run.memory[0].peaks["communication"]
    # forward: this layer's and the next's weights, each once gathered flat and once copied out; backward adds the
    # flat gradients. All four layers, gathered and copied, would be 8
    assert 2 * layer <= held < 6 * layer


def test_prefetched_weights_arrive_while_the_layer_before_computes() -> None:
    run = lab.Simulator(ranks=4, numerics=False).run_torch(fully_sharded, 512, 6, 4096)
    communicates, exposed = run.trace.busy(0, "comm"), run.trace.exposed(0)
    assert exposed < 0.7 * communicates


def test_buckets_are_reduced_while_backward_goes_on() -> None:
    def worker(bucket_mb: float) -> None:
        model = nn.parallel.DistributedDataParallel(wide(256, 6), bucket_cap_mb=bucket_mb)
        model(torch.ones(2048, 256)).sum().backward()

    one, many = (lab.Simulator(ranks=4, numerics=False).run_torch(worker, mb) for mb in (25, 0.2))
    reduced = [sum(e.op == "all_reduce" for e in run.trace.select(rank=0, stream="comm")) for run in (one, many)]
    assert reduced[0] < reduced[1]
    assert many.seconds < one.seconds


def test_folded_ranks_take_the_time_of_all_of_them() -> None:
    whole, folded = (
        lab.Simulator(ranks=8, cluster="h100", numerics=False, fold=fold).run_torch(fully_sharded)
        for fold in ((), ("world",))
    )
    assert folded.seconds == pytest.approx(whole.seconds, rel=1e-9)


def attend(rotate: str) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.experimental import context_parallel
    from torch.distributed.tensor.experimental._attention import context_parallel_unshard, set_rotate_method

    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("cp",))
    set_rotate_method(rotate)
    tensors = query_key_value_weight()
    with context_parallel(mesh, buffers=tensors, buffer_seq_dims=[2] * 4, no_restore_buffers=set(tensors)):
        q, k, v = (x.requires_grad_() for x in tensors[:3])
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        (out * tensors[3]).sum().backward()
        return context_parallel_unshard(mesh, [out.detach(), q.grad, k.grad, v.grad], [2] * 4)


def query_key_value_weight() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 2, 32, 8, generator=generator) for _ in range(4)]


@pytest.mark.parametrize("rotate", ["allgather", "alltoall"])
def test_context_parallel_attends_as_one_process(rotate: str) -> None:
    q, k, v, weight = query_key_value_weight()
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    (out * weight).sum().backward()
    run = lab.Simulator(ranks=4).run_torch(attend, rotate)
    for found, wanted in zip(run.results[2], (out.detach(), q.grad, k.grad, v.grad), strict=True):
        assert wanted is not None
        assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()))  # fp32, sums of 32 terms
    assert run.trace.comm_bytes(rank=0, axis="world") > 0  # a mesh of all ranks is torch's default group
    assert sum(e.op == "attention" for e in run.trace.select(rank=0)) == 4  # one step for each rank's keys


@pytest.mark.parametrize("numerics", [True, False])
def test_attention_that_a_checkpoint_does_again_is_one_kernel_again(numerics: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    def worker() -> None:
        x = torch.ones(1, 2, 8, 4, requires_grad=True)
        checkpoint(lambda y: F.scaled_dot_product_attention(y, y, y), x, use_reentrant=False).sum().backward()

    run = lab.Simulator(ranks=1, numerics=numerics).run_torch(worker)
    kernels = [e.op for e in run.trace if e.stream == "compute" and "attention" in e.op]
    assert kernels == ["attention", "attention", "attention_backward"]


def test_a_programs_cpu_is_where_its_tensors_are() -> None:
    def worker() -> Any:
        device = torch.device("cpu")
        model = nn.Linear(4, 2).to(device)
        x = torch.ones(3, 4, device="cpu")
        return model(x).device.type, x.to("cpu").to(torch.float64).dtype, torch.ones(2).to(device=device).device.type

    run = lab.Simulator(ranks=2, numerics=False).run_torch(worker)
    assert run.results[1] == ("meta", torch.float64, "meta")


def test_a_program_may_draw_with_a_generator_of_its_own_where_there_are_no_values() -> None:
    run = lab.Simulator(ranks=2, numerics=False).run_torch(lambda: programs.batch()[0].device.type)
    assert run.results == ["meta", "meta"]
