"""The real-process engine: every operation by its definition, the trace, the output, live and fresh ranks."""

from __future__ import annotations

import math
import random

import numpy
import pytest
import torch

from llmlab.comm.mesh import Mesh
from llmlab.comm.processes import Processes

DTYPES = [
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.uint8,
]
SHAPES = [(1,), (5,), (3, 7), (0,), (2, 0, 3), ()]


@pytest.fixture(scope="module")
def two():
    with Processes(2, timeout_s=30) as ranks:
        yield ranks


@pytest.fixture(scope="module", params=[1, 3, 4])
def some(request):
    with Processes(request.param, timeout_s=60) as ranks:
        yield ranks


def test_every_reduction_equals_its_definition_for_every_dtype_and_shape(some):
    def worker(world, dtypes, shapes):
        def part(rank, shape, dtype):
            x = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(rank))
            return x.to(dtype)

        def expected(parts, op):
            wide = torch.stack([p.double() for p in parts])
            total = {
                "sum": wide.sum(0),
                "avg": wide.mean(0),
                "prod": wide.prod(0),
                "max": wide.amax(0),
                "min": wide.amin(0),
            }
            return total[op].to(parts[0].dtype)

        wrong = []
        for dtype in dtypes:
            for shape in shapes:
                ops = ["sum", "prod", "max", "min"] + (["avg"] if dtype.is_floating_point else [])
                for op in ops:
                    parts = [part(r, shape, dtype) for r in range(world.size)]
                    want, x = expected(parts, op), parts[world.rank]
                    kept = x.clone()
                    got = [world.all_reduce(x, op), world.reduce(x, world.size - 1, op)]
                    same_input = torch.equal(x, kept)
                    got.append(world.all_reduce_(x, op))
                    got[1] = got[1] if world.rank == world.size - 1 else want
                    if (
                        not same_input
                        or got[2] is not x
                        or any(g.dtype != dtype or not torch.equal(g, want) for g in got)
                    ):
                        wrong.append((dtype, shape, op, want, got))
                    if shape and shape[0] % world.size == 0:
                        mine = want.chunk(world.size)[world.rank] if shape[0] else want
                        scattered = world.reduce_scatter(part(world.rank, shape, dtype), op)
                        if not torch.equal(scattered, mine):
                            wrong.append(("reduce_scatter", dtype, shape, op))
        return wrong

    shapes = [(5,), (some.ranks * 3, 2), (2, 0, 3), ()]
    assert some.run(worker, DTYPES, shapes).results == [[]] * some.ranks


def test_a_sum_of_16_bit_numbers_is_rounded_once():
    def worker(world):
        sums = []
        for large in range(world.size):  # 256 + 1 rounds to 256, wherever in the order it comes
            x = torch.tensor([256.0 if world.rank == large else 1.0], dtype=torch.bfloat16)
            sums += [world.all_reduce(x).item(), world.reduce_scatter(x.repeat(3)).item()]
        return sums

    assert Processes(3).run(worker).results == [[258] * 6] * 3


def test_bool_reductions_are_logical(two):
    def worker(world):
        x = torch.tensor([True, True, False]) if world.rank == 0 else torch.tensor([True, False, False])
        return {op: world.all_reduce(x, op).tolist() for op in ("sum", "prod", "max", "min")}

    either, both = [True, True, False], [True, False, False]
    assert two.run(worker).results == [{"sum": either, "prod": both, "max": either, "min": both}] * 2


def test_complex_numbers_add_and_anything_else_is_refused(two):
    def worker(world):
        x = torch.tensor([1 + 2j, 3 - 1j]).conj() * (world.rank + 1)
        return world.all_reduce(x), world.reduce_scatter(x, "avg"), world.all_gather(x)

    total, part, _ = two.run(worker).results[1]
    assert torch.equal(total, torch.tensor([3 - 6j, 9 + 3j]))
    assert torch.equal(part, torch.tensor([4.5 + 1.5j]))
    with pytest.raises(ValueError, match="wants op='sum' or 'avg', got 'max'"):
        two.run(lambda world: world.all_reduce(torch.ones(2, dtype=torch.complex64), "max"))


@pytest.mark.parametrize("op", ["all_reduce", "reduce_scatter"])
def test_dtypes_that_cannot_be_added_are_refused_by_name(two, op):
    with pytest.raises(
        ValueError, match=f"^rank 0: ValueError: {op} wants complex numbers or one of .*; got torch.uint16"
    ):
        two.run(lambda world: getattr(world, op)(torch.ones(2, dtype=torch.uint16)))


