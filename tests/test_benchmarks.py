"""The README's figures of speed are those of the recorded table, and the table was made as it says."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def run_all():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield import_module("run_all")
    sys.path.remove(str(ROOT / "benchmarks"))


def test_the_readme_says_what_was_recorded(run_all):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert run_all.into_readme(text, run_all.read()) == text, "python benchmarks/run_all.py writes both"


def test_a_changed_figure_is_noticed(run_all):
    text, (first, *others) = (ROOT / "README.md").read_text(encoding="utf-8"), run_all.read()
    shown = run_all.replace(first, headline=first.headline or "shown", ours="0.000123")
    assert run_all.into_readme(text, [shown, *others]) != text


def test_every_row_says_on_what_and_when_and_ratios_come_from_seven_pairs_or_more(run_all):
    rows = run_all.read()
    assert {row.part for row in rows} == set(run_all.PARTS)
    for row in rows:
        assert row.machine and row.versions and row.date, row
        assert row.rounds >= 7 or not row.opponent, row
        assert bool(row.opponent) == bool(row.theirs) == bool(row.times_as_fast), row


def test_a_ratio_is_the_median_of_the_pairs_and_not_of_the_seconds(run_all):
    row = run_all.beside("a step", [1.0, 2.0, 10.0], "torch", [2.0, 6.0, 10.0])
    assert (row.ours, row.theirs, row.times_as_fast) == ("2", "6", "2.00")


def test_what_is_written_is_read_again_in_the_order_of_the_parts(run_all, tmp_path):
    rows = [
        run_all.alone("import", [2.0], "s", part="answering"),
        run_all.alone("one", [1.0, 2.0, 3.0], "s", part="bpe"),
    ]
    run_all.write(rows, tmp_path / "speeds.csv")
    assert run_all.read(tmp_path / "speeds.csv") == rows[::-1]
