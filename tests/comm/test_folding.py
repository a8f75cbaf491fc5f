"""fold="auto": the ranks that are alike are found, the run is the unfolded one, and what tells ranks apart is seen."""

from __future__ import annotations

import random

import jaxtyping
import numpy as np
import pytest
import torch

import llmlab as lab
from llmlab.comm import autograd
from llmlab.comm.simulated.folding import cut_evenly
from llmlab.optim import AdamW


@pytest.fixture(autouse=True)
def unchecked_shapes():
    """What checks shapes in tests draws from Python's generator: a worker would seem to."""
    jaxtyping.config.update("jaxtyping_disable", True)


def both(worker, ranks, *args, **options):
    """The run of all ranks and the folded one, after a first that torch may hold something of for good."""
    runs = [lab.Simulator(ranks, numerics=False, fold=f, **options).run(worker, *args) for f in ("auto", (), "auto")]
    return runs[1:]


def assert_equal(whole, folded):
    assert (folded.seconds, folded.results, folded.memory) == (whole.seconds, whole.results, whole.memory)
    ran = {event.rank for event in folded.trace}
    assert folded.trace.events == tuple(event for event in whole.trace.events if event.rank in ran)


def who_ran(run):
    return sorted({event.rank for event in run.trace})


# --- layouts ----------------------------------------------------------------------------------------------------------


def train(world, layout, vocab_size, batch):
    config = lab.Config(vocab_size=vocab_size, d_model=16, n_layer=2, n_head=4, max_seq=16, d_ff=16)
    if layout.ep > 1:
        config = lab.Config(**{**vars(config), "n_expert": 4})
    step = lab.parallelize(lab.Transformer(config), AdamW, layout, world)
    tokens = torch.zeros(batch, 16, dtype=torch.long)
    float(step(tokens, tokens))
    return world.clock()