def test_what_moves_data_moves_every_dtype_and_shape_unchanged(some):
    def worker(world, dtypes, shapes):
        def part(rank, shape, dtype):
            return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(7 * rank)).to(dtype)

        wrong = []
        last = world.size - 1
        for dtype in [*dtypes, torch.bool, torch.complex64]:
            for shape in shapes:
                parts = [part(r, shape, dtype) for r in range(world.size)]
                x = parts[world.rank]
                pairs = {"broadcast": (world.broadcast(x, last), parts[last])}
                if shape:
                    whole = torch.cat(parts)
                    pairs["all_gather"] = (world.all_gather(x), whole)
                    gathered = world.gather(x, last)
                    pairs["gather"] = (
                        (gathered, whole)
                        if world.rank == last
                        else (torch.tensor(gathered is None), torch.tensor(True))
                    )
                    scattered = world.scatter(whole if world.rank == last else None, last)
                    pairs["scatter"] = (scattered, x)
                in_place = x.clone()
                pairs["broadcast_"] = (world.broadcast_(in_place, last), parts[last])
                for name, (got, want) in pairs.items():
                    if got.shape != want.shape or got.dtype != want.dtype or not torch.equal(got, want):
                        wrong.append((name, dtype, shape))
                if not torch.equal(x, part(world.rank, shape, dtype)):
                    wrong.append(("input", dtype, shape))
        return wrong

    assert some.run(worker, DTYPES, SHAPES).results == [[]] * some.ranks


def test_eight_ranks_add_and_exchange():
    def worker(world):
        total = world.all_reduce(torch.arange(5.0) + world.rank)
        got = world.all_to_all([torch.full((i + world.rank,), 10 * world.rank + i) for i in range(world.size)])
        return total.tolist(), [x.tolist() for x in got]

    results = Processes(8).run(worker).results
    for rank, (total, got) in enumerate(results):
        assert total == [8 * i + 28 for i in range(5)]
        assert got == [[10 * source + rank] * (rank + source) for source in range(8)]


def test_all_to_all_takes_tensors_of_any_shape_for_each_rank(some):
    def worker(world):
        mine = [torch.full((world.rank, i + 1), float(10 * world.rank + i)).T for i in range(world.size)]
        return world.all_to_all(mine)

    for rank, got in enumerate(some.run(worker).results):
        for source, x in enumerate(got):
            assert x.shape == (rank + 1, source)
            assert (x == 10 * source + rank).all()


def test_non_contiguous_inputs_and_outputs_work(two):
    def worker(world):
        base = torch.arange(24.0).view(4, 6) + 100 * world.rank
        x = base.T[::2]  # [3, 4], strides (2, 6)
        gathered, total = world.all_gather(x), world.all_reduce(x)
        out = torch.zeros(4, 6).T[:, :4]
        world.all_gather_into_tensor(out, x.reshape(3, 4))
        part = torch.zeros(4, 2).T[0]
        world.reduce_scatter_tensor(part, torch.arange(16.0).view(2, 8)[:, ::1].reshape(-1)[:8])
        world.all_reduce_(x)
        sent = world.broadcast_(base.T, 1)
        return gathered, total, out, part, base, sent

    first = torch.arange(24.0).view(4, 6)
    x = first.T[::2]
    for rank, (gathered, total, out, part, base, sent) in enumerate(two.run(worker).results):
        assert torch.equal(gathered, torch.cat([x, x + 100]))
        assert torch.equal(total, 2 * x + 100)
        assert torch.equal(out, gathered)
        assert torch.equal(part, 2 * torch.arange(8.0)[4 * rank : 4 * rank + 4])
        want = first + 100
        want.T[::2] = 2 * x + 100
        assert torch.equal(base, want)
        assert torch.equal(sent, want.T)


def test_gathering_into_a_tensor_may_overlap_its_input(two):
    def worker(world):
        out = torch.zeros(4)
        out[2 * world.rank :][:2] = world.rank + 1.0
        return world.all_gather_into_tensor(out, out[2 * world.rank :][:2]).tolist()

    assert two.run(worker).results == [[1, 1, 2, 2]] * 2


def test_in_place_reduction_of_a_parameter_writes_its_memory(two):
    def worker(world):
        weight = torch.nn.Parameter(torch.ones(3, 2) * (world.rank + 1))
        with torch.no_grad():
            same = world.all_reduce_(weight, "avg") is weight
            world.broadcast_(weight, 0)
        return same, weight.tolist(), weight.requires_grad

    assert two.run(worker).results == [(True, [[1.5, 1.5]] * 3, True)] * 2


