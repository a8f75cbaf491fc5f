"""Every operation of torch.distributed over shared memory gives what gloo gives, to the bit, whatever travels."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from llmlab.comm.processes import Processes

SIZES = [0, 1, 5, 1000, 2_200_001]  # the last one takes several rounds, and ends in the middle of a slot
FLOATS = [torch.float32, torch.float64]
OTHERS = [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float16, torch.bfloat16]


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request):
    """Live ranks on shared memory, each of which can also make a group on gloo."""
    with Processes(request.param, timeout_s=120, transport="shared") as live:
        yield live


def numbers(rank, n, dtype, seed=0):
    """Small whole numbers: their sums are exact in every order, so that three ranks compare too."""
    x = torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(100 * seed + rank))
    return x.to(dtype)


def both(operation):
    """Run one operation on gloo and on shared memory; say whether they differ."""
    results = []
    for group in (dist.new_group(backend="gloo") if "gloo" not in KEPT else KEPT["gloo"], dist.group.WORLD):
        KEPT.setdefault("gloo", group)
        results.append(operation(group))
    theirs, ours = results
    return [i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if not (a.dtype == b.dtype and a.equal(b))]


KEPT: dict[str, dist.ProcessGroup] = {}  # in each rank


def test_every_reduction_of_every_dtype_and_size(ranks):
    def worker(world, dtypes, sizes):
        wrong = []
        for dtype in dtypes:
            for n in sizes:
                for op in ("SUM", "PRODUCT", "MIN", "MAX", "BAND", "BOR", "BXOR"):
                    if op.startswith("B") and (dtype.is_floating_point or n > 1000):
                        continue
                    if dtype == torch.bool and op not in ("MIN", "MAX", "BAND", "BOR"):
                        continue  # gloo has no sum of these

                    def reduced(group, dtype=dtype, n=n, op=op):
                        x, y = numbers(world.rank, n, dtype), numbers(world.rank, n, dtype, 1)
                        dist.all_reduce(x, getattr(dist.ReduceOp, op), group=group)
                        dist.reduce(y, world.size - 1, getattr(dist.ReduceOp, op), group=group)
                        return [x, y] if world.rank == world.size - 1 else [x]

                    if both(reduced):
                        wrong.append((dtype, n, op))
        return wrong

    dtypes = FLOATS + OTHERS if ranks.ranks == 2 else [torch.float32, torch.int32]
    assert ranks.run(worker, dtypes, SIZES).results == [[]] * ranks.ranks


def test_floats_that_round_add_to_the_same_bits_on_every_rank(ranks):
    """Two numbers add alike in either order, so two ranks get gloo's bits too."""

    def worker(world, n):
        x = torch.randn(n, generator=torch.Generator().manual_seed(world.rank))
        sums = [x.clone(), x.clone()]
        dist.all_reduce(sums[0])
        dist.all_reduce(sums[1], group=dist.new_group(backend="gloo"))
        everyone = [torch.empty_like(x) for _ in range(world.size)]
        dist.all_gather(everyone, sums[0])
        return [each.equal(sums[0]) for each in everyone], sums[0].equal(sums[1])

    for n in (3, 300_001):
        for alike, as_gloo in ranks.run(worker, n).results:
            assert all(alike)
            assert as_gloo or ranks.ranks > 2


def test_what_moves_data_moves_every_dtype_and_size(ranks):
    def worker(world, dtypes, sizes):
        n_ranks, me, wrong = world.size, world.rank, []
        for dtype in dtypes:
            for n in sizes:

                def moved(group, dtype=dtype, n=n):
                    x = numbers(me, n, dtype)
                    got = [x.clone()]
                    dist.broadcast(got[0], n_ranks - 1, group=group)
                    rows = [torch.empty_like(x) for _ in range(n_ranks)]
                    dist.all_gather(rows, x, group=group)
                    whole = torch.empty(n_ranks * n, dtype=dtype)
                    dist.all_gather_into_tensor(whole, x, group=group)
                    kept = [torch.empty_like(x) for _ in range(n_ranks)] if me == 0 else None
                    dist.gather(x, kept, 0, group=group)
                    part = torch.empty_like(x)
                    parts = [numbers(r, n, dtype, 2) for r in range(n_ranks)] if me == 1 else None
                    dist.scatter(part, parts, 1, group=group)
                    return [*got, *rows, whole, *(kept or []), part]

                if both(moved):
                    wrong.append((dtype, n))
        return wrong

    dtypes = [torch.float32, torch.uint8] + ([torch.float64, torch.int64] if ranks.ranks == 2 else [])
    assert ranks.run(worker, dtypes, SIZES).results == [[]] * ranks.ranks


