"""The split table and the split loss equal the whole ones, padding, smoothing and ignored targets included."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from llmlab.comm.group import Group
from llmlab.model import IGNORE, cross_entropy
from llmlab.model.embedding import Table
from llmlab.parallel import vocabulary
from llmlab.parallel.placement import Shard, shard_of
from llmlab.parallel.vocabulary import split_table, vocabulary_cross_entropy, whole_logits
from tests.parallel.comparing import numbers

V = 10  # over 3 ranks: 4, 4 and 2 rows; over 4: 3, 3, 3 and 1; over 7: 2 each for 5 ranks, and two ranks with none


def problem(dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits [2, 5, V] of a size that overflows a careless exp, targets with two ignored, and a weight per token."""
    generator = torch.Generator().manual_seed(1)
    logits = 300 * torch.randn(2, 5, V, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, V, (2, 5), generator=generator)
    targets[0, 1] = targets[1, 4] = IGNORE
    return logits.to(dtype), targets, torch.rand(2, 5, generator=generator, dtype=torch.float64)


def split_loss(world, reduction: str, smoothing: float, dtype=torch.float64):
    """The loss of split logits, and the gathered gradient of the logits."""
    logits, targets, weight = problem(dtype)
    rows = Shard(world, 2, V)
    z = rows.take(logits).requires_grad_()
    loss = vocabulary_cross_entropy(z, targets, rows, smoothing, reduction)
    (loss * weight).sum().backward() if reduction == "none" else loss.backward()
    return loss.detach(), rows.gather(z.grad)


def whole_loss(reduction: str, smoothing: float, dtype=torch.float64):
    logits, targets, weight = problem(dtype)
    logits.requires_grad_()
    flat = logits.flatten(0, 1).to(torch.promote_types(dtype, torch.float32)), targets.flatten()
    loss = F.cross_entropy(*flat, label_smoothing=smoothing, reduction=reduction, ignore_index=IGNORE)
    loss = loss.view(2, 5) if reduction == "none" else loss
    (loss * weight).sum().backward() if reduction == "none" else loss.backward()
    return loss.detach(), logits.grad


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_the_split_cross_entropy_and_its_gradient_are_torchs(ranks, reduction, smoothing):
    wanted = whole_loss(reduction, smoothing)
    for got in numbers(ranks).run(split_loss, reduction, smoothing).results:
        for a, b in zip(wanted, got, strict=True):
            assert (a - b).norm() <= 1e-12 * a.norm()


def test_sixteen_bit_logits_are_summed_in_fp32_and_get_a_sixteen_bit_gradient():
    wanted = whole_loss("mean", 0.0, torch.bfloat16)
    for loss, grad in numbers(3).run(split_loss, "mean", 0.0, torch.bfloat16).results:
        assert (loss.dtype, grad.dtype) == (torch.float32, torch.bfloat16)
        assert abs(loss - wanted[0]) <= 1e-6 * wanted[0]  # fp32 sums of 10 terms
        assert (grad - wanted[1]).norm() <= 2**-8 * wanted[1].norm()  # a bf16 rounding


def test_the_mean_over_no_target_is_nan_and_its_sum_zero_as_in_torch():
    def worker(world):
        rows = Shard(world, 1, V)
        z, targets = torch.ones(3, rows.part), torch.full((3,), IGNORE)
        return [vocabulary_cross_entropy(z, targets, rows, reduction=reduction).item() for reduction in ("mean", "sum")]

    for mean, total in numbers(2).run(worker).results:
        assert mean != mean and total == 0.0


def test_a_loss_hands_over_three_numbers_a_token_and_its_backward_none():
    run = numbers(2).run(split_loss, "mean", 0.0)
    gathered = 8 * 10 * V // 2
    assert [e.nbytes for e in run.trace.select(rank=0, stream="comm")] == [8 * 10, 2 * 8 * 10, gathered]