def test_asynchronous_calls_overlap_and_come_out_in_any_order(two):
    def worker(world):
        handles = [
            world.all_reduce(torch.full((4,), float(world.rank)), async_op=True),
            world.all_to_all([torch.full((2,), world.rank)] * 2, async_op=True),
            world.reduce_scatter(torch.arange(4.0), async_op=True),
            world.scatter(torch.arange(4.0) if world.rank == 1 else None, 1, async_op=True),
            world.all_to_all([torch.full((1,), 5 + world.rank)] * 2, async_op=True),
            world.all_gather(torch.tensor([world.rank]), async_op=True),
        ]
        results = [handle.wait() for handle in reversed(handles)]
        again = handles[0].wait()
        return [r.tolist() if isinstance(r, torch.Tensor) else [x.tolist() for x in r] for r in results], again.tolist()

    for rank, (results, again) in enumerate(two.run(worker).results):
        assert results[0] == [0, 1]
        assert results[1] == [[5], [6]]
        assert results[2] == [[0, 1], [2, 3]][rank]
        assert results[3] == [[0, 2], [4, 6]][rank]
        assert results[4] == [[0, 0], [1, 1]]
        assert results[5] == again == [1, 1, 1, 1]


def test_an_asynchronous_exchange_goes_on_without_its_caller(two):
    """Rank 0 begins an exchange and then waits for a message that rank 1 sends only after the exchange is done."""

    def worker(world):
        handle = world.all_to_all([torch.full((2 + i,), world.rank) for i in range(2)], async_op=True)
        if world.rank == 0:
            world.recv(torch.zeros(1), 1)
            return [x.tolist() for x in handle.wait()]
        got = [x.tolist() for x in handle.wait()]
        world.send(torch.ones(1), 0)
        return got

    assert two.run(worker).results == [[[0, 0], [1, 1]], [[0, 0, 0], [1, 1, 1]]]


def test_messages_keep_their_order_and_their_group(two):
    def worker(world):
        tp = Mesh(world, tp=2)["tp"]
        if world.rank == 0:
            handles = [world.isend(torch.tensor([i]), 1) for i in range(3)]
            handles += [tp.isend(torch.tensor([10 + i]), 1) for i in range(3)]
            for handle in handles:
                handle.wait()
            return None
        like = torch.tensor([0])
        inner = [tp.recv(like, 0).item() for _ in range(3)]
        return inner, [world.recv(like, 0).item() for _ in range(3)], like.item()

    assert two.run(worker).results[1] == ([10, 11, 12], [0, 1, 2], 0)


def test_messages_of_every_dtype_and_shape_arrive(two):
    def worker(world, dtypes, shapes):
        wrong = []
        for dtype in [*dtypes, torch.bool, torch.complex128]:
            for shape in shapes:
                x = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(1)).to(dtype)
                if world.rank == 0:
                    world.send(x, 1)
                elif not torch.equal(world.recv(torch.empty_like(x), 0), x):
                    wrong.append((dtype, shape))
        return wrong

    assert two.run(worker, DTYPES, SHAPES).results == [[], []]


def test_receiving_from_any_takes_each_message_once():
    def worker(world):
        if world.rank:
            for i in range(3):
                world.send(torch.tensor([10 * world.rank + i]), 0)
            return None
        got = [world.recv(torch.tensor([0])).item() for _ in range(3 * (world.size - 1))]
        return got

    run = Processes(3).run(worker)
    got = run.results[0]
    assert sorted(got) == [10, 11, 12, 20, 21, 22]
    assert [x for x in got if x < 20] == [10, 11, 12], "messages of one pair keep their order"
    receives = run.trace.select(rank=0, op="recv")
    assert sorted(e.peer for e in receives) == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("n", [0, 1, 10_000_000])
def test_send_returns_only_when_its_receiver_asks(two, n):
    def worker(world, n):
        x = torch.zeros(n, dtype=torch.uint8)
        if world.rank == 0:
            begun = world.isend(x, 1)
            begun.wait()
            return world.clock()
        world.sleep(0.3)
        asked = world.clock()
        world.recv(x, 0)
        return asked

    sent, asked = two.run(worker, n).results
    assert sent >= asked


def test_meshes_talk_along_their_axes():
    def worker(world):
        mesh = Mesh(world, dp=2, tp=2)
        me = torch.tensor([float(world.rank)])
        both = mesh["dp", "tp"].all_gather(me).tolist()
        return mesh["tp"].all_gather(me).tolist(), mesh["dp"].all_gather(me).tolist(), both

    results = Processes(4).run(worker).results
    assert [r[0] for r in results] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [r[1] for r in results] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert all(r[2] == [0, 1, 2, 3] for r in results)


