"""The simulator's clock, memory and folding, against calculations by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import llmlab as lab
from llmlab.comm.simulated.clock import Flow, Timeline, When, known, share
from llmlab.hardware import Cluster, Device, Link

PS = 1e-12
US = 1e-6

# Round numbers: 1 TFLOP/s, 1 TB/s of memory, 1 us to launch; 1 us + 1 GB/s inside the node, 10 us + 0.1 GB/s across.
DEVICE = Device("by hand", {"fp32": 1e12, "bf16": 1e12}, 10**9, 1e12, US, 0.0, 1.0, 1.0, 1.0)
CLUSTER = Cluster("by hand", DEVICE, 4, Link("in", US, 1e9, 1.0), Link("out", 10 * US, 1e8, 1.0), "a test")


def run(worker, *args, ranks=2, cluster=CLUSTER, **options):
    return lab.Simulator(ranks, cluster=cluster, cost_dtype="fp32", **options).run(worker, *args)


def ps(seconds):
    return round(seconds / PS)


def spans(trace, **wanted):
    return [(ps(e.start), ps(e.stop)) for e in trace.select(**wanted)]


def on_device(*shape):
    return torch.zeros(*shape, requires_grad=False)


# --- kernels ----------------------------------------------------------------------------------------------------------


def test_a_matrix_product_is_charged_its_flops_after_its_launch():
    def worker(world):
        return torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)

    trace = run(worker, ranks=1).trace
    (event,) = trace
    assert (event.op, event.flops, event.nbytes) == ("matmul", 2 * 10**9, 3 * 4 * 10**6)
    assert spans(trace) == [(ps(US), ps(US) + ps(2e-3))]


def test_an_element_wise_kernel_is_charged_its_bytes():
    def worker(world):
        return torch.zeros(10**6) + 1.0

    (event,) = run(worker, ranks=1).trace
    assert (event.op, event.nbytes, ps(event.seconds)) == ("add", 8 * 10**6, ps(8 * US))


def test_the_host_runs_ahead_of_the_device_until_it_needs_a_value():
    def worker(world):
        x = torch.zeros(10**6) + 1.0  # launched at 1 us, runs from 1 to 9 us
        launched = world.clock()
        x[0].item()  # launched at 2 us, starts at 9 us
        return launched, world.clock()

    launched, read = run(worker, ranks=1).results[0]
    assert ps(launched) == ps(US)
    assert read == pytest.approx(9 * US, abs=100 * PS) and read > 9 * US


def test_on_a_cpu_host_and_device_are_one():
    cpu = Device("cpu by hand", {"fp32": 1e12}, 10**9, 1e12, 0.0, 0.0, 1.0, 1.0, 1.0, one_clock=True)
    cluster = Cluster("cpu", cpu, 4, CLUSTER.intra, CLUSTER.inter, "a test")

    def worker(world):
        _ = torch.zeros(10**6) + 1.0
        return world.clock()

    assert ps(run(worker, ranks=1, cluster=cluster).results[0]) == ps(8 * US)


def test_sleeping_and_spans_are_in_virtual_time():
    def worker(world):
        with world.span("nap"):
            world.sleep(3600.0)
        return world.clock()

    result = run(worker, ranks=1)
    assert result.results == [3600.0] and result.seconds == 3600.0
    assert spans(result.trace, op="nap") == [(0, ps(3600.0))]


def test_speeds_devices_and_jitter_change_a_ranks_compute_only_as_asked():
    def worker(world):
        return torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)

    slow = run(worker, speeds={1: 0.5}).trace
    assert [ps(slow.select(rank=r).busy(r)) for r in (0, 1)] == [ps(2e-3), ps(4e-3)]
    other = Device("half", {"fp32": 5e11}, 10**9, 1e12, US, 0.0, 1.0, 1.0, 1.0)
    assert ps(run(worker, devices={1: other}).trace.busy(1)) == ps(4e-3)
    shaky, again = run(worker, jitter=0.1), run(worker, jitter=0.1)
    assert shaky.trace == again.trace
    assert 2e-3 < shaky.trace.busy(0) < 2.2e-3 and shaky.trace.busy(0) != shaky.trace.busy(1)


# --- communication ----------------------------------------------------------------------------------------------------


def test_a_message_takes_latency_and_bytes_over_bandwidth_inside_and_across_nodes():
    def worker(world, dst):
        if world.rank == 0:
            world.send(torch.zeros(250_000), dst)
        elif world.rank == dst:
            world.recv(torch.zeros(250_000), 0)

    # ready at the launch, 1 us; then 1 us + 1 MB / 1 GB/s, or 10 us + 1 MB / 0.1 GB/s
    assert ps(run(worker, 3, ranks=8).seconds) == ps(US) + ps(US) + ps(1e-3)
    assert ps(run(worker, 4, ranks=8).seconds) == ps(US) + ps(10 * US) + ps(1e-2)


def test_an_all_reduce_costs_its_cheapest_algorithm():
    def worker(world, n):
        world.all_reduce(torch.zeros(n))

    # ring on 4 ranks: 2 x 3 steps of 1 us and 2 x 3/4 of the bytes; tree: 2 x 2 steps and twice the bytes
    assert ps(run(worker, 250_000, ranks=4).seconds) == ps(US) + ps(6 * US) + ps(1.5e-3)
    assert ps(run(worker, 25, ranks=4).seconds) == ps(US) + ps(4 * US) + ps(200e-9)


def test_across_nodes_the_two_level_algorithm_uses_every_ranks_own_way_out():
    def worker(world):
        world.all_reduce(torch.zeros(1_000_000))

    # 4 MB on 2 nodes of 4: a quarter of it crosses per rank, 2 x 1/2 of that quarter; latency 2 x (3 + 10) us
    assert ps(run(worker, ranks=8).seconds) == ps(US) + ps(26 * US) + ps(1e6 / 1e8)


def overlapping(world, overlap):
    x, a = torch.zeros(250_000), torch.zeros(1000, 1000)
    handle = world.all_reduce(x, async_op=True)  # ready at 1 us, done at 1 + 6 + 1500 us
    if not overlap:
        handle.wait()
    a @ a  # 2000 us
    if overlap:
        handle.wait()
    x + 1  # needs what was waited for; 2 us


def test_an_overlapped_all_reduce_is_hidden_and_another_is_not():
    hidden, exposed = run(overlapping, True, ranks=4), run(overlapping, False, ranks=4)
    assert ps(hidden.seconds) == ps(2 * US) + ps(2e-3) + ps(2 * US)
    assert ps(exposed.seconds) == ps(US) + ps(1506 * US) + ps(2e-3) + ps(2 * US)
    assert hidden.trace.exposed(0) == pytest.approx(US, abs=PS)  # the microsecond before the product was launched
    assert ps(exposed.trace.exposed(0)) == ps(1506 * US)


def test_a_parameter_server_is_slowed_by_its_own_port():
    def push(world):
        if world.rank == 0:
            for _ in range(world.size - 1):
                world.recv(torch.zeros(250_000))
        else:
            world.send(torch.zeros(250_000), 0)

    one, three = run(push, ranks=2).seconds, run(push, ranks=4).seconds
    assert three - one == pytest.approx(2e-3, rel=1e-2)  # two more megabytes through one port of 1 GB/s


def test_messages_that_share_a_port_share_its_bandwidth_fairly():
    def pull(world):
        if world.rank == 0:
            handles = [world.irecv(torch.zeros(250_000), src) for src in (1, 2)]
            return [(h.wait(), world.clock())[1] for h in handles]
        return world.send(torch.zeros(250_000), 0) if world.rank < 3 else None

    result = run(pull, ranks=4)
    first, second = (ps(e.stop) for e in result.trace.select(op="send"))
    # the first goes alone for the 1 us until the second recv is launched, then both at half speed
    assert (first, second) == (ps(2 * US) + ps(1e-3) + ps(999 * US), ps(2 * US) + ps(2e-3))


def test_two_groups_that_use_one_link_slow_each_other():
    def worker(world, both):
        mesh = lab.Mesh(world, dp=2, tp=2)
        handles = [mesh["tp"].all_reduce(torch.zeros(250_000), async_op=True)]
        if both:
            handles.append(mesh["dp"].all_reduce(torch.zeros(250_000), async_op=True))
        for handle in handles:
            handle.wait()

    alone, together = (run(worker, both, ranks=4).seconds for both in (False, True))
    assert together > 1.9 * alone


def test_fair_shares_fill_the_most_crowded_port_first():
    def flow(*ports):
        return Flow(1.0, dict.fromkeys(ports, 1.0), lambda ps: None)

    a, b, c, d = flow("x"), flow("x"), flow("x", "y"), flow("y")
    share([a, b, c, d])
    assert [f.speed for f in (a, b, c, d)] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 2 / 3])


def test_a_timeline_resolves_long_chains_without_recursion():
    timeline, first = Timeline(), When()
    last = first
    for _ in range(10_000):
        last = timeline.later(last, 1)
    timeline.resolve(first, 5)
    assert last.ps == 10_005


def test_communication_may_slow_a_matrix_product():
    plain, slowed = (run(overlapping, True, ranks=4, comm_slows_matmul=share) for share in (0.0, 0.5))
    lost = 1506e-6 - 1e-6 - 6e-6 + 0.0  # the transfer and the product run side by side for 1500 us - 1 us - ...
    product = slowed.trace.select(op="matmul", rank=0).events[0].seconds
    assert product == pytest.approx(2e-3 + 0.5 * lost, rel=5e-3)
    assert plain.seconds < slowed.seconds


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("fold", [(), ("world",)])
def test_the_time_can_be_asked_while_a_collective_is_under_way(ranks, fold):
    def worker(world):
        world.barrier()
        start = world.clock()
        world.barrier()
        return world.clock() - start

    launch_and_tree = 1 + 2 * (ranks - 1).bit_length()
    results = run(worker, ranks=ranks, numerics=False, fold=fold).results
    assert [ps(r) for r in results] == [ps(launch_and_tree * US)] * ranks


def test_time_moves_on_while_ranks_run_so_that_long_runs_stay_small():
    def worker(world):
        for _ in range(200):
            world.all_reduce(torch.zeros(100))
        return world.clock()

    result = run(worker, ranks=4)
    each = ps(4 * US) + ps(800e-9)  # tree, every time after the last one's end
    assert ps(result.seconds) == ps(US) + 200 * each


# --- memory -----------------------------------------------------------------------------------------------------------


def one_step(world):
    model = nn.Linear(100, 100, bias=False).to(world.device)
    optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    x = torch.zeros(10, 100, device=world.device)
    model(x).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("numerics", [True, False])
def test_memory_is_counted_by_category(numerics):
    memory = run(one_step, ranks=1, numerics=numerics).memory[0]
    weights = 4 * 100 * 100
    assert (memory["parameters"], memory["gradients"], memory["communication"]) == (weights, weights, 0)
    assert memory["optimizer state"] == pytest.approx(2 * weights, abs=16)  # and Adam's step counter
    assert memory.total == sum(memory.at_peak.values()) >= 4 * weights


def test_aliases_are_counted_once_and_the_dead_not_at_all():
    def worker(world):
        x = torch.zeros(1000) + 1.0
        y = x.view(10, 100)[:5]
        del x
        y = y * 1.0
        for _ in range(10):
            y = y + 1.0

    memory = run(worker, ranks=1).memory[0]
    assert memory["activations"] <= 4 * (1000 + 1000 + 500)


def test_saved_activations_stay_until_backward_frees_them():
    def worker(world, layers):
        x = torch.zeros(1000, requires_grad=True)
        y = x
        for _ in range(layers):
            y = y.sin()
        y.sum().backward()

    few, many = (run(worker, n, ranks=1).memory[0]["activations"] for n in (2, 12))
    assert many - few == 10 * 4000


def test_a_model_is_host_memory_until_it_is_placed():
    def worker(world, place):
        model = nn.Linear(1000, 1000, bias=False)
        return model.to(world.device) if place else model

    assert run(worker, False, ranks=1, numerics=False).memory[0].total == 0
    assert run(worker, True, ranks=1, numerics=False).memory[0].total == 4 * 10**6


def test_a_full_device_is_out_of_memory_with_its_breakdown():
    def worker(world):
        return [nn.Linear(10_000, 10_000, bias=False).to(world.device) for _ in range(3)]

    with pytest.raises(lab.OutOfDeviceMemory) as raised:
        run(worker, ranks=1, numerics=False)
    assert isinstance(raised.value, lab.RankError) and raised.value.rank == 0
    assert raised.value.breakdown["parameters"] == 2 * 4 * 10**8 and raised.value.capacity == 10**9
    counted = run(worker, ranks=1, numerics=False, out_of_memory="record")
    assert counted.memory[0].total == 3 * 4 * 10**8


# --- without numbers --------------------------------------------------------------------------------------------------

CONFIGS = {
    "GPT-2's": {},
    "Llama's": dict(norm="rmsnorm", mlp="swiglu", position="rotary", n_kv_head=2, bias=False, tie_embeddings=False),
}


def train(world, config, steps=2):
    model = lab.Transformer(config).to(world.device)
    optimizer = lab.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.randint(0, config.vocab_size, (2, 16), device=world.device)
    for _ in range(steps):
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        for p in model.parameters():
            world.all_reduce_(p.grad, "avg")
        optimizer.step()
        optimizer.zero_grad()
    return world.clock()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_operation_stream_time_and_memory_are_the_same_without_numbers(name):
    config = lab.Config(vocab_size=64, d_model=32, n_layer=2, n_head=4, max_seq=32, **CONFIGS[name])
    real, meta = (lab.Simulator(2, numerics=n).run(train, config) for n in (True, False))
    assert real.trace == meta.trace
    assert (real.results, real.seconds, real.memory) == (meta.results, meta.seconds, meta.memory)
    assert len(real.trace.select(rank=0, op="attention")) == 4  # once per layer and step, as the fused kernel
    assert len(real.trace.select(rank=0, op="attention_backward")) == 4


def test_attention_gives_torchs_numbers_and_gradients():
    q, k, v = (torch.randn(2, 4, 8, 16, dtype=torch.float64, requires_grad=True) for _ in range(3))

    def worker(world, q, k, v):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return out.detach(), torch.autograd.grad(out.square().sum(), (q, k, v))

    out, grads = run(worker, q, k, v, ranks=1).results[0]
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.equal(out, expected)
    for mine, theirs in zip(grads, torch.autograd.grad(expected.square().sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_attention_is_charged_four_products_of_its_length():
    def worker(world):
        q = torch.zeros(2, 4, 8, 16, requires_grad=True)
        F.scaled_dot_product_attention(q, q, q).sum().backward()

    trace = run(worker, ranks=1).trace
    forward = 4 * 2 * 4 * 8 * 8 * 16
    assert [e.flops for e in trace if e.op.startswith("attention")] == [forward, int(2.5 * forward)]


def test_the_cpus_own_attention_is_charged_as_attention():
    def worker(world):
        aten, q = torch.ops.aten, torch.zeros(1, 2, 8, 4)
        out, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(q, q, q)
        aten._scaled_dot_product_flash_attention_for_cpu_backward(out, q, q, q, out, logsumexp, 0.0, False)

    kernels = run(worker, ranks=1).trace.select(stream="compute")
    forward = 2 * 2 * 8 * 8 * (4 + 4)
    assert [kernel.flops for kernel in kernels if kernel.flops] == [forward, int(2.5 * forward)]


def test_a_meta_loss_is_nan_and_an_integer_cannot_be_had():
    def worker(world):
        loss = torch.zeros(3).sum()
        with pytest.raises(ValueError, match="numerics=False"):
            torch.zeros(3, dtype=torch.int64).sum().item()
        return loss.item(), float(loss)

    a, b = run(worker, ranks=1, numerics=False).results[0]
    assert a != a and b != b


def test_arguments_lose_their_numbers_too():
    model = nn.Linear(3, 3)

    def worker(world, x):
        return model(x).is_meta, model.weight.requires_grad, isinstance(model.weight, nn.Parameter)

    assert run(worker, torch.zeros(2, 3), ranks=1, numerics=False).results == [(True, True, True)]


# --- folding ----------------------------------------------------------------------------------------------------------


def alike(world):
    mesh = lab.Mesh(world, pp=2, dp=2, tp=2)
    x = torch.zeros(1000, 1000) @ torch.zeros(1000, 1000)
    mesh["tp"].all_reduce(x)
    mesh["dp"].reduce_scatter(x)
    nxt = mesh["dp"].isend(x, 1 - mesh["dp"].rank)  # a ring along a folded axis
    mesh["dp"].recv(x, 1 - mesh["dp"].rank)
    nxt.wait()
    if mesh["pp"].rank == 0:
        mesh["pp"].send(x, 1)
    else:
        mesh["pp"].recv(x, 0)
    world.all_reduce(x)
    return mesh["pp"].rank, world.clock()


def test_folded_and_unfolded_runs_agree():
    whole = run(alike, ranks=8, numerics=False)
    folded = run(alike, ranks=8, numerics=False, fold=("dp", "tp"))
    assert folded.results == whole.results and folded.seconds == whole.seconds and folded.memory == whole.memory
    assert {e.rank for e in folded.trace} == {0, 4}  # those that ran
    for rank in (0, 4):
        assert folded.trace.select(rank=rank).events == whole.trace.select(rank=rank).events


def test_a_world_of_alike_ranks_folds_to_one():
    def worker(world):
        world.all_reduce(torch.zeros(1000))
        return world.size

    whole, folded = (run(worker, ranks=16, numerics=False, fold=fold) for fold in ((), ("world",)))
    assert folded.seconds == whole.seconds and folded.results == [16] * 16
    assert {e.rank for e in folded.trace} == {0}


def test_folding_wants_the_mesh_first_and_its_axes():
    with pytest.raises(ValueError, match="make the Mesh before"):
        run(lambda world: world.barrier(), ranks=4, numerics=False, fold=("dp",))
    with pytest.raises(ValueError, match="wants axes of the Mesh"):
        run(lambda world: lab.Mesh(world, tp=4), ranks=4, numerics=False, fold=("dp",))


@pytest.mark.parametrize("how", ["full", "selective"])
@pytest.mark.parametrize("numerics", [True, False])
def test_recomputed_activations_run_twice_and_take_less_memory(how, numerics):
    from llmlab.model import recompute

    config = lab.Config(vocab_size=64, d_model=32, n_layer=4, n_head=4, max_seq=32)

    def worker(world, how):
        model = lab.Transformer(config).to(world.device)
        model = recompute(model, how) if how else model
        tokens = torch.zeros(8, 32, dtype=torch.long, device=world.device)
        model.loss(tokens, tokens).backward()

    plain, again = (lab.Simulator(1, numerics=numerics).run(worker, h) for h in (None, how))
    assert len(again.trace.select(op="attention")) == 2 * len(plain.trace.select(op="attention"))
    assert again.memory[0]["activations"] < plain.memory[0]["activations"]


def test_without_kernels_the_numbers_and_messages_are_the_same_and_computing_is_free():
    def worker(world):
        x = torch.ones(64, 64) * (world.rank + 1)
        return world.all_reduce(x @ x)

    full, bare = lab.Simulator(2).run(worker), lab.Simulator(2, kernels=False).run(worker)
    assert all(torch.equal(a, b) for a, b in zip(full.results, bare.results, strict=True))
    assert bare.trace.comm_bytes() == full.trace.comm_bytes() > 0
    assert {e.stream for e in bare.trace} == {"comm"} and 0 < bare.seconds < full.seconds
    assert "kernels" in bare.not_modelled and "kernels" not in full.not_modelled


def test_a_run_without_kernels_and_without_numbers_is_refused():
    with pytest.raises(ValueError, match="one of them must be True"):
        lab.Simulator(2, kernels=False, numerics=False)


def test_a_barrier_of_one_rank_waits_for_its_device():
    def worker(world):
        x = torch.ones(256, 256, device=world.device)
        for _ in range(4):
            x = x @ x
        before = world.clock()
        world.barrier()
        return before, world.clock()

    run = lab.Simulator(1, numerics=False).run(worker)
    before, after = run.results[0]
    assert before < after == pytest.approx(run.seconds)


def test_a_kernel_named_like_a_collective_is_no_communication():
    run = lab.Simulator(1).run(lambda world: torch.ones(4, 4).gather(1, torch.zeros(4, 4, dtype=torch.long)))
    assert any(e.op == "gather" for e in run.trace) and run.trace.comm_bytes() == 0


def test_a_receiver_that_comes_late_takes_from_any_rank_what_was_sent_first():
    def worker(world):
        x = torch.tensor([float(world.rank)])
        if world.rank:
            world.sleep({1: 0.5, 2: 0.1}[world.rank])
            return world.send(x, 0)
        world.sleep(1.0)
        return [world.recv(x).item(), world.recv(x).item()]

    assert lab.Simulator(3).run(worker).results[0] == [2.0, 1.0]


def test_a_tensor_squeezed_in_place_without_numbers_is_so_every_time():
    def multiply(world):
        x = torch.ones(5, 3, device=world.device)
        return [list((torch.ones(5, device=world.device) @ x).shape) for _ in range(3)]  # ends with a squeeze_

    assert lab.Simulator(1, numerics=False).run(multiply).results == [[[3]] * 3]


@pytest.mark.parametrize("n", [1, 2, 4, 5, 9])
def test_the_latest_of_moments_not_known_yet_is_right_once_all_are_known(n):
    timeline, moments = Timeline(), [When(least=i) for i in range(n)]
    found, told = 7, []
    for i, moment in enumerate(moments):  # each with a delay of its own, and all of them with the next one's
        found = timeline.later(timeline.latest(found, timeline.later(moment, 10 * i)), 1)
    timeline.after([found], told.append)
    times = [(31 * i) % 17 for i in range(n)]
    wanted = 7 + n
    for i, at in enumerate(times):
        wanted = max(wanted, at + 10 * i + n - i)
        assert not told
        timeline.resolve(moments[i], at)
    assert told == [wanted] == [known(found)]
