"""The collectives written out from send and recv: their definition, and their closed forms' bytes and seconds."""

from __future__ import annotations

from math import inf, prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.comm.call import Call
from llmlab.comm.collectives import ALGORITHMS, seconds, sent_bytes, steps
from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.hardware import Cluster, Device, Link

EVERY = [(op, algorithm) for op, known in ALGORITHMS.items() for algorithm in known]
REDUCING = ("all_reduce", "reduce_scatter", "reduce")
ROOTED = ("broadcast", "reduce", "gather", "scatter")


def make_input(op: str, rank: int, size: int, shape: tuple[int, ...], dtype: torch.dtype) -> list[torch.Tensor]:
    """What a rank hands over: small integers, so that sums are exact in every dtype and in any order."""
    generator = torch.Generator().manual_seed(1000 * rank + len(shape))
    if op in ("reduce_scatter", "scatter"):  # dimension 0 has to split
        shape = (shape[0] * size, *shape[1:])
    count = size if op == "all_to_all" else 1
    return [torch.randint(0, 3, shape, generator=generator).to(dtype) for _ in range(count)]


def by_definition(op: str, inputs: list[list[torch.Tensor]], rank: int, reduce: str, root: int):
    """What a rank should end with, from everybody's inputs."""
    size, first = len(inputs), [given[0] for given in inputs]
    if op == "all_to_all":
        return [given[rank] for given in inputs]
    if op in ("reduce", "gather") and rank != root:
        return None
    if op in ("all_gather", "gather"):
        return torch.cat(first)
    if op in ("broadcast", "scatter"):
        return first[root] if op == "broadcast" else first[root].chunk(size)[rank]
    stacked = torch.stack(first)
    total = {"sum": stacked.sum(0), "prod": stacked.prod(0), "max": stacked.amax(0), "min": stacked.amin(0)}
    value = total["sum"] / size if reduce == "avg" else total[reduce]
    value = value.to(stacked.dtype)
    return value.chunk(size)[rank] if op == "reduce_scatter" else value


def call(world, op: str, algorithm: str, xs: list[torch.Tensor], reduce: str, root: int):
    if op == "all_to_all":
        return world.all_to_all(xs, algorithm=algorithm)
    x = None if op == "scatter" and world.rank != root else xs[0]
    arguments = [root] * (op in ROOTED) + [reduce] * (op in REDUCING)
    return getattr(world, op)(x, *arguments, algorithm=algorithm)


def worker(world, op, algorithm, shape, dtype, reduce, root):
    xs = make_input(op, world.rank, world.size, shape, dtype)
    before = [x.clone() for x in xs]
    result = call(world, op, algorithm, xs, reduce, root)
    assert all(torch.equal(x, y) for x, y in zip(xs, before, strict=True)), "the input was changed"
    return result


def check_run(op, algorithm, size, shape=(3,), dtype=torch.float64, reduce="sum", root=0, engine=Simulator) -> None:
    """Run on some engine; compare results with the definition and sent bytes with the closed form."""
    run = engine(size).run(worker, op, algorithm, shape, dtype, reduce, root)
    inputs = [make_input(op, rank, size, shape, dtype) for rank in range(size)]
    for rank, got in enumerate(run.results):
        check_result(got, by_definition(op, inputs, rank, reduce, root), reduce)
        numel = prod(inputs[rank][0].shape)
        counted = run.trace.comm_bytes(rank=rank, op="send")
        assert counted == sent_bytes(op, algorithm, rank, size, numel, dtype.itemsize, root), f"rank {rank}"


def check_result(got, wanted, reduce: str) -> None:
    if wanted is None:
        assert got is None
        return
    for g, w in zip(got, wanted, strict=True) if isinstance(wanted, list) else [(got, wanted)]:
        torch.testing.assert_close(g, w, rtol=1e-15 if reduce == "avg" else 0, atol=0)  # a division rounds once