def test_reduce_scatter_and_all_to_all(ranks):
    def worker(world, sizes):
        n_ranks, me, wrong = world.size, world.rank, []
        for n in sizes:

            def scattered(group, n=n):
                x = numbers(me, n * n_ranks, torch.float32)
                part, other = torch.empty(n), torch.empty(n)
                dist.reduce_scatter_tensor(part, x, group=group)
                dist.reduce_scatter(other, list(x.view(n_ranks, n).unbind()), dist.ReduceOp.MAX, group=group)
                whole = torch.empty_like(x)
                dist.all_to_all_single(whole, x, group=group)
                # uneven: rank i hands rank j i + 2 * j rows of 3
                gives, gets = [me + 2 * j for j in range(n_ranks)], [i + 2 * me for i in range(n_ranks)]
                rows = numbers(me, 3 * sum(gives), torch.float32, 3).view(-1, 3)
                uneven = torch.empty(sum(gets), 3)
                dist.all_to_all_single(uneven, rows, gets, gives, group=group)
                return [part, other, whole, uneven]

            if both(scattered):
                wrong.append(n)
        return wrong

    assert ranks.run(worker, SIZES).results == [[]] * ranks.ranks


def test_lists_exchange_and_objects_travel(ranks):
    """gloo has no all_to_all of lists: its result is known."""

    def worker(world):
        me, n = world.rank, world.size
        got = [torch.empty(i + 1) for i in range(n)]
        dist.all_to_all(got, [torch.full((me + 1,), 10.0 * me + j) for j in range(n)])
        objects = [None] * n
        dist.all_gather_object(objects, {"rank": me})
        shared = ["told" if me == 0 else None]
        dist.broadcast_object_list(shared, 0)
        return [x.tolist() for x in got], objects, shared

    n = ranks.ranks
    for me, (got, objects, shared) in enumerate(ranks.run(worker).results):
        assert got == [[10.0 * i + me] * (i + 1) for i in range(n)]
        assert objects == [{"rank": i} for i in range(n)] and shared == ["told"]


def test_any_stride_goes_in_and_comes_out(ranks):
    """gloo refuses these: the contiguous copy says what is right."""

    def worker(world):
        me, n = world.rank, world.size
        base = torch.arange(24.0).view(4, 6) + me
        wrong = []
        for name, view in (("transposed", base.t()), ("every other", base[:, ::2]), ("column", base[:, 1])):
            want, got = view.clone(memory_format=torch.contiguous_format), view.clone().mul_(0).add_(view)
            got = base.clone().as_strided(view.shape, view.stride(), view.storage_offset())
            for x in (want, got):
                dist.all_reduce(x)
                dist.broadcast(x, n - 1)
            rows = [
                torch.empty(7, 6).t()[: view.shape[0], : view.shape[1]] if view.dim() == 2 else torch.empty(9)[1:9:2]
                for _ in range(n)
            ]
            dist.all_gather(rows, got)
            if not want.equal(got) or not all(row.equal(want) for row in rows):
                wrong.append(name)
        z = torch.tensor([1 + 2j, 3 - 1j]).conj() * (me + 1)
        dist.all_reduce(z)
        return wrong, z.tolist()

    total = sum(i + 1 for i in range(ranks.ranks))
    assert ranks.run(worker).results == [([], [total * (1 - 2j), total * (3 + 1j)])] * ranks.ranks


def test_coalesced_and_average(ranks):
    def worker(world):
        n, xs = world.size, [torch.full((k,), float(world.rank + k)) for k in (1, 3, 200_000)]
        with dist._coalescing_manager(async_ops=True) as manager:
            for x in xs:
                dist.all_reduce(x)
        manager.wait()
        mean = torch.full((4,), float(world.rank), dtype=torch.bfloat16)
        dist.all_reduce(mean, dist.ReduceOp.AVG)
        outs = [torch.empty(n * 2), torch.empty(n)]
        with dist._coalescing_manager():
            for out in outs:
                dist.all_gather_into_tensor(out, torch.full((out.numel() // n,), float(world.rank)))
        return [x.unique().tolist() for x in xs], mean.tolist(), [out.tolist() for out in outs]

    n = ranks.ranks
    base = sum(range(n))
    sums, mean, outs = [[base + float(k * n)] for k in (1, 3, 200_000)], [base / n] * 4, [0, 0, 1, 1, 2, 2][: 2 * n]
    assert ranks.run(worker).results == [(sums, mean, [outs, list(range(n))])] * n


def test_what_cannot_be_done_is_refused_by_name(ranks):
    def worker(world):
        tries = {
            "sparse": lambda: dist.all_reduce(torch.eye(3).to_sparse()),
            "average of integers": lambda: dist.all_reduce(torch.ones(3, dtype=torch.int64), dist.ReduceOp.AVG),
            "bits of floats": lambda: dist.all_reduce(torch.ones(3), dist.ReduceOp.BXOR),
            "uneven": lambda: dist.reduce_scatter_tensor(torch.ones(2), torch.ones(2 * world.size + 1)),
        }
        said = {}
        for name, attempt in tries.items():
            try:
                attempt()
            except ValueError as error:
                said[name] = str(error)
        x = torch.ones(1)
        dist.all_reduce(x)  # nothing was begun
        return said, x.item()

    for said, total in ranks.run(worker).results:
        assert total == ranks.ranks
        assert "wants dense" in said["sparse"] or "moves dense" in said["sparse"]
        assert "cannot reduce torch.int64 by avg" in said["average of integers"]
        assert "cannot reduce torch.float32 by bxor" in said["bits of floats"]
        assert "equal parts" in said["uneven"]
