"""The published tables: how they are read, and how far the predictions are from them."""

from __future__ import annotations

import csv
import dataclasses

import numpy as np
import pytest

from llmlab.cost import compute, network
from llmlab.cost.arrays import columns
from llmlab.cost.published import PublishedRow, Rows, read_rows
from llmlab.cost.scoring import (
    activation_score,
    failed_otherwise,
    fit_owners,
    leave_out,
    left_out,
    read_memory_tables,
    read_tables,
    regrets,
    regrets_of_errors,
    score,
    sweeps,
    verdicts,
    with_one_row,
)  # fmt: skip
from llmlab.cost.sizes import Sizes
from llmlab.cost.stack import Stack, stack, stacks
from llmlab.hardware import cluster
from llmlab.hardware.facts import facts, read_facts
from llmlab.parallel.layout import Layout

TABLES = read_tables()
KNOWN = {name: stack(name) for name in stacks()}
IDEAL = {"typical": stack("ideal")}
KEPT = {row["table"]: row for row in read_facts("measured", "prediction_errors.csv")}


def of(table: str) -> list[PublishedRow]:
    return read_rows(table)[0]


def test_megatron_table_1_is_predicted_with_nothing_fitted_to_it():
    found = score(TABLES["megatron2021: megatron-2022"], IDEAL)
    assert found.rows == 10
    assert found.error < 0.035  # 2.9% seen
    assert found.error < found.own == pytest.approx(0.059, abs=1e-3)


def test_korthikanti_is_predicted_with_nothing_fitted():
    found = score(TABLES["korthikanti2022"], IDEAL)
    assert found.rows == 4 and found.error < 0.0365 < found.own  # Calculon: 3.65%


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_predicted_better_than_by_what_others_reached(name):
    found = score(TABLES[name], KNOWN)
    assert found.error == pytest.approx(float(KEPT[name]["fitted"]), abs=2e-3)  # what the prose quotes
    assert found.error < float(KEPT[name]["given"])


def test_a_table_left_out_is_predicted_better_than_by_what_others_reached():
    assert all(float(row["left_out"]) < float(row["given"]) for row in KEPT.values())


def test_the_median_of_tables_left_out_is_near_a_tenth():
    assert np.median([float(row["left_out"]) for row in KEPT.values()]) <= 0.10


def test_more_constants_fit_better_and_predict_worse():
    """What notebook 31 says of over-fitting, as recorded."""
    steps = {row["owners"]: row for row in read_facts("measured", "prediction_owners.csv")}
    fitted, unseen = ({n: float(row[c]) for n, row in steps.items()} for c in ("fitted_mean", "left_out_mean"))
    free, shrunk = "a free set for each software", "all owners, shrunk"
    assert fitted[free] == min(fitted.values()) and unseen[free] == max(unseen.values())
    assert unseen[shrunk] == min(unseen.values()) and fitted[shrunk] < fitted["everyone"]


def test_the_interval_holds_for_tables_left_out():
    assert 0.85 <= np.mean([float(row["left_out_inside"]) for row in KEPT.values()]) <= 0.95


def test_the_median_over_tables_is_below_a_tenth():
    assert np.median([score(rows, KNOWN).error for rows in TABLES.values()]) < 0.1


def test_llm_foundry_is_within_eight_percent():
    assert score(TABLES["llm_foundry"], KNOWN).error < 0.08


def test_memory_of_zero_bubbles_pipelines_is_within_eight_percent():
    rows = read_memory_tables()["zero-bubble"]
    assert len(rows.rows) == 24 and activation_score(rows, stack("ideal")) < 0.08


def test_a_factor_on_activations_says_who_runs_out_of_memory():
    assert verdicts(stack("ideal")) < verdicts(stack("nanotron"))
    assert verdicts(stack("nanotron")) > 0.95 and verdicts(stack("nanotron"), every=True) > 0.92


def test_a_trial_that_failed_though_one_of_more_ran_did_not_run_out_of_memory():
    trials = Rows([row for row in read_rows("nanotron_playbook")[0] if row.score])
    failed, named = failed_otherwise(trials), {row.row_id: i for i, row in enumerate(trials.rows)}
    # NT-0227 is the very layout of NT-1838 and ran; NT-0102 is NT-1732 with fewer replicas, which nothing shards
    assert failed[named["NT-1838"]] and failed[named["NT-1732"]] and not failed[named["NT-0227"]]
    assert 0 < failed.sum() < 0.05 * len(failed)


