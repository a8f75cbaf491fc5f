"""Pipeline schedules as data: complete, in order, free of deadlock; bubbles and microbatches in flight as in print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.cost.modes.pipeline import bubble
from llmlab.parallel.layout import Layout
from llmlab.parallel.schedules import Action, Schedule, make_schedule
from llmlab.parallel.timetable import check, idle, in_flight, problems, timetable

NAMES = ("gpipe", "1f1b", "zb_h1")


@st.composite
def schedules(draw):
    """Any schedule of ours: up to 6 ranks, 3 stages on each, microbatches fewer than stages included."""
    ranks, name = draw(st.integers(1, 6)), draw(st.sampled_from([*NAMES, "interleaved"]))
    if name == "interleaved":
        return make_schedule(name, ranks, ranks * draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    return make_schedule(name, ranks, draw(st.integers(1, 12)))


@given(schedules())
def test_every_microbatch_goes_once_forward_and_once_backward_through_every_stage(schedule):
    kinds = "FBW" if schedule.name == "zb_h1" else "FB"
    every = {Action(k, s, i) for k in kinds for s in range(schedule.stages) for i in range(schedule.microbatches)}
    listed = [action for row in schedule.actions for action in row]
    assert len(listed) == len(every)
    assert set(listed) == every


@given(schedules())
def test_forward_comes_before_backward_and_a_message_is_sent_before_it_is_taken(schedule):
    ends = {slot.action: slot.stop for slot in timetable(schedule)}
    starts = {slot.action: slot.start for slot in timetable(schedule)}
    for action in ends:
        before = {"F": None, "B": "F", "W": "B"}[action.kind]
        if before:
            assert ends[Action(before, action.stage, action.microbatch)] <= starts[action]
        if action.kind == "F" and action.stage:
            assert ends[Action("F", action.stage - 1, action.microbatch)] <= starts[action]
        if action.kind == "B" and action.stage < schedule.stages - 1:
            assert ends[Action("B", action.stage + 1, action.microbatch)] <= starts[action]


@given(schedules())
def test_a_rank_does_one_thing_at_a_time_in_the_order_of_its_list(schedule):
    for rank, row in enumerate(schedule.actions):
        slots = [slot for slot in timetable(schedule) if slot.rank == rank]
        assert [slot.action for slot in slots] == list(row)
        assert all(a.stop <= b.start for a, b in zip(slots, slots[1:], strict=False))


@given(st.integers(1, 8), st.integers(1, 16))
def test_under_1f1b_a_stage_holds_at_most_as_many_microbatches_as_there_are_stages_from_it_on(ranks, microbatches):
    held = in_flight(make_schedule("1f1b", ranks, microbatches))
    assert held == [min(ranks - rank, microbatches) for rank in range(ranks)]


@given(st.integers(1, 8), st.integers(1, 16))
def test_gpipe_holds_all_microbatches_and_zero_bubble_as_many_as_there_are_ranks(ranks, microbatches):
    assert in_flight(make_schedule("gpipe", ranks, microbatches)) == [microbatches] * ranks
    assert max(in_flight(make_schedule("zb_h1", ranks, microbatches))) == min(ranks, microbatches)


@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 4), (4, 4), (4, 8), (3, 9), (1, 5), (4, 2)])
@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
def test_the_bubble_of_gpipe_and_1f1b_is_ranks_less_one_forwards_and_backwards(name, ranks, microbatches):
    slots = timetable(make_schedule(name, ranks, microbatches), {"F": 1, "B": 2})
    assert idle(slots) == [3 * (ranks - 1)] * ranks


@pytest.mark.parametrize(("ranks", "rounds", "stages"), [(2, 1, 2), (4, 2, 2), (4, 1, 2), (3, 3, 4), (4, 2, 1)])
def test_interleaving_v_stages_divides_the_bubble_by_v(ranks, rounds, stages):
    slots = timetable(make_schedule("interleaved", ranks, ranks * rounds, stages), {"F": 1, "B": 2})
    assert idle(slots) == pytest.approx([3 * (ranks - 1) / stages] * ranks)


@pytest.mark.parametrize("costs", [(1, 1, 1), (1, 1.25, 0.75), (2, 2, 1)])
@pytest.mark.parametrize(("ranks", "microbatches"), [(2, 4), (4, 4), (4, 8), (6, 12)])
def test_zero_bubble_leaves_forward_plus_backward_less_weights_of_each_other_stage(ranks, microbatches, costs):
    f, b, w = costs
    slots = timetable(make_schedule("zb_h1", ranks, microbatches), {"F": f, "B": b, "W": w})
    assert idle(slots) == pytest.approx([(ranks - 1) * (f + b - w)] * ranks)


def test_a_message_that_takes_time_makes_the_step_longer_by_its_way_there_and_back():
    schedule = make_schedule("gpipe", 4, 4)
    assert max(slot.stop for slot in timetable(schedule, hop=0.5)) == max(s.stop for s in timetable(schedule)) + 3.0


def test_a_long_stage_sets_the_pace():
    slots = timetable(make_schedule("1f1b", 2, 10), {"F": 1, "B": 2}, sizes=[1, 2])
    assert max(slot.stop for slot in slots) == 10 * 6 + 3  # rank 1 is never idle after its first forward's way
    with pytest.raises(ValueError, match="a number for each of 2 stages, got 3"):
        timetable(make_schedule("1f1b", 2, 10), sizes=[1, 1, 1])


def test_the_interleaved_order_is_the_one_in_print():
    """Two ranks, two stages on each, four microbatches: rounds of two, the first stages' round before the second's."""
    rows = [[str(action) for action in row] for row in make_schedule("interleaved", 2, 4, 2).actions]
    assert rows[1][:6] == ["F0@1", "F1@1", "F0@3", "B0@3", "F1@3", "B1@3"]
    assert [word for word in rows[0] if word[0] == "F"] == "F0@0 F1@0 F0@2 F1@2 F2@0 F3@0 F2@2 F3@2".split()


# --- a schedule of one's own ------------------------------------------------------------------------------------------


def test_what_is_printed_can_be_read_again():
    schedule = make_schedule("interleaved", 2, 4, 2)
    assert Schedule.parse(str(schedule), "interleaved") == schedule
    assert Schedule.parse("F0 F1 B0 B1\n F0 B0 F1 B1") == Schedule.parse("F0@0 F1@0 B0@0 B1@0\nF0@1 B0@1 F1@1 B1@1")
    with pytest.raises(ValueError, match="actions like F0, B3 or W1@5.*got 'G0'"):
        Schedule.parse("F0 G0")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("F0 B0\nF0", "B0@1 wants to be done once, got 0 times"),
        ("F0 F0 B0", "F0@0 wants to be done once, got 2 times"),
        ("F0 B0 F2 B2", "F1@0 wants to be done once, got 0 times"),
        ("F0 B0 W0 F1 B1", "W1@0 wants to be done once, got 0 times"),
        ("F0 F1@1 B0\nF0 B0 B1 F1@0 B1@0", "stage 0 is on rank 0, got F1@0 on rank 1"),
        ("B0 F0", "rank 0 wants F0@0 before B0@0, got it after"),
        ("F0 W0 B0", "rank 0 wants B0@0 before W0@0, got it after"),
        ("F0 B0 F1 B1\nF1 B1 F0 B0", "deadlock: rank 0 waits at B0@0 for B0@1, rank 1 waits at F1@1 for F1@0"),
        ("", "it holds no action"),
    ],
)
def test_a_schedule_that_cannot_run_is_told_why(text, said):
    schedule = Schedule.parse(text)
    assert said in "; ".join(problems(schedule))
    with pytest.raises(ValueError, match="schedule 'own' does not run"):
        check(schedule)


def test_stages_may_lie_in_a_v_so_that_first_and_last_share_a_rank():
    schedule = Schedule.parse("F0@0 F0@3 B0@3 B0@0\nF0@1 F0@2 B0@2 B0@1")
    assert problems(schedule) == []
    assert [schedule.rank_of(stage) for stage in range(4)] == [0, 1, 1, 0]


def test_many_problems_are_cut_short():
    with pytest.raises(ValueError, match="; and 12 more$"):
        check(Schedule("empty", ((Action("F", 1, 3),),)))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("2f2b", 2, 4), "'interleaved', 'zb_h1'; got '2f2b'"),
        (("1f1b", 0, 4), "ranks as a whole number of at least 1; got 0"),
        (("1f1b", 2, 0), "microbatches as a whole number of at least 1; got 0"),
        (("interleaved", 4, 6, 2), "microbatches that 4 ranks divide, got 6"),
        (("1f1b", 2, 4, 2), "virtual_stages=2 wants schedule='interleaved', got '1f1b'"),
    ],
)
def test_what_no_schedule_can_be_made_of_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        make_schedule(*arguments)


@pytest.mark.parametrize("name", ["zb_2p", "DualPipe"])
def test_a_schedule_that_is_only_priced_is_not_run(name):
    assert Layout(pp=4, microbatches=8, schedule=name).schedule == name.lower()
    with pytest.raises(ValueError, match="runs here, gpipe, 1f1b.*lab.predict prices"):
        make_schedule(name, 4, 8)


WRITTEN = [("1F1B", "1f1b"), ("ZB-H1", "zb_h1"), ("zero_bubble", "zb_h1"), ("GPipe", "gpipe")]


@pytest.mark.parametrize(("written", "read"), WRITTEN)
def test_a_schedules_name_is_read_as_people_write_it(written, read):
    assert make_schedule(written, 2, 2).name == read == Layout(schedule=written).schedule
    assert bubble(written, 2, 2, 1, 1, 1) == bubble(read, 2, 2, 1, 1, 1)
