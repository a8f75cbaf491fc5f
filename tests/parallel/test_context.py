"""Context parallelism equals one process, in every order of tokens, and does no work in the future."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.cost.modes.context import activation_bytes, causal_pairs, received_bytes, ring_bytes, ulysses_bytes
from llmlab.model import Config, Transformer
from llmlab.model.attention import attend_formula, attend_fused, document_mask
from llmlab.model.recomputing import recompute
from llmlab.parallel import blockwise, ring
from llmlab.parallel.context import ORDER, columns, context_parallel
from llmlab.parallel.ring import ORDERS, attend_ring, order_of, tile_of
from llmlab.parallel.ulysses import attend_ulysses
from tests.parallel.comparing import distance, joined, numbers

HOWS = ("ring", "contiguous", "striped", "ulysses")
B, T = 3, 24
GPT = Config(vocab_size=17, d_model=24, n_layer=2, n_head=12, max_seq=T, dropout=0.2, dtype=torch.float64)
LLAMA = Config(
    vocab_size=17, d_model=24, n_layer=2, n_head=12, n_kv_head=3, max_seq=T, norm="rmsnorm", mlp="swiglu",
    position="rotary", bias=False, tie_embeddings=False, dtype=torch.float64,
)  # fmt: skip


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Tokens and targets, [B, T] each; the whole first half of one sequence does not count."""
    generator = torch.Generator().manual_seed(step)
    tokens, targets = torch.randint(0, 17, (2, B, T), generator=generator)
    targets[0, : T // 2].fill_(-100)
    return tokens, targets


def documents() -> tuple[Tensor, Tensor]:
    """Three documents in the first sequence, one in the others: positions that begin anew, and who may see whom."""
    number = torch.zeros(B, T, dtype=torch.long)
    number[0, 7:16], number[0, 16:] = 1, 2
    starts = torch.zeros(B, T, dtype=torch.long)
    starts[0, 7:16], starts[0, 16:] = 7, 16
    return torch.arange(T) - starts, document_mask(number)


@cache
def train_alone(config: Config, packed: bool):
    """The reference, in plain torch: losses, the last step's gradients, weights."""
    model, losses = Transformer(config), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    positions, mask = documents() if packed else (None, None)
    for step in range(3):
        tokens, targets = batch(step)
        optimizer.zero_grad()
        loss = cross_entropy(model(tokens, positions, mask).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), joined(p.grad for p in model.parameters()), joined(model.parameters())


def train(world, config: Config, packed: bool, how: str, again: str = "none"):
    """The same run, each rank with its columns. again: what is recomputed."""
    model, losses = context_parallel(Transformer(config).to(world.device), world, how), []
    if again != "none":
        recompute(model, again)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    held = columns(T, world, how)
    positions, mask = documents() if packed else (torch.arange(T).expand(B, T), None)
    positions, mask = positions[:, held].to(world.device), None if mask is None else mask[:, :, held].to(world.device)
    for step in range(3):
        tokens, targets = batch(step)
        n_target = (targets != -100).sum().to(world.device)
        optimizer.zero_grad()
        logits = model(tokens[:, held].to(world.device), positions, mask)
        loss = cross_entropy(logits.flatten(0, 1), targets[:, held].flatten().to(world.device), reduction="sum")
        (loss / n_target).backward()
        for p in model.parameters():
            world.all_reduce_(p.grad)
        optimizer.step()
        losses.append(world.all_reduce(loss.detach()) / n_target)
    return torch.stack(losses), joined(p.grad for p in model.parameters()), joined(model.parameters())


LAYOUTS = [
    *((LLAMA, True, how, ranks) for how in ("ring", "ulysses") for ranks in (2, 3, 4)),
    *((LLAMA, True, how, 3) for how in ("contiguous", "striped")),
    *((GPT, False, how, ranks) for how, ranks in (("ring", 1), ("ring", 4), ("ulysses", 3), ("striped", 2))),
]


@pytest.mark.parametrize(("config", "packed", "how", "ranks"), LAYOUTS, ids=lambda x: getattr(x, "mlp", str(x)))
def test_losses_gradients_and_weights_after_3_steps_are_the_single_processs(config, packed, how, ranks):
    results = numbers(ranks).run(train, config, packed, how).results
    assert distance(train_alone(config, packed), results[0]) < 1e-9
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("how", ["ring", "ulysses"])
@pytest.mark.parametrize("again", ["selective", "full"])
def test_recomputed_activations_change_nothing(again, how):
    plain, recomputed = (numbers(2).run(train, LLAMA, True, how, what).results[0] for what in ("none", again))
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_two_processes_train_as_one_and_hand_over_the_simulators_bytes():
    with Processes(2) as live:
        for how in ("ring", "ulysses"):
            real, simulated = (engine.run(train, LLAMA, True, how) for engine in (live, numbers(2)))
            for many in real.results:
                assert distance(train_alone(LLAMA, True), many) < 1e-9
            for rank in range(2):
                assert real.trace.comm_bytes(rank) == simulated.trace.comm_bytes(rank) > 0


# --- attention itself -------------------------------------------------------------------------------------------------


def slices(world, q, k, v, grad, mask, causal, how):
    """This rank's columns, its output and its gradients."""
    held = columns(q.shape[2], world, how)
    q, k, v = (x[:, :, held].requires_grad_() for x in (q, k, v))
    mask = None if mask is None else mask[:, :, held] if mask.shape[2] > 1 else mask
    if how == "ulysses":
        out = attend_ulysses(q, k, v, mask, causal, group=world, attend=attend_fused)
    else:
        out = attend_ring(q, k, v, mask, causal, group=world, order=ORDER[how])
    out.backward(grad[:, :, held])
    return held, (out.detach(), q.grad, k.grad, v.grad)


def alone(q, k, v, grad, mask, causal):
    q, k, v = (x.clone().double().requires_grad_() for x in (q, k, v))
    out = attend_formula(q, k, v, mask, causal)
    out.backward(grad.double())
    return out.detach(), q.grad, k.grad, v.grad


def inputs(key_heads: int, dtype: torch.dtype = torch.float64, length: int = T) -> list[Tensor]:
    shapes = [(2, 12, length, 4), (2, key_heads, length, 4), (2, key_heads, length, 4), (2, 12, length, 4)]
    return [torch.randn(shape).to(dtype) for shape in shapes]


def blind() -> Tensor:
    """Some see nothing at all, some nothing of what another rank holds, and some what only the future has."""
    mask = torch.rand(2, 1, T, T) < 0.3
    mask[:, :, 5] = False
    mask[0, :, :, 4:] = False
    return mask


MASKS = {"no mask": lambda: None, "blind": blind, "padding": lambda: (torch.arange(T) < 9).expand(2, 1, 1, T)}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("ranks", "key_heads"), [(3, 2), (4, 6)])
def test_output_and_gradients_are_those_of_the_formula_and_never_nan(ranks, key_heads, how, causal, mask):
    given, mask = inputs(key_heads), MASKS[mask]()
    wanted = alone(*given, mask, causal)
    for held, got in numbers(ranks).run(slices, *given, mask, causal, how).results:
        for one, part in zip(wanted, got, strict=True):
            assert (part - one[:, :, held]).norm() <= 1e-12 * one.norm()