@pytest.mark.parametrize(("op", "algorithm"), EVERY)
def test_every_algorithm_is_its_definition_on_1_to_8_ranks_and_sends_the_closed_forms_bytes(op, algorithm):
    for size in range(1, 9):
        check_run(op, algorithm, size, shape=(5, 3), root=size // 2)


@settings(max_examples=60)
@given(data=st.data())
def test_any_shape_dtype_reduction_and_root_gives_the_definition_and_the_closed_forms_bytes(data):
    op, algorithm = data.draw(st.sampled_from(EVERY))
    size = data.draw(st.integers(1, 9))
    rows_needed = 0 if op in ("all_reduce", "broadcast", "reduce", "all_to_all") else 1
    shape = tuple(data.draw(st.lists(st.integers(0, 5), min_size=rows_needed, max_size=3)))
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8]))
    reductions = ["sum", "max", "min", "prod"] + ["avg"] * (dtype == torch.float64)
    reduce = data.draw(st.sampled_from(reductions)) if op in REDUCING else "sum"
    check_run(op, algorithm, size, shape, dtype, reduce, root=data.draw(st.integers(0, size - 1)))


@pytest.mark.parametrize("size", [2, 3])
def test_every_algorithm_is_its_definition_on_processes_too_and_sends_the_same_bytes(size):
    with Processes(size) as live:
        for op, algorithm in EVERY:
            check_run(op, algorithm, size, shape=(5, 3), root=size - 1, engine=lambda _: live)
            check_run(op, algorithm, size, shape=(1,), dtype=torch.bfloat16, engine=lambda _: live)


