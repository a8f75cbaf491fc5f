"""Lanes: what a timeline draws, before it is drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmlab.comm.simulator import Simulator
from llmlab.comm.trace import Event, Trace
from llmlab.plot.lanes import idle_seconds, kind_of, lanes_of


def an_event(start, stop, op="matmul", stream="compute", rank=0, nbytes=0, peer=None):
    return Event(rank, stream, op, "", nbytes, 0, start, stop, peer)


def test_each_stream_of_each_rank_has_a_lane_in_order(step_trace):
    lanes = lanes_of(step_trace(2)).lanes
    assert [(lane.rank, lane.stream) for lane in lanes] == [(0, "compute"), (0, "comm"), (1, "compute"), (1, "comm")]


def test_gaps_of_the_compute_lane_are_idle_spans_and_add_up(step_trace):
    trace = step_trace(2)
    compute = lanes_of(trace).lanes[0]
    assert [(s.kind, s.start, s.stop) for s in compute.spans] == [
        ("compute", 0.0, 3.0), ("idle", 3.0, 5.0), ("compute", 5.0, 6.0)
    ]  # fmt: skip
    assert idle_seconds(trace, 0) == 2.0


def test_a_rank_that_is_done_early_is_idle_to_the_end():
    trace = Trace((an_event(0, 4, rank=0), an_event(0, 1, rank=1)))
    late = lanes_of(trace).lanes[1].spans
    assert [(s.kind, s.start, s.stop) for s in late] == [("compute", 0, 1), ("idle", 1, 4)]


def test_a_trace_without_computing_calls_nobody_idle():
    trace = Trace((an_event(0, 1, "all_reduce", "comm"), an_event(2, 3, "all_reduce", "comm")))
    assert [(lane.stream, [s.kind for s in lane.spans]) for lane in lanes_of(trace).lanes] == [
        ("comm", ["collective", "collective"])
    ]


@pytest.mark.parametrize(
    ("op", "stream", "kind"),
    [
        ("matmul", "compute", "compute"),
        ("all_to_all", "comm", "collective"),
        ("barrier", "comm", "collective"),
        ("send", "comm", "send or recv"),
        ("recv", "comm", "send or recv"),
        ("forward", "host", "host"),
    ],
)
def test_events_are_sorted_into_kinds(op, stream, kind):
    assert kind_of(an_event(0, 1, op, stream)) == kind


def test_what_is_too_short_to_see_is_merged_and_counted():
    tiny = [an_event(i * 1e-5, (i + 1) * 1e-5) for i in range(100)]
    trace = Trace((*tiny, an_event(0.5, 1.0)))
    first, gap, last = lanes_of(trace).lanes[0].spans
    assert "100 x matmul" in first.note and first.stop == pytest.approx(1e-3)
    assert (gap.kind, last.kind) == ("idle", "compute") and "x" not in last.note.split(":")[1].split(",")[0]


def test_merging_loses_no_bytes_and_no_long_operation():
    short = [an_event(i * 1e-5, (i + 1) * 1e-5, "all_reduce", "comm", nbytes=1000) for i in range(10)]
    trace = Trace((*short, an_event(0.5, 1.0, "all_reduce", "comm", nbytes=7)))
    spans = lanes_of(trace).lanes[0].spans
    assert ["10 kB" in span.note for span in spans] == [True, False] and "7 B" in spans[1].note


def test_a_span_tells_its_whole_story():
    trace = Trace((an_event(0.001, 0.002, "send", "comm", nbytes=2_500_000, peer=3),))
    (span,) = lanes_of(trace).lanes[0].spans
    assert span.note == "rank 0: send to rank 3, 1 ms to 2 ms (1 ms), 2.5 MB handed over"


def test_collectives_of_one_group_are_drawn_one_after_another():
    """A rank that came early has both under way at once: it waits for the rank that came late."""
    early = [replace(an_event(0, stop, "all_reduce", "comm"), axis="dp") for stop in (2.0, 3.0)]
    other = replace(an_event(0, 4.0, "all_reduce", "comm"), axis="tp")
    (lane,) = lanes_of(Trace((*early, other))).lanes
    assert sorted((s.start, s.stop) for s in lane.spans) == [(0, 2.0), (0, 4.0), (2.0, 3.0)]


def test_more_ranks_than_fit_are_thinned_evenly_and_the_note_says_so(step_trace):
    laid = lanes_of(step_trace(64))
    assert len(laid.ranks) == 16 and laid.ranks[0] == 0 and laid.ranks[-1] == 63
    assert laid.note == "16 of 64 ranks shown, evenly spaced."
    assert lanes_of(step_trace(16)).note == ""


def test_an_empty_trace_is_refused():
    with pytest.raises(ValueError, match="a trace with events, got an empty one"):
        lanes_of(Trace())


def late_for_a_message(world):
    if world.rank == 0:
        world.send((torch.ones(600, 600).to(world.device) @ torch.ones(600, 600).to(world.device))[0], 1)
    else:
        world.recv(torch.ones(600), 0)


def test_a_message_waits_for_the_other_rank_before_it_moves():
    trace = Simulator(ranks=2).run(late_for_a_message).trace
    lanes = {(lane.rank, lane.stream): lane.spans for lane in lanes_of(trace).lanes}
    (sent,) = lanes[0, "comm"]
    waits, received = lanes[1, "comm"]
    assert (waits.kind, received.kind) == ("waiting", "send or recv") and "waits in recv" in waits.note
    assert waits.start < 1e-4 and waits.stop == received.start == sent.start and received.stop == sent.stop


def test_on_a_wall_clock_nobody_knows_who_waited():
    events = (an_event(0, 4, "all_reduce", "comm"), replace(an_event(3, 4, "all_reduce", "comm"), rank=1))
    kinds = {}
    for clock in ("wall", "virtual"):
        lanes = lanes_of(Trace(events, clock)).lanes
        kinds[clock] = [span.kind for lane in lanes if lane.stream == "comm" for span in lane.spans]
    assert kinds == {"wall": ["collective"] * 2, "virtual": ["waiting", "collective", "collective"]}


def test_a_collective_queued_behind_another_does_not_wait_while_that_one_moves():
    def both(rank, starts):
        return [replace(an_event(start, stop, "all_reduce", "comm"), rank=rank)
                for start, stop in zip(starts, (5, 8), strict=True)]  # fmt: skip

    trace = Trace((*both(0, (0, 1)), *both(1, (4, 6))), "virtual")
    first = next(lane for lane in lanes_of(trace).lanes if lane.rank == 0 and lane.stream == "comm")
    assert [(s.kind, s.start, s.stop) for s in first.spans] == [
        ("waiting", 0, 4), ("collective", 4, 5), ("waiting", 5, 6), ("collective", 6, 8)
    ]  # fmt: skip