def test_the_trace_holds_every_operation_with_its_bytes_and_times(two):
    def worker(world):
        x = torch.zeros(6, dtype=torch.float64)
        with world.span("forward"):
            world.sleep(0.05)
        world.all_reduce(x)
        if world.rank == 0:
            world.send(x[:2], 1)
        else:
            world.recv(x[:2], 0)
        Mesh(world, dp=2)["dp"].all_gather(x[:1])
        world.barrier()

    run = two.run(worker)
    assert run.clock == run.trace.clock == "wall"
    for rank in range(2):
        events = list(run.trace.select(rank=rank))
        span = events[0]
        assert (span.stream, span.op) == ("host", "forward") and 0.05 <= span.seconds < 5
        got = [(e.op, e.axis, e.nbytes, e.peer) for e in events[1:]]
        message = ("send", "world", 16, 1) if rank == 0 else ("recv", "world", 0, 0)
        wanted = [
            ("all_reduce", "world", 48, None),
            message,
            ("all_gather", "dp", 8, None),
            ("barrier", "world", 0, None),
        ]
        assert got == wanted
        assert all(e.stream == "comm" for e in events[1:])
        assert all(0 <= e.start <= e.stop <= run.seconds for e in events)
        assert all(a.stop <= b.start for a, b in zip(events, events[1:], strict=False))


def test_an_asynchronous_operation_ends_when_it_ends_and_not_when_it_is_waited_for(two):
    def worker(world):
        handle = world.all_reduce(torch.ones(1), async_op=True)
        world.sleep(0.5)  # stands for work that hides the operation
        handle.wait()

    for event in two.run(worker).trace:
        assert 0 < event.seconds < 0.4


def test_all_ranks_share_one_clock(two):
    def worker(world):
        world.barrier()
        return world.clock()

    a, b = two.run(worker).results
    assert abs(a - b) < 0.2


def test_memory_is_what_the_process_grew_by_at_its_peak(two):
    def worker(world):
        if world.rank == 1:
            torch.ones(40 * 2**20, dtype=torch.uint8).sum()

    small, large = two.run(worker).memory
    assert large["process"] == large.total > 39 * 2**20
    assert small["process"] < 20 * 2**20


def test_ranks_prints_are_kept_and_shown_with_their_rank(two, capsys):
    def worker(world):
        if world.rank == 0:
            print("one\ntwo")
            print("no newline", end="")

    run = two.run(worker)
    assert run.output == ["one\ntwo\nno newline", ""]
    assert capsys.readouterr().out == "rank 0 | one\nrank 0 | two\nrank 0 | no newline\n"


def test_output_of_c_code_children_and_odd_bytes_arrives(two, capfd):
    def worker(world):
        import ctypes
        import os
        import subprocess
        import sys

        if world.rank == 1:
            ctypes.CDLL(None).printf(b"from C\n")
            ctypes.CDLL(None).fflush(None)
            subprocess.run(["echo", "from a child"], check=True)
            os.write(1, b"caf\xe9 \xc3")
            os.write(1, b"\xa9\n")
            print("a warning", file=sys.stderr)

    run = two.run(worker)
    assert run.output[1] == "from C\nfrom a child\ncaf\\xe9 é\n"
    shown = capfd.readouterr()
    assert "rank 1 | a warning\n" in shown.err


def test_a_flood_of_output_arrives_whole_and_in_order(two, capsys):
    def worker(world):
        for i in range(40_000):
            print(f"{i:06d} {'x' * 50}")

    run = two.run(worker)
    for text in run.output:
        lines = text.splitlines()
        assert len(lines) == 40_000 and [int(line[:6]) for line in lines] == list(range(40_000))
    capsys.readouterr()


def test_ranks_start_with_torch_alike_and_the_rest_by_rank(two):
    def worker(world):
        return torch.rand(2).tolist(), numpy.random.rand(), random.random()

    first, again = two.run(worker).results, two.run(worker).results
    assert first == again, "live ranks are seeded anew for each run"
    assert first[0][0] == first[1][0] == torch.rand(2, generator=torch.Generator().manual_seed(0)).tolist()
    assert first[0][1] != first[1][1] and first[0][2] != first[1][2]
    assert first[1][2] == random.Random(1).random()


def test_each_rank_has_its_own_copy_of_the_arguments(two):
    shared = torch.zeros(2)

    def worker(world, x):
        x += world.rank + 1
        shared.add_(1)
        return x.tolist(), shared.tolist()

    x = torch.zeros(1)
    assert two.run(worker, x).results == [([1], [1, 1]), ([2], [1, 1])]
    assert x.item() == 0 and shared.tolist() == [0, 0]