@pytest.mark.parametrize(("op", "algorithm"), EVERY)
def test_an_input_that_is_not_contiguous_is_read_as_it_looks(op, algorithm):
    def transposed(world):
        xs = [x.T for x in make_input(op, world.rank, world.size, (4, 6), torch.float32)]
        xs = [x[: len(x) // world.size * world.size] for x in xs]
        assert not xs[0].is_contiguous()
        return (
            call(world, op, algorithm, xs, "sum", 1),
            call(world, op, algorithm, [x.contiguous() for x in xs], "sum", 1),
        )

    for strided, plain in Simulator(3).run(transposed).results:
        if plain is not None:
            same = zip(strided, plain, strict=True) if op == "all_to_all" else [(strided, plain)]
            assert all(torch.equal(a, b) for a, b in same)


def test_every_rank_ends_an_all_reduce_with_the_same_bits():
    def reduce_noise(world, algorithm):
        x = torch.randn(1001, generator=torch.Generator().manual_seed(world.rank))
        return world.all_reduce(x, "avg", algorithm=algorithm)

    for algorithm in ALGORITHMS["all_reduce"]:
        results = Simulator(7).run(reduce_noise, algorithm).results
        assert all(torch.equal(results[0], other) for other in results[1:]), algorithm


def test_an_unknown_algorithm_is_refused_by_name_before_anything_is_sent():
    def ask(world):
        with pytest.raises(ValueError, match="reduce_scatter wants algorithm in ring, halving, naive; got 'tree'"):
            world.reduce_scatter(torch.ones(4), algorithm="tree")

    assert len(Simulator(2).run(ask).trace.select(stream="comm")) == 0


def test_the_cost_of_an_unknown_algorithm_is_refused_too():
    with pytest.raises(ValueError, match="broadcast wants algorithm in tree, ring, naive; got 'halving'"):
        seconds("broadcast", "halving", 4, 100, LATENCY, BANDWIDTH)
    with pytest.raises(ValueError, match="barrier wants algorithm in none written out; got 'tree'"):
        sent_bytes("barrier", "tree", 0, 4, 100, 4)
    with pytest.raises(ValueError, match=r"all_reduce wants numel as a whole number of at least 0; got \[1, 2\]"):
        sent_bytes("all_reduce", "ring", 0, 2, [1, 2], 4)


def test_a_scatter_of_meta_tensors_message_by_message_is_refused():
    def scatter(world):
        world.scatter(torch.ones(4) if world.rank == 0 else None, 0, algorithm="tree")

    with pytest.raises(ValueError, match="wants a device with numbers, got meta"):
        Simulator(2, numerics=False).run(scatter)


def test_a_call_with_an_output_is_written_into_it():
    def into(world):
        from llmlab.comm.collectives import run

        out = torch.zeros(3)
        result = run(world, Call("all_reduce", (torch.ones(3),), reduce="sum", out=out), "ring")
        return result is out and out.tolist() == [2.0] * 3

    assert Simulator(2).run(into).results == [True, True]


def test_uneven_all_to_all_sends_what_is_not_kept():
    def exchange(world, algorithm):
        counts = [[1, 2, 3], [2, 4, 5], [3, 5, 6]][world.rank]  # what i has for j is shaped as what j has for i
        got = world.all_to_all([torch.full((n,), world.rank) for n in counts], algorithm=algorithm)
        return [x.tolist() for x in got]

    for algorithm in ALGORITHMS["all_to_all"]:
        run = Simulator(3).run(exchange, algorithm)
        assert run.results[0] == [[0], [1, 1], [2, 2, 2]]
        assert run.trace.comm_bytes(rank=1, op="send") == sent_bytes("all_to_all", algorithm, 1, 3, [2, 4, 5], 8)


# --- time -------------------------------------------------------------------------------------------------------------

LATENCY, BANDWIDTH = 1e-6, 1e9  # of a made-up cluster whose devices compute in no time


def flat_cluster(size: int) -> Cluster:
    device = Device("computes in no time", {"fp64": inf}, 2**40, inf, 0.0, 0.0, 1.0, 1.0, 1.0)
    link = Link("wire", LATENCY, BANDWIDTH)
    return Cluster("flat", device, size, link, link, "made up", fictional=True)


@pytest.mark.parametrize(("op", "algorithm"), EVERY)
def test_the_closed_forms_time_is_the_simulators_to_the_picosecond(op, algorithm):
    for size in (2, 3, 5, 8):
        # chunks of equal length, for that is what the closed form takes them to be
        shape = (12 * size,) if op not in ("reduce_scatter", "scatter") else (12,)
        run = Simulator(size, cluster=flat_cluster(size)).run(worker, op, algorithm, shape, torch.float64, "sum", 0)
        handed_over = sum(x.nbytes for x in make_input(op, 0, size, shape, torch.float64))
        modelled = seconds(op, algorithm, size, handed_over, LATENCY, BANDWIDTH)
        # each of at most 30 messages is rounded to a picosecond
        assert run.seconds == pytest.approx(modelled, abs=30e-12), size


@pytest.mark.parametrize(
    ("op", "algorithm", "size", "wanted"),
    [
        ("all_reduce", "ring", 8, 14), ("all_reduce", "tree", 8, 6), ("all_reduce", "halving_doubling", 8, 6),
        ("all_reduce", "halving_doubling", 6, 6), ("all_reduce", "naive", 8, 14), ("all_gather", "doubling", 8, 3),
        ("reduce_scatter", "halving", 5, 4), ("broadcast", "tree", 5, 3), ("broadcast", "ring", 4, 6),
        ("gather", "tree", 8, 3), ("scatter", "naive", 4, 6), ("all_to_all", "pairwise", 8, 7),
        ("all_reduce", "ring", 1, 0),
    ],
)  # fmt: skip
def test_the_number_of_steps_is_the_papers(op, algorithm, size, wanted):
    assert steps(op, algorithm, size) == wanted


def test_the_tree_wins_for_short_messages_and_the_ring_for_long_ones():
    def time(algorithm, nbytes):
        return seconds("all_reduce", algorithm, 16, nbytes, LATENCY, BANDWIDTH)

    assert time("tree", 64) < time("ring", 64)
    assert time("ring", 10**8) < time("tree", 10**8)
    # halving and doubling: the ring's bytes, the tree's steps
    assert time("halving_doubling", 10**8) == pytest.approx(time("ring", 10**8), rel=1e-3)
    assert steps("all_reduce", "halving_doubling", 16) == steps("all_reduce", "tree", 16)


def test_a_ring_of_p_ranks_sends_two_times_p_minus_1_pths_per_rank():
    n, p = 840, 7
    assert [sent_bytes("all_reduce", "ring", rank, p, n, 4) for rank in range(p)] == [2 * (p - 1) * n * 4 // p] * p
