"""Our modes beside torch's on the same modelled cluster: the recorded bytes are those that a run gives."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from benchmarks.beside_torch import PAIRS, Pair

ROOT = Path(__file__).parents[3]
RECORDED = list(csv.DictReader((ROOT / "data/measured/beside_torch.csv").read_text(encoding="utf-8").splitlines()))
SAME = {  # of a step, where the algorithm is the same: the operation, as ours and torch call it
    "data": ("all_reduce", "all_reduce"),
    "ZeRO-3": ("all_gather", "all_gather"),
    "vocabulary": ("all_reduce", "all_reduce"),
    "sequence": ("all_gather", "all_gather"),
    "context": ("send", "all_to_all"),
    "experts": ("all_to_all", "all_to_all"),
}


@pytest.mark.filterwarnings("ignore")  # torch's own, of its deprecated names
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.mode)
def test_the_recorded_bytes_are_those_of_a_run(pair: Pair) -> None:
    (recorded,) = (row for row in RECORDED if row["mode"] == pair.mode)
    assert recorded == {key: str(value) for key, value in pair.row().items()}


def test_bytes_are_equal_where_the_algorithm_is_the_same() -> None:
    for mode, (ours, torchs) in SAME.items():
        (row,) = (row for row in RECORDED if row["mode"] == mode)
        assert bytes_of(row["ours"], ours) == bytes_of(row["theirs"], torchs) > 0
    assert all(row["why"] for row in RECORDED)
    for row in RECORDED:  # stages of torch's tell their shapes, less than 400 bytes each, before the first step
        if "Schedule" in row["torch"]:
            assert 0 < bytes_of(row["theirs"], "send") - bytes_of(row["ours"], "send") < 400 * 4


def bytes_of(handed_over: str, op: str) -> int:
    return sum(int(nbytes) for name, nbytes in re.findall(r"(\w+) (\d+)", handed_over) if name == op)


def test_what_notebook_36_says_of_torchtitan_is_what_was_recorded() -> None:
    recorded, table = (
        list(csv.DictReader((ROOT / "data" / name).read_text(encoding="utf-8").splitlines()))
        for name in ("measured/torch_programs.csv", "published/torchtitan.csv")
    )
    published = {row["row_id"]: row for row in table}
    text = " ".join((ROOT / "notebooks/36_any_torch_program.ipynb").read_text(encoding="utf-8").split())
    for row in recorded:
        measured = float(row["measured tokens/s/GPU"])
        assert measured == float(published[row["row"]]["tokens_per_s_per_gpu"])
        assert int(row["gpus"]) == int(published[row["row"]]["gpus"])
        for kind in ("modelled", "closed form"):
            off = float(row[kind]) / measured - 1
            assert off == pytest.approx(float(row[f"{kind} error"]), abs=6e-4)
            assert f"{off:.0%}" in text