def test_a_large_capture_is_warned_about(two):
    big = torch.zeros(65 * 2**20, dtype=torch.uint8)
    with pytest.warns(UserWarning, match="65 MB"):
        assert two.run(lambda world: big.numel()).results == [big.numel()] * 2


def test_classes_of_the_caller_keep_their_identity(two):
    class Point:
        def __init__(self, x):
            self.x = x

    def worker(world):
        return Point(world.rank)

    assert [type(p) is Point and p.x for p in two.run(worker).results] == [0, 1]


def test_live_ranks_are_the_same_processes_and_fresh_ones_are_not():
    def worker(world):
        import os

        return os.getpid()

    with Processes(2) as live:
        assert live.run(worker).results == live.run(worker).results
    engine = Processes(2)
    assert not set(engine.run(worker).results) & set(engine.run(worker).results)


def test_two_live_pools_work_side_by_side(two):
    def worker(world):
        return world.all_reduce(torch.ones(1)).item()

    with Processes(3) as three:
        assert [two.run(worker).results, three.run(worker).results, two.run(worker).results] == [
            [2, 2],
            [3, 3, 3],
            [2, 2],
        ]


def test_threads_per_rank_is_torchs_number_of_threads():
    run = Processes(2, threads_per_rank=2).run(lambda world: torch.get_num_threads())
    assert run.results == [2, 2]
    assert Processes(1).run(lambda world: torch.get_num_threads()).results == [1]


def test_openmp_used_in_the_caller_does_not_hang_the_ranks():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.ones(512, 512) @ torch.ones(512, 512)
        run = Processes(2, threads_per_rank=2).run(
            lambda world: (torch.ones(512, 512) @ torch.ones(512, 512)).sum().item()
        )
    finally:
        torch.set_num_threads(before)
    assert run.results == [512.0**3] * 2


def test_a_rank_sees_the_callers_environment_folder_and_path(two, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMLAB_TEST_WORD", "hello")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_the_notebook.py").write_text("def answer(world):\n    return 42 + world.rank\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import beside_the_notebook

    def worker(world):
        import os

        return os.environ["LLMLAB_TEST_WORD"], os.getcwd(), os.environ["LOCAL_RANK"], beside_the_notebook.answer(world)

    assert Processes(2).run(worker).results == [("hello", str(tmp_path), str(r), 42 + r) for r in range(2)]
    assert Processes(2).run(beside_the_notebook.answer).results == [42, 43]


def test_a_function_of_a_module_that_ranks_cannot_import_goes_by_value(two, tmp_path):
    import importlib.util
    import sys

    file = tmp_path / "nowhere_on_the_path.py"
    file.write_text(
        "SCALE = 3\ndef helper(x):\n    return x * SCALE\ndef worker(world):\n    return helper(world.rank)\n"
    )
    spec = importlib.util.spec_from_file_location("nowhere_on_the_path", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        assert two.run(module.worker).results == [0, 3]
    finally:
        del sys.modules[spec.name]


def test_torchs_own_distributed_works_in_a_worker(two):
    def worker(world):
        import torch.distributed as dist

        x = torch.tensor([world.rank + 1.0])
        dist.all_reduce(x)
        return dist.get_rank(), dist.get_world_size(), x.item()

    assert two.run(worker).results == [(0, 2, 3), (1, 2, 3)]


def test_results_come_home_as_plain_tensors_without_shared_memory(two):
    def worker(world):
        w = torch.ones(2, requires_grad=True)
        return {"leaf": w, "grad": torch.nn.Linear(1, 1).weight}

    for result in two.run(worker).results:
        assert not result["leaf"].is_shared() and result["leaf"].requires_grad


@pytest.mark.parametrize(
    "arguments", [{"ranks": 0}, {"timeout_s": 0}, {"timeout_s": math.inf}, {"threads_per_rank": 0}, {"launch": "x"}]
)
def test_bad_settings_are_refused(arguments):
    with pytest.raises(ValueError, match="Processes wants .* got"):
        Processes(**arguments)


def test_more_ranks_than_gpus_says_that_it_runs_on_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    run = Processes(2).run(lambda world: str(world.device))
    assert run.results == ["cpu", "cpu"]
    assert "2 ranks and 1 GPU: running on the CPU over shared memory" in capsys.readouterr().out
    assert run.hardware.startswith("2 processes over shared memory, ")


@pytest.mark.gpu
def test_a_rank_with_a_gpu_to_itself_uses_nccl():
    run = Processes(1).run(
        lambda world: (str(world.device), world.all_reduce(torch.ones(2, device=world.device)).tolist())
    )
    assert run.results == [("cuda:0", [1, 1])]