def error(results, wanted, which: int) -> float:
    """How far the ranks' outputs (0) or gradients (1, 2, 3) are from the wanted ones, relative to all of them."""
    off = sum((got[which] - wanted[which][:, :, held]).square().sum() for held, got in results)
    return (off / wanted[which].square().sum()).sqrt().item()


def test_16_bit_blocks_are_added_up_in_32_bits(monkeypatch):
    def rounding(out, *block):
        merge(out, *block)
        out.copy_(out.bfloat16())

    given, merge = inputs(12, torch.bfloat16, length=128), ring.merge
    wanted = alone(*given, None, False)
    run = partial(numbers(16).run, slices, *given, None, False, "ring")
    wide = run().results
    assert all(error(wide, wanted, which) < 2**-8 for which in range(4))  # a rounding to bf16 is at most 2^-9
    monkeypatch.setattr(ring, "merge", rounding)
    assert error(run().results, wanted, 0) > 1.3 * error(wide, wanted, 0)


def test_fp32_differs_from_the_formula_in_fp64_by_rounding_only():
    given = inputs(3, torch.float32)
    wanted, results = alone(*given, None, True), numbers(4).run(slices, *given, None, True, "ring").results
    assert all(error(results, wanted, which) < 6e-8 * T for which in range(4))  # sums of up to T terms


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_the_formula_for_other_devices_gives_what_the_cpus_kernel_gives(masked, causal):
    q, k, v, grad = inputs(4)
    args = (torch.stack((k, v)), blind() if masked else None, causal, 1)
    out, lse = blockwise.attention(q, *args)
    torch.testing.assert_close(blockwise._formula(q, *args), (out, lse))
    kernel, formula = blockwise.attention_backward, blockwise._formula_backward
    torch.testing.assert_close(
        formula(grad, q, args[0], out, lse, *args[1:]), kernel(grad, q, args[0], out, lse, *args[1:])
    )