def test_ranks_that_subtract_their_own_largest_logit_add_up_what_does_not_belong_together(monkeypatch):
    all_reduce = Group.all_reduce
    monkeypatch.setattr(Group, "all_reduce", lambda group, x, op="sum": x if op == "max" else all_reduce(group, x, op))
    wanted = whole_loss("mean", 0.0)[0]
    assert all(abs(loss - wanted) > 0.1 * wanted for loss, _ in numbers(2).run(split_loss, "mean", 0.0).results)


# --- the table --------------------------------------------------------------------------------------------------------


def make_table() -> Table:
    table = Table(V, 3, torch.float64, "token")
    nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(2))
    return table


def look_up(world, tokens: list[int]):
    """Rows looked up in a split table; then what the weight's gradient is, gathered."""
    table = make_table()
    split_table(table, world)
    rows = table(torch.tensor(tokens))
    (rows**2).sum().backward()
    shard = shard_of(table.weight)
    return rows.detach(), shard.gather(table.weight.grad), table.weight.detach()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_the_split_table_gives_the_rows_of_the_whole_and_its_gradient(ranks):
    tokens, table = [0, 9, 3, 3, 4, 8], make_table()
    wanted = table(torch.tensor(tokens))
    (wanted**2).sum().backward()
    for rows, grad, _ in numbers(ranks).run(look_up, tokens).results:
        assert torch.equal(rows, wanted)
        assert torch.equal(grad, table.weight.grad)


def test_a_rank_holds_v_over_p_rows_rounded_up_and_zeros_where_the_vocabulary_ends():
    held = [weight for _, _, weight in numbers(4).run(look_up, [0]).results]
    assert [len(weight) for weight in held] == [3] * 4
    assert torch.equal(held[3][0], make_table().weight[9])
    assert not held[3][1:].any()


@pytest.mark.parametrize("token", [-1, V, V + 1])
def test_a_number_outside_the_vocabulary_is_refused_on_every_rank(token):
    def worker(world):
        with pytest.raises(ValueError, match=f"token wants numbers from 0 to 9, got .*{token}"):
            look_up(world, [2, token, 3])
        rows = Shard(world, 1, V)
        with pytest.raises(ValueError, match=f"targets wants numbers from 0 to 9, got .*{token}"):
            vocabulary_cross_entropy(torch.zeros(2, rows.part), torch.tensor([token, 1]), rows)

    numbers(4).run(worker)


@pytest.mark.parametrize("target", [-1, V, 2**40])
def test_a_target_outside_the_vocabulary_is_refused_in_the_words_of_one_process(target):
    targets = torch.tensor([IGNORE, 3, target, 4])
    with pytest.raises(ValueError, match="the ignore_index, -100") as alone:
        cross_entropy(torch.zeros(4, V), targets)

    def worker(world):
        rows = Shard(world, 1, V)
        with pytest.raises(ValueError) as split:
            vocabulary_cross_entropy(torch.zeros(4, rows.part), targets, rows)
        return str(split.value)

    assert numbers(4).run(worker).results == [str(alone.value)] * 4


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint16])
def test_targets_may_be_integers_of_any_dtype(dtype):
    def worker(world):
        rows = Shard(world, 1, V)
        logits, targets = torch.arange(4.0 * rows.part).view(4, rows.part), torch.tensor([0, 3, V - 1, 4])
        losses = [vocabulary_cross_entropy(logits, t, rows) for t in (targets, targets.to(dtype))]
        return torch.equal(*losses)

    assert all(numbers(4).run(worker).results)


def test_logits_can_be_gathered_without_the_padding():
    def worker(world):
        return whole_logits(Shard(world, 2, V).take(problem()[0]), V, world)

    for got in numbers(3).run(worker).results:
        assert torch.equal(got, problem()[0])


def test_padding_is_no_part_of_the_vocabulary(monkeypatch):
    def even_logits(world):
        rows = Shard(world, 1, V)
        return vocabulary_cross_entropy(torch.zeros(2, rows.part), torch.tensor([1, 9]), rows).item()

    assert numbers(3).run(even_logits).results == pytest.approx([log(10)] * 3)
    monkeypatch.setattr(vocabulary, "held", lambda rows: rows.part)  # planted: count it
    assert numbers(3).run(even_logits).results == pytest.approx([log(12)] * 3)
