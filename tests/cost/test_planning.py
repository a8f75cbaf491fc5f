"""Plans: the same set and the same best as trying everything one by one; what is impossible names what is possible."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest

from llmlab.cost.arrays import columns
from llmlab.cost.candidates import Choices, Workload, candidates
from llmlab.cost.comparing import doubt, exposure
from llmlab.cost.models import find_config
from llmlab.cost.planning import NEAR, plan, rank
from llmlab.cost.plans import Prices, say_layout
from llmlab.cost.prediction import MARGIN, RECOMPUTE, predict
from llmlab.hardware import cluster
from llmlab.model import Config
from llmlab.parallel.layout import Layout

SMALL = Config(vocab_size=512, d_model=240, n_layer=6, n_head=12, n_kv_head=4, d_ff=720, max_seq=128)
EXPERTS = dataclasses.replace(SMALL, n_expert=4)
LLAMA = find_config("llama3-8b")
A100 = cluster("a100")


def one_by_one(config, gpus, batch, seq, zeros, schedules, virtual_stages):
    """Every legal layout, by asking `Layout.check` of every combination there is, but those that change nothing."""
    sizes = [2**k for k in range(batch.bit_length())]
    degrees = range(1, gpus + 1)
    for dp, tp, pp, cp in product(degrees, repeat=4):
        if dp * tp * pp * cp != gpus or batch % dp:
            continue
        ways = product(degrees, sizes, zeros, (False, True), schedules, (1, *virtual_stages))
        for ep, size, zero, sequence_parallel, schedule, v in ways:
            if batch // dp % size or (ep > 1 and not config.n_expert):
                continue
            if (dp * cp == 1 and zero) or (tp == 1 and sequence_parallel) or (pp == 1 and schedule != "1f1b"):
                continue
            if (v > 1) != (schedule == "interleaved"):
                continue
            layout = Layout(
                dp=dp, tp=tp, pp=pp, cp=cp, ep=ep, zero=zero, sequence_parallel=sequence_parallel,
                schedule=schedule, virtual_stages=v, microbatches=batch // dp // size,
            )  # fmt: skip
            try:
                layout.check(config, batch, seq, gpus)
            except ValueError:
                continue
            yield layout


@pytest.mark.parametrize("config", [SMALL, EXPERTS], ids=["dense", "experts"])
def test_the_plan_is_what_trying_everything_one_by_one_finds(config):
    gpus, batch, seq, v = 12, 24, 128, (2, 3)
    expected = list(one_by_one(config, gpus, batch, seq, (0, 1, 3), ("1f1b", "interleaved", "zb_h1"), v))
    found = plan(
        config, A100, gpus=gpus, global_batch=batch, seq=seq, zero=(0, 1, 3), virtual_stages=v,
        recompute=("none", "full"), memory_share=1.0, limit=None,
    )  # fmt: skip
    assert len(expected) == len(set(expected)) > 200
    assert {(row.layout, row.recompute) for row in found} == set(product(expected, ("none", "full")))
    assert len(found) == found.fitting == 2 * len(expected)  # so small a model fits every way
    alone = predict(config, expected, A100, global_batch=batch, seq=seq).seconds
    assert min(row.prediction.seconds for row in found) == pytest.approx(min(alone), rel=1e-12)
    best = predict(config, found[0].layout, A100, global_batch=batch, seq=seq, recompute=found[0].recompute)
    assert found[0].prediction.breakdown == pytest.approx(best.breakdown) and found[0].prediction.ranks == gpus
    assert in_steps([counted(row) for row in found])


def counted(row):
    """What a layout is ranked by: its seconds, and one sigma of them."""
    return row.prediction.seconds * np.exp(doubt(exposure(row.prediction))[0])


def in_steps(seconds):
    """Whether no layout comes before one that is a whole step of 2% faster."""
    steps = np.floor(np.log(np.array(seconds) / min(seconds)) / NEAR + 1e-6)
    return bool((np.diff(steps) >= 0).all())


def test_only_what_fits_is_planned_and_the_rest_is_counted():
    tight = dataclasses.replace(A100, device=dataclasses.replace(A100.device, memory_bytes=20 * 2**30))
    roomy = dataclasses.replace(A100, device=dataclasses.replace(A100.device, memory_bytes=2**60))
    asked = {"gpus": 16, "global_batch": 32, "seq": 2048, "limit": None, "schedules": ["1f1b"]}
    every, few = plan(LLAMA, roomy, **asked), plan(LLAMA, tight, **asked)
    small = {(row.layout, row.recompute) for row in every if row.prediction.memory_bytes <= MARGIN * 20 * 2**30}
    assert {(row.layout, row.recompute) for row in few} == small
    assert 0 < few.fitting < every.fitting == few.fitting + few.refused.too_large
    assert few.refused.least_bytes == pytest.approx(min(row.prediction.memory_bytes for row in every))
    assert all(row.prediction.verdict == "fits" for row in few)


def test_every_planned_layout_is_legal_and_fills_the_gpus():
    for row in plan(find_config("mixtral-8x7b"), gpus=32, global_batch=64, seq=2048, limit=500):
        row.layout.check(find_config("mixtral-8x7b"), 64, 2048, 32)


def test_illegal_layouts_are_counted_by_the_rule_they_break():
    rules = plan(SMALL, A100, gpus=8, global_batch=8, seq=128).refused.rules
    assert rules["n_head=12 does not split over tp=8"] == 1
    assert rules["pp=8 x virtual_stages=1 = 8 stages want a layer each, got n_layer=6"] == 1
    assert all(";" not in rule for rule in rules)


def test_among_equal_seconds_the_simpler_layout_is_first():
    simple_to_complex = [
        Layout(dp=8),
        Layout(dp=8, microbatches=2),
        Layout(dp=8, zero=1),
        Layout(dp=4, tp=2),
        Layout(dp=4, cp=2),
        Layout(dp=4, tp=2, sequence_parallel=True),
        Layout(dp=2, tp=2, pp=2),
    ]
    shuffled = simple_to_complex[::-1]
    for noise in (0.0, 1e-12):  # sums in another order
        seconds = np.array([1.0 + noise * i for i in range(7)] * 2)
        order = rank(columns(shuffled), seconds, np.full(14, True), kinds=2)
        found = [(shuffled[i % 7], i // 7) for i in order]
        assert [layout for layout, again in found if not again] == sorted(
            simple_to_complex, key=lambda x: (split_axes(x), x.cp, x.zero, x.sequence_parallel, x.tp, x.microbatches)
        )
        assert all(a[0] == b[0] and (a[1], b[1]) == (0, 1) for a, b in zip(found[::2], found[1::2], strict=True))


def split_axes(layout):
    return sum(degree > 1 for degree in (layout.dp, layout.tp, layout.pp, layout.cp, layout.ep))


def test_virtual_stages_are_by_default_those_of_equal_chunks():
    def virtual_stages(gpus, n_layer):
        found, _ = candidates(Workload(dataclasses.replace(SMALL, n_layer=n_layer), A100, gpus, 16, 128), Choices())
        return {v for v, pp in zip(found.virtual_stages.tolist(), found.pp.tolist(), strict=True) if pp == gpus}

    assert virtual_stages(2, 12) == {1, 2, 3, 6} and virtual_stages(4, 12) == {1, 3}
    assert virtual_stages(4, 10) == {1}  # unequal already


def test_prices_are_only_those_stated():
    silent = plan(SMALL, "tpu-v4", gpus=4, global_batch=8, seq=128)[0]
    assert silent.money is None and silent.energy_kwh is None  # no price was said, no data sheet says its power
    row = plan(
        SMALL,
        "h100",
        gpus=4,
        global_batch=8,
        seq=128,
        tokens=1e12,
        prices=Prices(per_gpu_hour=2.0, per_kwh=0.1, pue=1.5),
    )[0]
    assert row.gpu_hours == pytest.approx(1e12 / (8 * 128) * row.prediction.seconds * 4 / 3600)
    assert row.energy_kwh == pytest.approx(row.gpu_hours * 0.7 * 1.5)  # the data sheet's 700 W
    assert row.money == pytest.approx(row.gpu_hours * 2.0 + row.energy_kwh * 0.1)
    drawn = plan(SMALL, "tpu-v4", gpus=4, global_batch=8, seq=128, prices=Prices(watts_per_gpu=200.0))[0]
    assert drawn.energy_kwh == pytest.approx(drawn.gpu_hours * 0.2) and drawn.money is None


@pytest.mark.parametrize(("wrong", "says"), [({"per_gpu_hour": -1.0}, "at least 0"), ({"pue": 0.5}, "at least 1")])
def test_a_price_below_nothing_is_refused(wrong, says):
    with pytest.raises(ValueError, match=f"Prices wants .* as a number of {says}"):
        Prices(**wrong)


def test_recomputing_is_chosen_or_given():
    asked = {"gpus": 64, "global_batch": 64, "seq": 2048, "limit": None, "schedules": ["1f1b"]}
    free, given = (plan("gpt3-175b", "a100", recompute=kinds, **asked) for kinds in (None, "full"))
    assert {row.recompute for row in free} == set(RECOMPUTE) and {row.recompute for row in given} == {"full"}
    assert free[0].prediction.seconds <= given[0].prediction.seconds


def test_a_model_too_large_names_the_fewest_gpus_that_hold_it():
    with pytest.raises(ValueError, match=r"no layout fits on 8 x a100: .* nearest: fits on (\d+) GPUs") as refused:
        plan(find_config("gpt3-175b"), "a100", gpus=8, global_batch=64, seq=2048)
    fewest = int(str(refused.value).rpartition("fits on ")[2].split()[0])
    assert plan(find_config("gpt3-175b"), "a100", gpus=fewest, global_batch=64, seq=2048).fitting
    for fewer in range(16, fewest, 8):
        with pytest.raises(ValueError, match=f"fits on {fewest} GPUs"):
            plan(find_config("gpt3-175b"), "a100", gpus=fewer, global_batch=64, seq=2048)


def test_a_batch_that_nothing_divides_names_the_nearest():
    with pytest.raises(ValueError, match=r"no legal layout on 97 GPUs .* nearest batch: 194 or 291"):
        plan(LLAMA, gpus=97, global_batch=200, seq=2048)
    with pytest.raises(ValueError, match="nearest batch: 97$"):
        plan(LLAMA, gpus=97, global_batch=5, seq=2048)
    assert plan(LLAMA, gpus=97, global_batch=194, seq=2048).fitting


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"gpus": 0}, "gpus as a whole number of at least 1; got 0"),
        ({"gpus": 8.0}, "gpus as a whole number"),
        ({"global_batch": -1}, "global_batch as a whole number"),
        ({"zero": (4,)}, "zero as one of 0, 1, 2, 3; got 4"),
        ({"schedules": ("best",)}, "schedules as one of"),
        ({"recompute": "some"}, "recompute as one of"),
        ({"cluster": "h1000"}, "did you mean 'h100'"),
        ({"prices": 2.5}, "prices as a Prices; got 2.5; write lab.Prices"),
    ],
)
def test_what_cannot_be_planned_is_refused(wrong, says):
    with pytest.raises(ValueError, match=says):
        plan(**{"config": SMALL, "cluster": "h100", "gpus": 8, "global_batch": 8, "seq": 128, **wrong})


def test_what_nearly_fills_a_device_is_ranked_as_if_it_were_slower():
    asked = {"gpus": 16, "global_batch": 32, "seq": 2048, "limit": None, "memory_share": 1.0}
    free = plan(LLAMA, A100, **asked)
    fastest = free[0]
    held = fastest.prediction.memory_bytes
    close = dataclasses.replace(A100, device=dataclasses.replace(A100.device, memory_bytes=int(1.01 * held)))
    tight = plan(LLAMA, close, **asked)
    assert not free.tight(fastest) and tight.tight(next(row for row in tight if row.layout == fastest.layout))
    assert in_steps([counted(row) * (1.05 if tight.tight(row) else 1) for row in tight])
    assert not tight.tight(tight[0]) or counted(tight[0]) * 1.05 <= min(
        counted(row) for row in tight if not tight.tight(row)
    ) * (1 + NEAR)
    assert ", tight" in str(tight) or not any(map(tight.tight, tight.shortlist[:10]))


@pytest.mark.parametrize("config", [SMALL, EXPERTS], ids=["dense", "experts"])
def test_the_shortlist_is_the_best_of_each_split_and_counts_its_neighbours(config):
    found = plan(config, A100, gpus=12, global_batch=24, seq=128, limit=None)

    def split(row):
        return row.layout.tp, row.layout.pp, row.layout.ep

    firsts = {}
    for row in found:
        firsts.setdefault(split(row), row)
    assert [(row.layout, row.recompute) for row in found.shortlist] == [
        (row.layout, row.recompute) for row in firsts.values()
    ]
    for row in found.shortlist:
        near = [
            other for other in found
            if split(other) == split(row) and abs(counted(other) / counted(row) - 1) < NEAR
        ]  # fmt: skip
        assert row.alike == len(near) - 1
    few = plan(config, A100, gpus=12, global_batch=24, seq=128, limit=2)
    assert few.shortlist == found.shortlist[:2] and len(few) == 2
    assert "12 x " in str(found) and "24 x 128 tokens a step" in str(found)


def test_a_plan_is_a_list_that_says_itself():
    found = plan(SMALL, A100, gpus=8, global_batch=8, seq=128, limit=3)
    assert (
        len(found) == 3
        and found[-1] == found.rows[2]
        and found[:2] == found.rows[:2]
        and list(found) == list(found.rows)
    )
    assert "modelled, not measured" in str(found) and say_layout(found[0].layout) in str(found)
    first = found.records()[0]
    assert first["rank"] == 1 and first["seconds_low"] < first["seconds"] < first["seconds_high"]


def test_a_layout_is_said_in_one_line():
    assert say_layout(Layout()) == "one process m=1"
    ways = {"zero": 1, "sequence_parallel": True, "schedule": "interleaved", "virtual_stages": 2, "microbatches": 4}
    said = say_layout(Layout(dp=2, tp=4, pp=2, **ways))
    assert said == "dp=2 tp=4 pp=2 zero=1 sp interleaved x 2 m=4"


def test_columns_are_legal_row_by_row_whatever_zero_is():
    workload = Workload(SMALL, A100, 8, 16, 128)
    found, _ = candidates(workload, Choices(contexts=("ring", "ulysses")))
    layouts = [found.at(i) for i in range(len(found.dp))]
    assert len(set(layouts)) == len(layouts) and {layout.context for layout in layouts} == {"ring", "ulysses"}
    assert not any(workload.illegal(layout) for layout in layouts)


def test_the_first_lines_for_70b_are_what_an_engineer_accepts():
    found = plan("llama3-70b", "h100", gpus=512, global_batch=1024, seq=8192)
    first = found[0]
    # no context split at this length; tensor parallelism, if any, within a node
    assert first.layout.cp == 1 and first.layout.tp <= 8
    assert len({(row.layout.tp, row.layout.pp, row.layout.ep) for row in found.shortlist}) == len(found.shortlist)
    # what costs a little more and splits an axis more is not before it
    axes = [split_axes(row.layout) for row in found.shortlist]
    same = [i for i, row in enumerate(found.shortlist) if abs(counted(row) / counted(first) - 1) < NEAR / 2]
    assert axes[0] == min(axes[i] for i in same)
    assert first.risk < 0.25 and any(row.tied for row in found.shortlist[1:])
    assert 1 <= len(found.measure) <= 2 and "nccl-tests" in " ".join(map(str, found.measure))


def test_a_layout_1_percent_faster_and_twice_as_uncertain_is_not_better():
    found = plan("llama3-70b", "h100", gpus=64, global_batch=256, seq=8192, limit=60)
    pairs = [
        (sure, bold)
        for sure in found for bold in found
        if 0.97 < bold.prediction.seconds / sure.prediction.seconds < 1
        and doubt(exposure(bold.prediction))[0] > doubt(exposure(sure.prediction))[0] + 2 * NEAR + 0.03
    ]  # fmt: skip
    order = list(found)
    assert all(order.index(sure) < order.index(bold) for sure, bold in pairs)
