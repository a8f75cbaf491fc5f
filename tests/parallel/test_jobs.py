"""Schedules of several jobs, as data: what each policy promises holds for any jobs."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlab.comm.errors import DeadlockError
from llmlab.parallel.jobs import Job, backfill, first_come, gang, piecemeal

RANKS = 4


@st.composite
def some_jobs(draw, arrive=True):
    """Up to seven jobs of whole seconds, in any order of arrival."""
    one = st.tuples(st.integers(1, RANKS), st.integers(1, 9), st.integers(0, 9 if arrive else 0))
    return [Job(f"job {i}", *job) for i, job in enumerate(draw(st.lists(one, min_size=1, max_size=7)))]


def slices(jobs, ranks):
    return gang(jobs, ranks, slice_s=0.7)


@pytest.mark.parametrize("policy", [first_come, backfill, slices])
@settings(max_examples=50)
@given(jobs=some_jobs())
def test_every_job_gets_all_its_ranks_at_once_for_all_its_time(policy, jobs):
    schedule = policy(jobs, RANKS)
    for job in jobs:
        pieces = schedule.pieces_of(job)
        assert sum(p.stop - p.start for p in pieces) == pytest.approx(job.seconds)
        assert all(len(set(p.ranks)) == job.ranks and set(p.ranks) <= set(range(RANKS)) for p in pieces)
        assert min(p.start for p in pieces) >= job.arrives
        assert len({p.ranks for p in pieces}) == 1  # nobody moves


@pytest.mark.parametrize("policy", [first_come, backfill, slices])
@settings(max_examples=50)
@given(jobs=some_jobs())
def test_no_rank_is_in_two_jobs_at_once(policy, jobs):
    for a, b in combinations(policy(jobs, RANKS).pieces, 2):
        assert not set(a.ranks) & set(b.ranks) or a.stop <= b.start or b.stop <= a.start


@settings(max_examples=50)
@given(jobs=some_jobs())
def test_first_come_starts_jobs_in_the_order_of_arrival(jobs):
    starts = [piece.start for piece in first_come(sorted(jobs, key=lambda job: job.arrives), RANKS).pieces]
    assert starts == sorted(starts)


@settings(max_examples=50)
@given(jobs=some_jobs())
def test_backfill_lets_nobody_start_later_than_first_come_does(jobs):
    plain, filled = first_come(jobs, RANKS).waits, backfill(jobs, RANKS).waits
    assert all(filled[name] <= plain[name] for name in plain)


@settings(max_examples=50)
@given(jobs=some_jobs())
def test_backfill_leaves_no_job_a_hole_it_could_have_started_in(jobs):
    pieces = backfill(jobs, RANKS).pieces
    for i, piece in enumerate(pieces):
        job = next(job for job in jobs if job.name == piece.job)
        for start in {job.arrives, *(p.stop for p in pieces[:i])}:
            others = [p for p in pieces[:i] if p.start < start + job.seconds and start < p.stop]
            free = RANKS - len({rank for p in others for rank in p.ranks})
            assert start < job.arrives or start >= piece.start or free < job.ranks


def test_backfill_fills_the_hole_before_a_wide_job():
    jobs = [Job("A", 3, 4), Job("B", 4, 2), Job("C", 1, 3)]
    assert first_come(jobs, 4).waits == {"A": 0, "B": 4, "C": 6}
    assert backfill(jobs, 4).waits == {"A": 0, "B": 4, "C": 0}
    assert (first_come(jobs, 4).seconds, backfill(jobs, 4).seconds) == (9, 6)
    assert backfill(jobs, 4).idle == pytest.approx(1 - (12 + 8 + 3) / 24)


def test_a_gang_in_turns_answers_a_short_job_first_and_pays_for_every_switch():
    jobs = [Job("long", 4, 6), Job("short", 4, 1, arrives=1)]
    assert first_come(jobs, 4).responses == {"long": 6, "short": 6}
    assert gang(jobs, 4, slice_s=1).responses == {"long": 7, "short": 1}
    assert gang(jobs, 4, slice_s=1, switch_s=0.5).responses["long"] == 7 + 0.5  # away from short; nobody left after


def test_gangs_of_narrow_jobs_run_side_by_side_and_rows_take_turns():
    pieces = gang([Job("A", 3, 2), Job("B", 2, 2), Job("C", 1, 1)], 4, slice_s=1).pieces
    assert [(p.job, p.ranks, p.start) for p in pieces] == [
        ("A", (0, 1, 2), 0), ("C", (3,), 0), ("B", (0, 1), 1), ("A", (0, 1, 2), 2), ("B", (0, 1), 3),
    ]  # fmt: skip


def test_a_row_that_is_done_leaves_its_turn_to_the_next():
    pieces = gang([Job("A", 4, 1), Job("B", 4, 2), Job("C", 4, 2)], 4, slice_s=1).pieces
    assert "".join(piece.job for piece in pieces) == "ABCBC"


@pytest.mark.parametrize("before", [[], [Job("first", 4, 1)]])
def test_ranks_taken_one_by_one_can_be_held_for_ever(before):
    with pytest.raises(DeadlockError, match="A holds 2 of its 3 ranks, B holds 2 of its 3 ranks, and none is free"):
        piecemeal([*before, Job("A", 3, 1, arrives=0.5), Job("B", 3, 1, arrives=0.5)], 4)


@settings(max_examples=50)
@given(jobs=some_jobs())
def test_ranks_taken_one_by_one_either_deadlock_or_run_every_job(jobs):
    try:
        schedule = piecemeal(jobs, RANKS)
    except DeadlockError as error:
        assert sum(int(n) for n in re.findall(r"holds (\d)", str(error))) == RANKS
        return
    assert {piece.job: len(piece.ranks) for piece in schedule.pieces} == {job.name: job.ranks for job in jobs}
    for a, b in combinations(schedule.pieces, 2):
        assert not set(a.ranks) & set(b.ranks) or a.stop <= b.start or b.stop <= a.start


@pytest.mark.parametrize(
    "jobs, said",
    [
        ([Job("A", 5, 1)], "job A wants 1 to 4 ranks on this cluster, got 5"),
        ([Job("A", 1, 1), Job("A", 2, 1)], "jobs want different names, got A, A"),
    ],
)
def test_jobs_that_cannot_be_placed_are_refused(jobs, said):
    for policy in (first_come, backfill, piecemeal, slices):
        with pytest.raises(ValueError, match=said):
            policy(jobs, RANKS)


def test_no_jobs_make_an_empty_schedule():
    for policy in (first_come, backfill, piecemeal, slices):
        schedule = policy([], RANKS)
        assert (schedule.pieces, schedule.seconds, schedule.idle) == ((), 0, 0)


def test_a_slice_of_no_time_is_refused():
    with pytest.raises(ValueError, match="slice_s as a number above 0; got 0"):
        gang([Job("A", 1, 1)], 4, slice_s=0)
