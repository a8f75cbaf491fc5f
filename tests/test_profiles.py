"""torch.profiler's traces as runs: of a real step of two gloo ranks, rank 1 with twice the rows, and GPUs' by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import llmlab as lab
from llmlab.diagnosing import CAUSES, time_spent, utilization, within
from llmlab.profiles import PRODUCTS, read_profile

RECORDED = Path(__file__).parent / "profiles"
GLOO = [RECORDED / f"gloo_rank{rank}.json.gz" for rank in (0, 1)]


def row(kind: str, name: str, start: float, dur: float, **args: object) -> dict:
    return {"ph": "X", "cat": kind, "name": name, "pid": 0, "tid": 7, "ts": start * 1e6, "dur": dur * 1e6, "args": args}


def gpu_file(folder: Path, rank: int, rows: list[dict], ahead: float = 0.0) -> Path:
    """A profile of one GPU, whose clock is `ahead` by so many seconds, with a line that is no event of a duration."""
    moved = [{**each, "ts": each["ts"] + ahead * 1e6} for each in rows]
    profile = {
        "schemaVersion": 1, "deviceProperties": [{"name": "NVIDIA H100"}],
        "distributedInfo": {"backend": "nccl", "rank": rank, "world_size": 2},
        "traceEvents": [{"ph": "M", "name": "process_name", "pid": 0, "args": {}}, *moved],
    }  # fmt: skip
    path = folder / f"rank{rank}.json"
    path.write_text(json.dumps(profile))
    return path


NCCL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
SUMMED = {"Collective name": "allreduce", "In msg nelems": 1000, "dtype": "BFloat16", "Process Group Description": "dp"}


def two_gpus(folder: Path, ahead: float = 0.0) -> list[Path]:
    """Rank 0 computes for 3 s and waits for rank 1, which does for 5; then the sum takes 1 s, and a kernel 1 s."""
    files = []
    for rank, busy in enumerate((3, 5)):
        rows = [
            row("cpu_op", "aten::mm", 0, 9),  # the host runs ahead: it is not what the device does
            row("gpu_user_annotation", "step", 0, 8),
            row("kernel", "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_TNT", 0, busy - 1),
            row("kernel", "void at::native::vectorized_elementwise_kernel<4, at::native::GeluFunctor>", busy - 1, 1),
            row("kernel", NCCL, busy, 6 - busy, **SUMMED),
            row("kernel", "multi_tensor_apply_kernel", 6, 1),
            row("kernel", "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n", 7.5, 0.5),
        ]
        files.append(gpu_file(folder, rank, rows, ahead * rank))
    return files


@pytest.mark.parametrize("ahead", [0.0, 1234.5])
def test_kernels_of_gpus_are_sorted_by_cause_whatever_each_clock_says(tmp_path, ahead):
    run = read_profile(*two_gpus(tmp_path, ahead))
    spent = time_spent(run)
    seconds = [[pytest.approx(spent.ranks[rank][cause], abs=1e-6) for cause in CAUSES] for rank in (0, 1)]
    assert seconds == [[2.5, 2, 1, 2, 0.5], [4.5, 2, 1, 0, 0.5]]
    assert run.clock == "wall" and run.hardware == "2 x NVIDIA H100" and run.ranks == 2
    assert run.trace.comm_bytes(0, op="all_reduce", axis="dp") == 2000
    assert within(run, "step").seconds == pytest.approx(8, abs=1e-6)


def test_one_ranks_file_cannot_tell_waiting_from_moving(tmp_path):
    spent = time_spent(read_profile(two_gpus(tmp_path)[0]))
    assert spent.ranks[0]["communication"] == pytest.approx(3) and spent.ranks[0]["waiting"] == 0


def test_the_mfu_of_a_profile_counts_all_that_was_done_as_useful(tmp_path):
    spent = time_spent(read_profile(*two_gpus(tmp_path)))
    used = utilization(spent, 7 * 989.4e12, "h100")  # 7 s of the peak, of 2 x 8 s
    assert used.products == pytest.approx(7 / 16, rel=1e-6) and used.useful == 1
    assert used.mfu == pytest.approx(7 / 16, rel=0.01)


def test_a_real_step_of_two_processes_names_the_rank_that_all_wait_for():
    run = read_profile(*GLOO)
    spent = time_spent(within(run, "step"))
    for by_cause in spent.ranks.values():
        assert sum(by_cause.values()) == pytest.approx(spent.seconds, rel=1e-9)
    assert spent.share("waiting", 0) > 0.1 > 0.05 > spent.share("waiting", 1)  # rank 1 has twice the rows
    assert spent.share("matrix products", 1) > 1.3 * spent.share("matrix products", 0)
    assert len(run.trace.select(rank=0, op="all_reduce")) == 4  # its buckets


def test_ours_comes_back_as_it_was_written(tmp_path):
    def worker(world):
        x = torch.ones(64, 64) @ torch.ones(64, 64)
        world.all_reduce(x if world.rank else x @ x)

    run = lab.Simulator(2).run(worker)
    assert read_profile(run.trace.to_chrome(tmp_path / "ours.json")).clock == "virtual"
    read = read_profile(run.trace.to_chrome(tmp_path / "ours.json"))
    before, after = time_spent(run), time_spent(read)
    for cause in CAUSES:
        assert after.share(cause) == pytest.approx(before.share(cause), rel=1e-6)
    with pytest.raises(ValueError, match="holds all ranks: give it alone; got 2 files"):
        read_profile(tmp_path / "ours.json", GLOO[0])


NAMES = "aten::mm aten::addmm aten::baddbmm ampere_sgemm_128x64_nn Cijk_Ailk_Bljk_BBS flash_fwd_kernel triton_mm"


@pytest.mark.parametrize("name", NAMES.split())
def test_matrix_products_are_known_by_their_names(name):
    assert PRODUCTS.search(name)


OTHERS = "aten::mul vectorized_elementwise_kernel aten::sum aten::native_layer_norm triton_poi_fused_add_0 Memcpy"


@pytest.mark.parametrize("name", OTHERS.split())
def test_and_other_kernels_are_not(name):
    assert not PRODUCTS.search(name)


def test_what_is_no_profile_is_refused_with_its_name(tmp_path):
    bad = tmp_path / "bad.json"
    for text in ("", "not json", "{}", '{"traceEvents": 3}', "[1"):
        bad.write_text(text)
        with pytest.raises(ValueError, match="Chrome trace.*bad.json"):
            read_profile(bad)
    with pytest.raises(ValueError, match="missing.json"):
        read_profile(tmp_path / "missing.json")
    bad.write_text('{"traceEvents": []}')
    with pytest.raises(ValueError, match="wants kernels or operations; got none"):
        read_profile(bad)
    with pytest.raises(ValueError, match="one of each rank; got none"):
        read_profile()
    with pytest.raises(ValueError, match="one file of each rank; got two of rank 0"):
        read_profile(GLOO[0], GLOO[0])


def test_a_run_of_processes_is_told_to_be_profiled():
    measured = lab.comm.trace.Trace((lab.Event(0, "comm", "all_reduce", "world", 8, 0, 0.0, 1.0),), "wall", "here")
    run = lab.Run([None], 1.0, "wall", measured, [], [])
    with pytest.raises(ValueError, match="without kernels: profile the step .* read_profile"):
        time_spent(run)
