"""The command line: the planner's numbers, said to be modelled; errors in one line; nothing heavy for --help."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys

import pytest

from llmlab.commands import main
from llmlab.commands.asking import STACKS
from llmlab.cost.models import find_config, model_names
from llmlab.cost.options import Options
from llmlab.cost.planning import plan
from llmlab.cost.prediction import predict
from llmlab.cost.sources import provenance
from llmlab.cost.stack import stacks
from llmlab.hardware import clusters
from llmlab.parallel.layout import Layout
from llmlab.parallel.schedules import NAMES

STEP = "--model gpt2 --device a100 --global-batch 16 --seq 1024".split()
PLAN = ["plan", *STEP, "--gpus", "8"]


@pytest.fixture
def best():
    return plan(find_config("gpt2"), "a100", gpus=8, global_batch=16, seq=1024)[0]


def test_a_plan_shows_the_planners_best_and_that_it_is_modelled(capsys, best):
    assert main([*PLAN, "--top", "3"]) == 0
    printed = capsys.readouterr().out
    assert (
        "gpt2 on 8 x a100: 16 x 1,024 tokens a step, bf16; GPU-hours are of 1B tokens" in printed
        and "Modelled, not measured." in printed
    )
    low, high = best.prediction.interval
    assert f"{best.prediction.seconds:.4g} ({low:.3g} to {high:.3g})" in printed
    assert f"{best.prediction.mfu:.1%}" in printed
    assert all(cause in printed for cause, seconds in best.prediction.breakdown.items() if seconds > 0)
    assert all(category in printed for category in best.prediction.memory)
    assert sum(line.strip().startswith(("1 ", "2 ", "3 ", "4 ")) for line in printed.splitlines()) == 3


def test_a_price_adds_what_the_training_costs(capsys, best):
    main([*PLAN, "--price", "2", "--tokens", "1e12", "--pue", "1.3"])
    printed = capsys.readouterr().out
    hours = best.prediction.gpu_hours(1e12)
    assert "cost" in printed and f"{2 * hours:,.0f}" in printed and f"{hours * 0.4 * 1.3 / 1000:.4g}" in printed
    assert "GPU-hours are of 1T tokens" in printed and "e+" not in printed
    main(["plan", *STEP, "--gpus", "4", "--device", "tpu-v5p"])
    printed = capsys.readouterr().out
    assert "cost" not in printed and "MWh" not in printed  # nobody said a price, no data sheet says its power


def test_a_table_has_one_row_for_each_split_and_every_lists_all(capsys):
    found = plan("gpt2", "a100", gpus=8, global_batch=16, seq=1024)
    main([*PLAN, "--top", "5", "--json"])
    short = json.loads(capsys.readouterr().out)
    assert [(row["tp"], row["pp"], row["ep"], row["alike"]) for row in short] == [
        (row.layout.tp, row.layout.pp, row.layout.ep, row.alike) for row in found.shortlist[:5]
    ]
    main([*PLAN, "--top", "5", "--json", "--every"])
    assert [row["seconds"] for row in json.loads(capsys.readouterr().out)] == [r.prediction.seconds for r in found[:5]]


def test_schedules_contexts_and_counts_are_read_as_people_write_them(capsys):
    main([*PLAN, "--schedules", "1F1B", "--tokens", "300B", "--every", "--top", "999", "--json"])
    one = json.loads(capsys.readouterr().out)
    assert {row["schedule"] for row in one} == {"1f1b"} and any(row["pp"] > 1 for row in one)
    step = ["--model", "gpt2", "--device", "a100", "--global-batch", "16", "--gpus", "8"]
    main(["plan", *step, "--seq", "1k", "--tokens", "3e11", "--schedules", "1f1b", "--top", "1", "--json"])
    assert json.loads(capsys.readouterr().out)[0]["gpu_hours"] == one[0]["gpu_hours"]
    main([*PLAN, "--contexts", "ulysses", "--every", "--top", "999", "--json"])
    assert {row["context"] for row in json.loads(capsys.readouterr().out) if row["cp"] > 1} == {"ulysses"}


def test_json_and_csv_hold_the_same_rows(capsys, best):
    main([*PLAN, "--json", "--top", "4"])
    as_json = json.loads(capsys.readouterr().out)
    main([*PLAN, "--csv", "--top", "4"])
    as_csv = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(as_json) == len(as_csv) == 4 and as_json[0]["seconds"] == best.prediction.seconds
    assert [float(row["seconds"]) for row in as_csv] == [row["seconds"] for row in as_json]
    assert as_json[0]["rank"] == 1 and as_json[0]["dp"] == best.layout.dp and as_json[0]["money"] is None


def test_one_layout_is_predicted(capsys):
    ways = "--dp 2 --tp 2 --pp 2 --zero 1 --sequence-parallel --recompute full --microbatches 4 --schedule zb_h1"
    assert main(["predict", *STEP, *ways.split(), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    layout = Layout(dp=2, tp=2, pp=2, zero=1, sequence_parallel=True, microbatches=4, schedule="zb_h1")
    expected = predict(find_config("gpt2"), layout, "a100", global_batch=16, seq=1024, recompute="full")
    assert (row["seconds"], row["memory_bytes"]) == (expected.seconds, expected.memory_bytes)
    assert main(["predict", *STEP, "--dp", "2"]) == 0
    printed = capsys.readouterr().out
    assert "dp=2 m=8" in printed and "Modelled, not measured. Memory: fits." in printed


def test_what_a_run_does_otherwise_is_said_on_the_command_line(capsys):
    said = "--tp-overlap --no-ep-overlap --shard-group 2 --devices-per-slice 4 --recomputed-layers 0.5 --release 26.04"
    asked = ["predict", *STEP, *"--dp 2 --tp 2 --zero 3 --recompute full".split(), *said.split(), "--json"]
    assert main(asked) == 0
    (row,) = json.loads(capsys.readouterr().out)
    options = Options("26.04", True, False, shard_group=2, devices_per_slice=4, recomputed_layers=0.5)
    step = {"global_batch": 16, "seq": 1024, "recompute": "full"}
    layout = Layout(dp=2, tp=2, zero=3, microbatches=8)
    assert row["seconds"] == predict("gpt2", layout, "a100", **step, options=options).seconds
    assert row["seconds"] != predict("gpt2", layout, "a100", **step).seconds
    assert main([*PLAN, "--top", "1", "--matmul-tflops", "100", "--json"]) == 0
    slower = plan("gpt2", "a100", gpus=8, global_batch=16, seq=1024, options=Options(matmul_tflops=100))
    assert json.loads(capsys.readouterr().out)[0]["seconds"] == slower[0].prediction.seconds


def test_each_cause_has_its_constant_and_says_how_it_was_found(capsys):
    main(["predict", *STEP, "--dp", "2", "--tp", "2", "--pp", "2", "--stack", "nemo"])
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.strip().startswith("matmul"))
    source = next(source for source in provenance("nemo", "a100") if source.term == "matmul")
    assert f"matmul {source.value:.3g} (x or / {source.uncertainty:.2f})" in line and "FITTED: software nemo" in line
    assert "ASSUMED: as everyone" in printed and "COUNTED" in printed


@pytest.mark.parametrize("command", ["plan", "predict"])
def test_help_names_every_schedule_and_stack(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*NAMES, "megatron-2022", "nanotron"))
    assert STACKS == ", ".join(stacks())  # the help is printed without importing what knows them


def test_models_clusters_and_stacks_are_listed(capsys):
    assert main(["models", "--json"]) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)] == model_names()
    assert main(["clusters", "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["cluster"] for row in rows] == clusters() and rows[6]["TDP (W)"] == "700.0"
    assert main(["stacks", "--json"]) == 0
    assert [row["stack"] for row in json.loads(capsys.readouterr().out)] == stacks()
    for command in ("models", "clusters", "stacks"):
        main([command])
        assert command.capitalize() in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["plan", *STEP, "--gpus", "0"], "llmlab plan: plan wants gpus as a whole number of at least 1; got 0"),
        (["plan", *STEP, "--gpus", "8", "--model", "gpt9000"], "no published model is called 'gpt9000'"),
        (["predict", *STEP, "--dp", "3"], "does not split over dp=3"),
        (["predict", *STEP, "--dp", "0"], "wants dp as a whole number of at least 1; got 0"),
        (["plan", "--model", "gpt2"], "the following arguments are required"),
        (["fly"], "invalid choice: 'fly'"),
        ([*PLAN, "--seq", "long"], "invalid count value: 'long'"),
        ([*PLAN, "--schedules", "2f2b"], "wants schedules as"),
        ([*PLAN, "--json", "--csv"], "not allowed with argument"),
    ],
)
def test_an_error_is_one_line_and_code_2(capsys, arguments, says):
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and says in err and err.count("\n") == 1


def test_it_runs_as_a_module():
    run = subprocess.run([sys.executable, "-m", "llmlab", *PLAN, "--csv"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("rank,dp,tp,") and run.stderr == ""


def test_help_does_not_wait_for_torch():
    code = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))\n"
    code += "from llmlab.commands import main; main(['plan', '--help'])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False" and "--global-batch" in run.stdout


def test_numbers_are_read_as_people_write_them(capsys):
    written = "--model gpt2 --device a100 --global-batch 1k --seq 1K --tokens 15T".split()
    main(["plan", *written, "--gpus", "8", "--csv", "--top", "1"])
    as_written = capsys.readouterr().out
    main(
        [
            "plan",
            *"--model gpt2 --device a100 --global-batch 1024 --seq 1024 --tokens 15e12".split(),
            "--gpus",
            "8",
            "--csv",
            "--top",
            "1",
        ]
    )
    assert capsys.readouterr().out == as_written


def test_only_the_schedules_asked_for_are_tried(capsys):
    main(["plan", *STEP, "--gpus", "8", "--schedules", "1F1B", "--json", "--top", "100000"])
    rows = json.loads(capsys.readouterr().out)
    assert rows and {row["schedule"] for row in rows} == {"1f1b"}


def test_a_measured_step_is_told_what_may_be_off(capsys):
    main(
        [
            "predict",
            "--model",
            "llama3-70b",
            "--global-batch",
            "64",
            "--seq",
            "8k",
            *"--dp 2 --tp 8 --pp 4 --zero 1".split(),
            "--measured",
            "26.6",
        ]
    )
    printed = capsys.readouterr().out
    assert "Measured 26.6 s:" in printed and "measure next" in printed and "nccl-tests" in printed