@pytest.mark.gpu
@pytest.mark.parametrize("masked", [True, False])
def test_a_gpu_gives_what_the_cpus_kernel_gives(masked):
    q, k, v, grad = inputs(4)
    args = (q, torch.stack((k, v)), blind() if masked else None, True, 1)
    on_gpu = [x.cuda() if isinstance(x, Tensor) else x for x in args]
    out, lse = blockwise.attention(*args)
    torch.testing.assert_close([x.cpu() for x in blockwise.attention(*on_gpu)], [out, lse])
    wanted = blockwise.attention_backward(grad, *args[:2], out, lse, *args[2:])
    got = blockwise.attention_backward(grad.cuda(), *on_gpu[:2], out.cuda(), lse.cuda(), *on_gpu[2:])
    torch.testing.assert_close([x.cpu() for x in got], list(wanted))


# --- who computes what ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_blocks_are_all_pairs_of_the_past_each_once(size, order):
    seq, seen, counted = 4 * size, torch.zeros(4 * size, 4 * size, dtype=torch.int), 0
    pairs = []
    for rank in range(size):
        before = int(seen.sum())
        for owner in range(size):
            block = tile_of(order, True, rank, owner, size, 4)
            if block is None:
                continue
            rows, cols = order_of(seq, rank, size, order)[block.queries], order_of(seq, owner, size, order)[block.keys]
            visible = torch.ones(len(rows), len(cols), dtype=torch.int)
            seen[rows[:, None], cols] += visible.tril() if block.causal else visible
            counted += len(rows) * len(cols) * block.counted
        pairs.append(int(seen.sum()) - before)
    assert torch.equal(seen, torch.ones(seq, seq, dtype=torch.int).tril())
    assert pairs == causal_pairs(order, seq, size)
    assert counted == seq * seq or order == "striped" and counted <= seq * seq  # as a whole T x T is counted


def attention_flops(run, rank: int) -> list[int]:
    return [e.flops for e in run.trace.select(rank=rank, stream="compute") if e.op.startswith("attention")]