def test_a_table_left_out_is_not_in_its_stacks_fit():
    few = {name: TABLES[name] for name in ("megatron2021: megatron-2022", "korthikanti2022", "zero_bubble")}
    unseen = left_out(few, "korthikanti2022")
    assert unseen["megatron-2022"].fitted_to == "megatron2021: megatron-2022"
    absurd = dataclasses.replace(few["korthikanti2022"].rows[0], seconds=1e4)
    spoilt = few | {"korthikanti2022": Rows([absurd])}
    assert left_out(spoilt, "korthikanti2022") == unseen


def test_leaving_out_to_first_order_is_near_a_fit_without_the_table():
    few = {name: TABLES[name] for name in ("megatron2021: megatron-2022", "korthikanti2022", "zero_bubble")}
    owners = fit_owners(few)
    near, exact = (
        leave_out(few, owners)["zero_bubble"],
        fit_owners({k: v for k, v in few.items() if k != "zero_bubble"}),
    )
    assert ("software", "zero-bubble", "pace") not in near.logs and near.logs.keys() == exact.sigmas.keys()
    key = ("software", "megatron-2022", "pace")
    assert abs(near.logs[key] - exact.logs[key]) < 0.3 * max(abs(owners.logs[key] - exact.logs[key]), 0.03)


def test_what_nobody_measured_widens_the_interval():
    row = TABLES["dgxc_recipes: nemo"].rows[0]
    known = stack("nemo")
    widths = [
        known.spread_on(row.cluster, "bf16"),
        known.spread_on(row.cluster, "fp16"),  # no Hopper row was measured in it
        known.spread_on(cluster("mi300x"), "bf16"),
        stack("typical").spread_on(cluster("mi300x"), "bf16"),
    ]
    assert widths == sorted(widths) and len(set(widths)) == 4
    assert Stack(spread=0.2).spread_on(cluster("mi300x"), "bf16") == 0.2  # one's own has what it says


def test_owners_constants_travel_with_them():
    """The chip's and the network's factors go with the cluster, whoever's software runs on it."""
    here, there = stack("nemo").on(cluster("h100")), stack("nemo").on(cluster("a100"))
    assert here.memory < 0.7 * there.memory  # Hopper reaches about half of Ampere's share of its HBM
    assert here.host == there.host and here.on(cluster("a100")) is here
    slow = stack("nemo").on(cluster("h100", network="AWS EFA"))
    assert slow.congestion > 5 * here.congestion and slow.memory == here.memory


def test_nothing_passes_the_rate_of_its_line():
    for name in stacks():
        on = cluster("h100")
        wires = stack(name).on(on).wires(on)
        assert wires.near <= on.intra.bytes_per_s and wires.far <= on.inter.bytes_per_s


def test_one_row_calibrates_and_is_not_scored():
    rows = TABLES["internevo"]
    start = {"typical": stack("ideal")}
    calibrated, others = with_one_row(rows, start, 3)
    assert not others[3] and others.sum() == len(rows.rows) - 1
    assert score(rows, calibrated, only=others).error < 0.7 * score(rows, start, only=others).error


def test_a_sweep_compares_layouts_of_the_same_work():
    rows = TABLES["vtrain_multi"]
    for layouts in sweeps(rows):
        indices = [index for same in layouts.values() for index in same]
        assert len(layouts) >= 3 and len({rows.rows[i].config["d_model"] for i in indices}) == 1
    assert max(regrets(rows, KNOWN)) <= 0.05


def test_the_regret_of_an_oracle_is_none():
    rows = TABLES["vtrain_multi"]

    class Oracle(Rows):
        def predict_seconds(self, stacks):
            return self.seconds

    assert regrets(Oracle(rows.rows), KNOWN) == pytest.approx([0.0, 0.0])