LAYOUTS = {
    "data": ({"dp": 4}, 12, "classroom", "along dp: 2 of 4"),
    "tensor x pipeline x data": (
        {"dp": 4, "tp": 2, "pp": 2, "microbatches": 2}, 12, "h100", "along dp: 8 of 16",
    ),
    "sequence": ({"tp": 4, "dp": 2, "sequence_parallel": True}, 12, "a100", "along tp: 4 of 8"),
    "experts": ({"dp": 4, "ep": 4}, 12, "h100", "along dp: 2 of 4"),
    "experts inside dp": ({"dp": 4, "ep": 2}, 12, "classroom", "not along dp: the groups of ep cut it"),
    "ring": ({"cp": 4}, 12, "classroom", "not along cp: messages go along it"),
    "uneven vocabulary": ({"tp": 4}, 13, "classroom", "not along tp: rank 3 did not do what rank 0 did"),
    "flat shards": ({"dp": 4, "zero": 1}, 12, "classroom", "not along dp: a rank's place is asked for, flat.py"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folded_layout_is_the_unfolded_one(name):
    changes, vocab_size, cluster, said = LAYOUTS[name]
    layout = lab.Layout(**changes)
    whole, folded = both(train, layout.ranks, layout, vocab_size, layout.dp * layout.microbatches, cluster=cluster)
    assert_equal(whole, folded)
    assert "; ".join(folded.folded).startswith(said)
    assert len(who_ran(folded)) < layout.ranks or said.startswith("not along")


@pytest.mark.parametrize(
    ("sizes", "per_node", "even"),
    [((4, 2), 8, True), ((2, 4, 2), 8, True), ((16,), 8, True), ((3, 4), 8, False), ((12,), 8, False),
     ((2, 6), 4, False), ((4, 3), 6, True), ((3, 2), 8, True), ((2, 8), 1, True)],
)  # fmt: skip
def test_nodes_lie_along_the_axes_alike_or_nothing_is_folded(sizes, per_node, even):
    assert cut_evenly(sizes, per_node) == even


# --- workers of one's own ---------------------------------------------------------------------------------------------


def test_a_world_of_alike_ranks_runs_its_first_and_its_last():
    def worker(world):
        x = world.all_reduce(torch.ones(100))
        return world.all_gather(x).shape[0], world.clock()

    whole, folded = both(worker, 64)
    assert_equal(whole, folded)
    assert who_ran(folded) == [0, 63] and folded.folded == ("along world: 2 of 64 ranks ran",)


def test_communication_before_the_mesh_hides_no_axis():
    def worker(world):
        world.barrier()
        mesh = lab.Mesh(world, pp=2, dp=4)
        if mesh["pp"].rank:
            mesh["dp"].all_reduce(torch.ones(100))
        return mesh["pp"].rank, world.clock()

    whole, folded = both(worker, 8)
    assert_equal(whole, folded)
    assert who_ran(folded) == [0, 3, 4, 7]


def third_works_more(world):
    if world.rank == 2:
        torch.ones(100) + 1
    world.barrier()


def place_on_a_mesh(world):
    if lab.Mesh(world, dp=8).coordinate["dp"] == 2:
        torch.ones(100) + 1


def members_of_a_group(world):
    mesh = lab.Mesh(world, dp=4, tp=2)
    if mesh["tp"].members[0] == 2:
        torch.ones(100) + 1


def in_words(world):
    if "rank 2" in repr(world):
        torch.ones(100) + 1


def one_root(world):
    world.broadcast(torch.ones(100), src=2)


def one_step_of_a_ring(world):
    sending = world.isend(torch.ones(100), (world.rank + 1) % world.size)
    world.recv(torch.ones(100), (world.rank - 1) % world.size)
    sending.wait()


def written_out(world):
    world.all_reduce(torch.ones(100), algorithm="tree")


def pythons_dice(world):
    torch.ones(1 + int(random.random() * 100)) + 1


def numpys_dice(world):
    torch.ones(1 + int(np.random.rand() * 100)) + 1


SEEN = {
    third_works_more: "a rank's place is asked for, test_folding.py",
    place_on_a_mesh: "a rank's place is asked for, test_folding.py",
    members_of_a_group: "a rank's place is asked for, test_folding.py",
    in_words: "a rank's place is asked for, test_folding.py",
    one_root: "a rank's place is asked for, test_folding.py",
    one_step_of_a_ring: "a rank's place is asked for, test_folding.py",
    written_out: "a rank's place is asked for, test_folding.py",
    pythons_dice: "Python's or numpy's generator was drawn from",
    numpys_dice: "Python's or numpy's generator was drawn from",
}


@pytest.mark.parametrize("worker", SEEN, ids=lambda worker: worker.__name__)
def test_what_could_tell_ranks_apart_is_seen(worker):
    whole, folded = both(worker, 8)
    assert_equal(whole, folded)
    assert folded.trace.events == whole.trace.events and SEEN[worker] in folded.folded[0]


@pytest.mark.parametrize(
    "differing", [{"speeds": {3: 0.5}}, {"devices": {3: lab.hardware.device("a100")}}, {"jitter": 0.1}]
)
def test_ranks_of_different_hardware_are_not_alike(differing):
    def worker(world):
        world.all_reduce(torch.ones(100) + 1)

    whole, folded = both(worker, 4, **differing)
    assert_equal(whole, folded)
    assert folded.folded == ("not along world: the ranks' hardware differs",)


def test_gradients_pass_through_what_is_folded():
    def worker(world):
        weight = torch.ones(8, 8, requires_grad=True)
        autograd.reduce_from(torch.ones(8, 8) @ weight, world).sum().backward()
        return world.clock()

    whole, folded = both(worker, 16)
    assert_equal(whole, folded)
    assert who_ran(folded) == [0, 15]


def test_what_is_printed_is_shown_once(capsys):
    def worker(world):
        print("hello")
        if world.rank == 1:
            print("one")

    run = lab.Simulator(4, numerics=False, fold="auto").run(worker)
    assert run.output == ["hello\n", "hello\none\n", "hello\n", "hello\n"]
    assert capsys.readouterr().out.count("hello") == 4


def test_an_error_is_the_unfolded_runs():
    def worker(world):
        world.all_reduce(torch.ones(2))
        raise KeyError("mine")

    texts = []
    for fold in ((), "auto"):
        with pytest.raises(KeyError) as caught:
            lab.Simulator(4, numerics=False, fold=fold).run(worker)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_folding_by_itself_wants_a_worker_of_ours_and_no_numbers():
    with pytest.raises(ValueError, match="numerics=False"):
        lab.Simulator(4, fold="auto")
    with pytest.raises(ValueError, match="run_torch wants fold"):
        lab.Simulator(4, numerics=False, fold="auto").run_torch(print)