def test_in_zigzag_every_rank_computes_the_same_at_every_step_and_contiguous_ranks_do_not():
    even, uneven = (
        Simulator(4, numerics=False).run(slices, *inputs(12, length=64), None, True, how)
        for how in ("ring", "contiguous")
    )
    for rank in range(4):
        assert attention_flops(even, rank) == attention_flops(even, 0)
        assert len(attention_flops(uneven, rank)) == 2 * (rank + 1)  # what lies in the future is not even launched
    whole = 4 * 2 * 12 * 64 * 64 * 4
    assert even.trace.flops() == uneven.trace.flops() == 4 * sum(attention_flops(even, 0)) == whole + int(2.5 * whole)
    assert [sum(attention_flops(uneven, rank)) * 16 // (whole * 7 // 2) for rank in range(4)] == [1, 3, 5, 7]


def long_attention(world, how):
    """Attention alone over 8,192 tokens."""
    q, k, v = (torch.zeros(1, 8, 8192 // world.size, 64, device=world.device, requires_grad=True) for _ in range(3))
    attend_ring(q, k, v, None, True, group=world, order=ORDER[how]).sum().backward()


def test_zigzag_takes_about_half_of_contiguous_and_a_quarter_of_one_rank():
    one, even, uneven = (
        Simulator(ranks, numerics=False).run(long_attention, how).seconds
        for ranks, how in ((1, "ring"), (4, "ring"), (4, "contiguous"))
    )
    assert one / even == pytest.approx(4, rel=0.1)
    assert uneven / even == pytest.approx(7 / 4, rel=0.1)  # the last rank's 1 + 2 + 2 + 2 of 16 against 4 of 16


def test_the_hops_are_hidden_behind_the_blocks_and_waiting_first_is_seen(monkeypatch):
    hidden = Simulator(4, numerics=False).run(long_attention, "ring")

    def wait_at_once(x, group):
        return ring.stay(start(x, group).wait())

    start = ring.pass_on
    monkeypatch.setattr(ring, "pass_on", wait_at_once)
    exposed = Simulator(4, numerics=False).run(long_attention, "ring")
    assert exposed.trace.comm_bytes() == hidden.trace.comm_bytes()
    # what cannot be hidden: the last hop, which brings the gradients home
    assert hidden.trace.exposed(0) < exposed.trace.exposed(0) / 3


# --- bytes and memory -------------------------------------------------------------------------------------------------


def one_step(world, config, how, again="none", packed=False):
    model = context_parallel(Transformer(config).to(world.device), world, how)
    if again != "none":
        recompute(model, again)
    length = config.max_seq
    held = columns(length, world, how)
    tokens = torch.zeros(2, length // world.size, dtype=torch.long, device=world.device)
    mask = torch.ones(2, 1, length // world.size, length, dtype=torch.bool, device=world.device) if packed else None
    model.loss(tokens, tokens, held.to(world.device), mask).backward()


def sizes(dtype=torch.float32, key_heads=12, n_layer=2, length=48, width=96):
    return Config(64, width, n_layer, 12, length, n_kv_head=key_heads, d_ff=4 * width, dtype=dtype)


@pytest.mark.parametrize(
    ("ranks", "key_heads", "dtype", "again"),
    [(1, 12, torch.float32, "full"), (2, 3, torch.bfloat16, "full"), (3, 12, torch.float64, "none"),
     (4, 1, torch.float32, "full"), (4, 6, torch.bfloat16, "none")],
)  # fmt: skip
def test_every_rank_hands_over_the_closed_forms_bytes(ranks, key_heads, dtype, again):
    config, forwards = sizes(dtype, key_heads), 1 if again == "none" else 2
    for how in HOWS:
        formula = ulysses_bytes if how == "ulysses" else ring_bytes
        run = numbers(ranks).run(one_step, config, how, again)
        for rank in range(ranks):
            assert run.trace.comm_bytes(rank) == formula(config, 2, 48, ranks, forwards=forwards)


@pytest.mark.parametrize("how", HOWS)
def test_meta_tensors_give_the_same_operations_bytes_and_virtual_time(how):
    def stream(numerics):
        run = Simulator(3, numerics=numerics).run(one_step, sizes(key_heads=3), how, packed=True)
        return [(e.rank, e.stream, e.op, e.nbytes, e.flops, e.start, e.stop) for e in run.trace], run.seconds

    assert stream(True) == stream(False)


def test_ulysses_gathers_a_masks_rows_and_the_ring_does_not():
    for how, wanted in (
        ("ring", ring_bytes(sizes(), 2, 48, 2)),
        ("ulysses", ulysses_bytes(sizes(), 2, 48, 2, masks=2)),
    ):
        assert Simulator(2, numerics=False).run(one_step, sizes(), how, packed=True).trace.comm_bytes(1) == wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("ranks", "key_heads"), [(1, 12), (2, 3), (4, 12)])
@pytest.mark.parametrize("how", ["ring", "ulysses"])
def test_peak_memory_is_the_closed_forms(how, ranks, key_heads, dtype):
    config = sizes(dtype, key_heads, n_layer=6, length=512)
    for memory in Simulator(ranks, numerics=False).run(one_step, config, how).memory:
        assert memory["activations"] == pytest.approx(activation_bytes(config, 2, 512, ranks, how), rel=0.05)
        if how == "ring":
            assert memory["communication"] == received_bytes(config, 2, 512, ranks)


@pytest.mark.parametrize("position", ["learned", "rotary"])
@pytest.mark.parametrize("how", ["ring", "ulysses"])
def test_peak_memory_of_heads_wider_than_the_model_is_the_closed_forms(how, position):
    config = replace(sizes(n_layer=4, length=512), head_dim=16, position=position, attention_bias="qkv")
    for memory in Simulator(2, numerics=False).run(one_step, config, how).memory:
        assert memory["activations"] == pytest.approx(activation_bytes(config, 2, 512, 2, how), rel=0.05)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def forget_the_rescaling(out, lse, more, more_lse):
    out += more


def mask_of_our_own_columns(mask, block, owner, ctx):
    return mask if mask is None else cut(mask, block, ctx.group.rank, ctx)


def everything_is_past(order, causal, *where):
    return blocks(order, False, *where)


def contiguous_blocks(order, *where):
    return blocks("contiguous", *where)


def stay_with_gradients(x, group):
    """kv goes round, as its own iteration asks; backward's other hops do not happen."""
    return hop(x, group) if sys._getframe(1).f_code.co_name == "__iter__" else ring.stay(x)


cut, hop, blocks = ring.mask_of, ring.pass_on, ring.tile_of
MISTAKES = {
    "blocks added without their logsumexp": (ring, "merge", forget_the_rescaling),
    "the wrong rank's columns of the mask": (ring, "mask_of", mask_of_our_own_columns),
    "a ring that does not turn": (ring, "pass_on", lambda x, group: ring.stay(x)),
    "blocks of the future computed": (ring, "tile_of", everything_is_past),
    "zigzag slices held, contiguous ones assumed": (ring, "tile_of", contiguous_blocks),
    "the gradients of keys and values left where they are": (ring, "pass_on", stay_with_gradients),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_comparison_catches(mistake, monkeypatch):
    monkeypatch.setattr(*MISTAKES[mistake])
    assert distance(train_alone(LLAMA, True), numbers(2).run(train, LLAMA, True, "ring").results[0]) > 1e-4


# --- rules ------------------------------------------------------------------------------------------------------------


def test_a_group_of_one_leaves_the_model_alone():
    def worker(world):
        return [block.attention.attend is attend_fused for block in context_parallel(Transformer(GPT), world).blocks]

    assert numbers(1).run(worker).results == [[True, True]]


def refused(ranks, action) -> str:
    """What the ranks are told; nothing has been sent."""

    def worker(world):
        with pytest.raises(ValueError) as told:
            action(world)
        return str(told.value)

    run = Simulator(ranks).run(worker)
    assert run.trace.comm_bytes() == 0
    assert len(set(run.results)) == 1
    return run.results[0]


def test_what_cannot_be_split_is_refused_before_anything_is_sent():
    q = torch.zeros(1, 12, 4, 2)
    assert "wants one of ring" in refused(2, lambda world: columns(T, world, "spiral"))
    assert "wants one of ring" in refused(2, lambda world: context_parallel(Transformer(GPT), world, "spiral"))
    assert "into 4 slices over world=2, got 26" in refused(2, lambda world: columns(26, world))
    assert "over world=5: it must divide, got 12" in refused(
        5, lambda world: context_parallel(Transformer(GPT), world, "ulysses")
    )
    attend = partial(attend_ring, order="zigzag")
    assert "as many keys as queries" in refused(2, lambda world: attend(q, q[:, :, :2], q[:, :, :2], group=world))
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    assert "columns for all 8" in refused(2, lambda world: attend(q, q, q, mask, group=world))
    odd = torch.zeros(1, 12, 3, 2)
    assert "two slices of one length" in refused(2, lambda world: attend(odd, odd, odd, group=world))
    of_heads = torch.ones(1, 12, 4, 8, dtype=torch.bool)
    ulysses = partial(attend_ulysses, attend=attend_fused)
    assert "one mask for all heads" in refused(2, lambda world: ulysses(q, q, q, of_heads, group=world))