def test_the_regret_grows_with_the_error_of_predictions():
    rows = TABLES["bloom_prequel"]
    none, small, large = (np.mean(regrets_of_errors(rows, sigma)) for sigma in (0.0, 0.05, 0.5))
    assert none == pytest.approx(0.0, abs=1e-12) and none < small < large


def test_utilisation_agrees_with_the_printed_one():
    """Korthikanti et al. 2022, Table 5, prints MFU for its selective rows."""
    rows = Rows(of("korthikanti2022"))
    found = rows.predictions(IDEAL)
    work = rows.gather(found, "model_flops") / rows.gather(found, "ranks") / 312e12
    printed = [row["mfu_pct"] for row in read_facts("published", "korthikanti2022.csv")]
    assert [bool(text) for text in printed].count(True) == 2
    for ours, text in zip(100 * work / rows.seconds, printed, strict=True):
        assert not text or ours == pytest.approx(float(text), abs=0.5)


@pytest.mark.parametrize("name", TABLES)
def test_every_published_step_reached_a_share_of_its_devices_peak(name):
    """FLOPs of a step on thousands of devices pass 2^63: counted in whole numbers they would come out negative."""
    rows = TABLES[name]
    reached = rows.reached(rows.predictions(IDEAL))
    assert ((reached > 0) & (reached < 1)).all()


def test_one_layer_takes_its_measured_time():
    """Korthikanti et al. 2022, Table 4: a layer of 22B forward, with all-reduces, and with sequence parallelism."""
    measured = {row["variant"]: float(row["forward_ms"]) / 1e3 for row in read_facts("published", "layer_times.csv")}
    on, row = cluster("a100"), of("korthikanti2022")[0]
    config = Rows([row]).groups[0][-1].config
    line, wires = Stack().roofline(on.device, "fp16"), Stack().wires(on)
    for split, variant in ((False, "baseline, no recompute"), (True, "sequence parallel")):
        x = Sizes(config, columns([Layout(tp=8, sequence_parallel=split)]), 4, 2048, 2, 4)
        tp = 2 * network.hidden_values(x, network.axes(x.layout, wires)["tp"])
        layer = compute.layer_forward(x, line, Stack(fused_attention=False))
        assert (layer.device + layer.host() + tp)[0] == pytest.approx(measured[variant], rel=0.03)


def test_seconds_come_from_what_a_table_prints():
    throughput = next(row for row in of("internevo") if row.row_id == "IEVO-0049")
    assert throughput.seconds == pytest.approx(2048 * 2048 / (3920 * 256))
    megatron = of("megatron2021")[0]  # 137 TFLOP/s by the paper's own formula
    c, tokens = megatron.config, 512 * 2048
    flops = 96 * tokens * c["n_layer"] * c["d_model"] ** 2
    flops *= 1 + 2048 / (6 * c["d_model"]) + c["vocab_size"] / (16 * c["n_layer"] * c["d_model"])
    assert megatron.seconds == pytest.approx(flops / (137e12 * 32))


def test_a_file_of_rows_of_ones_own_is_read_like_a_table(tmp_path):
    rows = read_facts("published", "llm_foundry.csv")[:3]
    rows[1]["micro_batch"] = ""  # says too little
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    read, left = read_rows(path)
    assert [row.row_id for row in read] == [rows[0]["row_id"], rows[2]["row_id"]]
    assert left == {"micro-batch not stated": 1}


def test_mixtures_of_experts_are_read_with_their_published_sizes():
    row = next(row for row in of("megatron_bridge") if row.label.startswith("Qwen3_235B"))
    assert row.software["stack"] == "nemo-moe" and row.layout["ep"] > 1
    c = row.config
    experts = c["n_layer"] * c["n_expert"] * 3 * c["d_model"] * c["d_ff"]
    assert 220e9 < experts < 235e9


def test_every_published_table_names_its_source():
    ours = {"SOURCES.csv", "software.csv", "sizes.csv", "stacks.csv", "constants.csv"}
    sources = {row["file"]: row for row in read_facts("published", "SOURCES.csv")}
    for path in facts("published").glob("*.csv"):
        if path.name not in ours:
            assert sources[path.name]["citation"] and sources[path.name]["license"]
            assert int(sources[path.name]["rows"]) == len(read_facts("published", path.name))
