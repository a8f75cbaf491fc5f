"""Measuring: the table is tidy, its reference is named, and it claims only what was measured."""

from __future__ import annotations

from copy import copy
from itertools import count as counter

import pytest

from llmlab.comm.trace import Run, Trace
from llmlab.measuring import Table, measure, tabulate


def a_run(ranks, seconds, clock="wall", **more):
    return Run([0] * ranks, seconds, clock, Trace(), [], [], "a test", **more)


class Recorder:
    """An engine that takes 1/ranks seconds, a little more each time, and writes down who ran."""

    def __init__(self, clock="wall"):
        self.clock, self.order, self.drift = clock, [], counter()

    def __call__(self, ranks):
        made = copy(self)  # which shares the lists
        made.ranks = ranks
        return made

    def run(self, worker, *args):
        self.order.append(self.ranks)
        worker(self.ranks, *args)
        return a_run(self.ranks, 1 / self.ranks + next(self.drift) * 1e-3, self.clock)


class Startable(Recorder):
    """One that can be kept alive from run to run."""

    def __enter__(self):
        self.order.append(f"start {self.ranks}")
        return self

    def __exit__(self, *_):
        self.order.append(f"close {self.ranks}")


def train(world, *args):
    return args


def test_repeats_are_interleaved_there_and_back():
    engine = Recorder()
    table = measure(train, ranks=[4, 1, 2], engine=engine, repeats=3, progress=False)
    assert engine.order == [1, 2, 4, 4, 2, 1, 1, 2, 4]
    assert [(row.ranks, row.repeat) for row in table] == [(n, r) for n in (1, 2, 4) for r in range(3)]


def test_what_can_be_started_is_started_once_and_closed_also_after_a_failure():
    engine = Startable()
    measure(train, ranks=[1, 2], engine=engine, repeats=2, progress=False)
    assert engine.order == ["start 1", "start 2", 1, 2, 2, 1, "close 2", "close 1"]
    with pytest.raises(ZeroDivisionError):
        measure(lambda world: 1 / 0, ranks=[1, 2], engine=(engine := Startable()), progress=False)
    assert engine.order == ["start 1", "start 2", 1, "close 2", "close 1"]


def test_a_virtual_clock_runs_once_however_many_repeats_are_asked_for():
    engine = Recorder("virtual")
    assert len(measure(train, ranks=[1, 2], engine=engine, repeats=5, progress=False)) == 2
    assert engine.order == [1, 2]


def test_the_worker_gets_its_arguments():
    seen = []
    measure(lambda world, *args: seen.append(args), "batch", 7, ranks=[1], engine=Recorder("virtual"), progress=False)
    assert seen == [("batch", 7)]


def test_the_progress_bar_goes_to_its_end(capfd):
    measure(train, ranks=[1, 2], engine=Recorder(), repeats=2)
    assert "4/4" in capfd.readouterr().err
    measure(train, ranks=[1, 2], engine=Recorder("virtual"), repeats=2)
    assert "2/2" in capfd.readouterr().err


def test_strong_speedup_is_the_reference_median_over_the_seconds():
    table = tabulate([a_run(1, 8.0), a_run(1, 12.0), a_run(1, 10.0), a_run(2, 5.0), a_run(2, 6.25)], processors=2)
    assert table.median("speedup")[1] == 1.0
    assert [row.speedup for row in table if row.ranks == 2] == [2.0, 1.6]
    assert table.median() == {1: 10.0, 2: 5.625}
    assert [row.efficiency for row in table if row.ranks == 2] == [1.0, 0.8]


def test_weak_speedup_counts_the_work_done():
    table = tabulate([a_run(2, 10.0), a_run(8, 12.5)], work="weak", processors=8)
    assert table.median("speedup") == {2: 1.0, 8: 4 * 10 / 12.5}
    assert table.median("efficiency")[8] == pytest.approx(0.8)


def test_the_reference_is_named():
    table = tabulate([a_run(2, 10.0), a_run(8, 5.0)], worker="train", processors=8)
    assert table.reference == "train on 2 ranks, measured on a test"
    assert table.reference in str(table)


def test_the_hardware_of_a_table_does_not_count_the_ranks():
    runs = [Run([0] * n, 1.0, "wall", Trace(), [], [], f"{n} processes over gloo, 2 cores") for n in (1, 2)]
    assert {row.hardware for row in tabulate(runs)} == {"processes over gloo, 2 cores"}


def test_clocks_do_not_mix_in_one_speedup():
    with pytest.raises(ValueError, match="one clock.*got virtual and wall"):
        tabulate([a_run(1, 1.0), a_run(2, 0.5, "virtual")])
    measured, modelled = tabulate([a_run(1, 1.0)]), tabulate([a_run(2, 0.5, "virtual")])
    with pytest.raises(ValueError, match="rows of one clock, got virtual and wall"):
        Table(measured.rows + modelled.rows)


def test_wall_clock_speedup_is_claimed_up_to_the_processors_only():
    table = tabulate([a_run(n, 1.0) for n in (1, 2, 4)], processors=2)
    assert [row.claimed for row in table] == [True, True, False]
    assert "no claim: more ranks than processors" in str(table).splitlines()[-1]
    modelled = tabulate([a_run(n, 1.0, "virtual") for n in (1, 64)], processors=2)
    assert all(row.claimed for row in modelled)


def test_the_seconds_may_be_the_workers_own():
    runs = [Run([0.5, 0.7], 9.0, "wall", Trace(), [], [], "a test")]
    assert tabulate(runs, seconds=lambda run: max(run.results)).median() == {2: 0.7}


def test_a_table_survives_its_csv(tmp_path):
    runs = [a_run(n, 1 / 3 / n, "virtual", not_modelled=("fragmentation", "clock throttling")) for n in (1, 2)]
    table = tabulate(runs, worker="train")
    text = table.to_csv(tmp_path / "table.csv")
    assert text.splitlines()[0].startswith(
        "worker,ranks,repeat,seconds,clock,hardware,work,speedup,reference_ranks,claimed"
    )
    assert Table.from_csv(tmp_path / "table.csv") == table
    beyond = tabulate([a_run(1, 1.0), a_run(4, 1.0)], processors=2)
    beyond.to_csv(tmp_path / "beyond.csv")
    assert Table.from_csv(tmp_path / "beyond.csv") == beyond


def test_a_csv_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="got none named worker, ranks"):
        Table.from_csv(tmp_path / "other.csv")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"ranks": []}, "ranks"),
        ({"ranks": [0, 1]}, "at least 1"),
        ({"ranks": [2, 2]}, "different"),
        ({"repeats": 0}, "repeats as a whole number of at least 1; got 0"),
        ({"work": "loose"}, "'strong', 'weak'; got 'loose'"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(wrong, says):
    engine = Recorder()
    with pytest.raises(ValueError, match=says):
        measure(train, engine=engine, progress=False, **wrong)
    assert engine.order == []


def test_a_run_of_no_time_has_no_speedup():
    with pytest.raises(ValueError, match="seconds on 2 ranks as a number above 0; got 0.0"):
        tabulate([a_run(1, 1.0), a_run(2, 0.0)])
