"""Timelines: tests read the bars that are drawn, never the pixels."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from matplotlib.collections import PolyCollection

from llmlab import plot
from llmlab.comm.trace import Event, Trace
from llmlab.plot.svg import tick_step
from llmlab.plot.timelines import describe_timeline

SVG = "{http://www.w3.org/2000/svg}"


def bars(axes):
    """The drawn bars by label: {label: [(start, length)]}."""
    found = {}
    for collection in axes.collections:
        if isinstance(collection, PolyCollection):
            boxes = [path.get_extents() for path in collection.get_paths()]
            found[collection.get_label()] = [(box.x0, round(box.width, 9)) for box in boxes]
    return found


def test_a_timeline_draws_every_span_where_it_happened(step_trace):
    (axes,) = plot.timeline(step_trace(2)).axes
    drawn = bars(axes)
    assert drawn["rank 0 compute"] == [(0, 3), (5, 1)]
    assert drawn["rank 0 idle"] == [(3, 2)]
    assert drawn["rank 1 collective"] == [(3, 2)]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "rank 0 compute",
        "comm",
        "rank 1 compute",
        "comm",
    ]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # rank 0 on top


def test_every_kind_has_a_hatch_of_its_own_besides_its_colour():
    looks = list(plot.style.KIND_STYLE.values())
    assert len({hatch for _, hatch in looks}) == len({colour for colour, _ in looks}) == len(looks)


def test_the_caption_says_clock_hardware_and_what_is_not_modelled(step_trace, run_of):
    figure = plot.timeline(run_of(step_trace(2)))
    caption = figure.get_supxlabel()
    assert caption == ("Modelled on a test machine, virtual clock. Not modelled: fragmentation, data loading.")
    assert plot.timeline(step_trace(2, clock="wall")).get_supxlabel() == "Measured on a test machine, wall clock."
    many = replace(run_of(step_trace(2)), not_modelled=tuple(f"cause number {i}" for i in range(9)))
    assert plot.timeline(many).get_supxlabel().endswith("9 things are not modelled: see .not_modelled.")


def test_short_bars_have_no_outline_that_would_look_like_a_gap():
    events = [Event(0, "compute", "add", "", 0, 0, i * 1e-3, (i + 1) * 1e-3) for i in range(500)]
    trace = Trace((*events, Event(0, "compute", "matmul", "", 0, 0, 0.5, 1.0)), "virtual", "a test machine")
    (bars,) = plot.timeline(trace).axes[0].collections
    edges, face = bars.get_edgecolor(), tuple(bars.get_facecolor()[0])
    assert tuple(edges[0]) == face and tuple(edges[-1]) != face


@pytest.mark.parametrize("ranks", [1, 4, 16])
def test_rows_of_a_timeline_never_touch(step_trace, ranks):
    (axes,) = plot.timeline(step_trace(ranks)).axes
    rows = sorted({round(path.get_extents().y0, 6) for c in axes.collections for path in c.get_paths()})
    assert len(rows) == 2 * ranks
    assert all(b - a > 0.84 for a, b in zip(rows, rows[1:], strict=False))


def test_the_sentence_has_the_modelled_numbers(step_trace):
    figure = plot.timeline(step_trace(2))
    assert figure.alt == (
        "Timeline of 2 ranks, modelled, with all_reduce: 6 s in all; rank 0 computes nothing for 2 s of it (33%)."
    )


def test_the_sentence_of_a_measured_timeline_has_no_times(step_trace):
    assert describe_timeline(step_trace(2, clock="wall")) == "Timeline of 2 ranks, measured, with all_reduce."


def test_two_timelines_share_one_time_axis(step_trace):
    figure = plot.compare_timelines(step_trace(2, 4.0), step_trace(2, 0.5), ("naive", "bucketed"))
    naive, bucketed = figure.axes
    assert naive.get_xlim() == bucketed.get_xlim() == (0, 8)
    assert bars(naive)["rank 0 idle"] == [(3, 4)] and bars(bucketed)["rank 0 idle"] == [(3, 0.5)]
    assert naive.get_title(loc="left") == "naive: 2 ranks, 8 s modelled"
    assert figure.alt.startswith("naive: ") and "rank 0 computes nothing for 500 ms" in figure.alt


def test_a_short_timeline_beside_a_long_one_is_merged_to_what_can_be_seen(step_trace):
    tiny = tuple(Event(0, "compute", "add", "", 0, 0, i * 1e-3, (i + 1) * 1e-3) for i in range(500))
    figure = plot.compare_timelines(Trace(tiny, "virtual", "a test machine"), step_trace(1, 5000.0), ("short", "long"))
    assert len(bars(figure.axes[0])["rank 0 compute"]) == 1


def test_measured_and_modelled_do_not_share_a_time_axis(step_trace):
    with pytest.raises(ValueError, match=r"one clock, got virtual \(a\) and wall \(b\)"):
        plot.compare_timelines(step_trace(2), step_trace(2, clock="wall"))


def test_a_kept_figure_is_drawn_into(step_trace):
    figure = plot.Picture()
    assert plot.timeline(step_trace(2), figure=figure) is figure
    plot.timeline(step_trace(4), figure=figure)
    assert len(figure.axes) == 1 and "4 ranks" in figure.alt


def test_every_bar_of_the_svg_has_a_title_and_can_be_focused(step_trace):
    root = ET.fromstring(plot.timeline_svg(step_trace(2)))
    spans = [g for g in root.iter(f"{SVG}g") if g.get("class") == "span"]
    assert len(spans) == 8 and all(g.get("tabindex") == "0" for g in spans)
    titles = [g.find(f"{SVG}title").text for g in spans]
    assert titles[1] == "rank 0: computes nothing, 3 s to 5 s (2 s)"
    assert titles[3] == "rank 0: all_reduce along world, 3 s to 5 s (2 s), 4.1 kB handed over"
    assert [g.get("aria-label") for g in spans] == titles


def test_the_svg_is_as_wide_as_its_place_and_says_what_it_shows(step_trace):
    root = ET.fromstring(plot.timeline_svg(step_trace(2)))
    assert root.get("width") == "100%" and root.get("viewBox").startswith("0 0 960 ")
    assert root.get("aria-label") == describe_timeline(step_trace(2))


def test_svgs_on_one_page_share_no_names(step_trace):
    names = [set(), set()]
    for found, trace in zip(names, (step_trace(2), step_trace(3)), strict=True):
        root = ET.fromstring(plot.timeline_svg(trace))
        found.update(element.get("id") for element in root.iter() if element.get("id"))
        used = {e.get("fill")[5:-1] for e in root.iter() if (e.get("fill") or "").startswith("url(#")}
        assert used <= found  # every hatch that is used is defined
    assert names[0].isdisjoint(names[1])


def test_the_svg_shares_a_time_axis_when_told_its_end(step_trace):
    def width(until):
        root = ET.fromstring(plot.timeline_svg(step_trace(1), until=until))
        return float(next(g for g in root.iter(f"{SVG}g") if g.get("class") == "span").find(f"{SVG}rect").get("width"))

    assert width(12.0) == pytest.approx(width(None) / 2, abs=0.01)


def test_the_svg_moves_only_for_readers_who_want_motion(step_trace):
    assert "animation" not in plot.timeline_svg(step_trace(1))
    assert "prefers-reduced-motion:no-preference" in plot.timeline_svg(step_trace(1), play_s=2)


@pytest.mark.parametrize(("length", "step"), [(1.0, 0.1), (1.5, 0.2), (4.0, 0.5), (23.9, 5.0), (99.0, 10.0)])
def test_ticks_are_round_numbers(length, step):
    assert tick_step(length) == pytest.approx(step)


def every_kind(ranks):
    """A trace whose bars are of all kinds, on every rank."""
    spans = [("compute", "matmul", None), ("comm", "all_reduce", None), ("comm", "send", 0), ("host", "mine", None)]
    events = [
        Event(rank, stream, op, "world", 8, 0, start, start + 1.0 + (op == "all_reduce"), peer)
        for rank in range(ranks)
        for start, (stream, op, peer) in enumerate(spans)
    ]
    late = [replace(e, start=1.5) if e.op == "all_reduce" and e.rank == 0 else e for e in events]
    return Trace(tuple(sorted(late, key=lambda e: (e.start, e.rank))), "virtual", "a test machine")


@pytest.mark.parametrize("ranks", [4, 8, 16])
def test_two_timelines_fit_one_screen_and_their_letters_can_be_read(ranks):
    figure = plot.compare_timelines(every_kind(ranks), every_kind(ranks))
    assert figure.get_figheight() <= 5.8
    letters = [label.get_fontsize() for axes in figure.axes for label in axes.get_yticklabels()]
    assert min(letters) >= 6 and len(letters) >= 2 * 3 * 4
    figure.draw_without_rendering()
    for axes in figure.axes:
        inches = axes.get_window_extent().height / figure.dpi
        assert 72 * inches / len(axes.get_yticks()) >= min(letters)  # rows are no lower than their letters


@pytest.mark.parametrize(("ranks", "height"), [(4, plot.svg.SCREEN), (4, 228), (16, plot.svg.SCREEN)])
def test_the_svg_keeps_to_its_height_and_none_of_its_words_is_cut(ranks, height):
    root = ET.fromstring(plot.timeline_svg(every_kind(ranks), height=height))
    *_, width, tall = map(float, root.get("viewBox").split())
    assert tall <= max(height, 10 * 3 * ranks + 8 * ranks + 90)
    shown = [text for text in root.iter(f"{SVG}text") if text.get("text-anchor") is None]
    assert {"named by the worker", "waits for a rank"} <= {text.text for text in shown}
    for text in shown:
        assert float(text.get("x")) + 0.6 * float(text.get("font-size")) * len(text.text) <= width + 12, text.text


def test_a_bar_of_the_svg_tells_its_story_in_the_line_below():
    root = ET.fromstring(plot.timeline_svg(every_kind(2)))
    stories = [g.find(f"{SVG}text[@class='story']") for g in root.iter(f"{SVG}g") if g.get("class") == "span"]
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert [story.text for story in stories] == titles and len(titles) > 6
    below = [text for text in root.iter(f"{SVG}text") if text.get("class") == "below"]
    assert {story.get("y") for story in stories} == {below[0].get("y")}
    assert all(
        float(rect.get("y")) < float(below[0].get("y")) - 14 for rect in root.iter(f"{SVG}rect") if rect.get("y")
    )
    style = root.find(f"{SVG}defs/{SVG}style").text
    assert ".story{visibility:hidden" in style and ":hover) .story{visibility:visible}" in style


def test_a_bar_too_short_for_its_whole_label_has_the_short_one():
    spans = [("F0@3", 0.0, 3.2), ("B0@3", 4.0, 20.0), ("all_reduce", 30.0, 32.0)]
    events = [Event(0, "host", op, "", 0, 0, start, stop) for op, start, stop in spans]
    trace = Trace((*events, Event(0, "compute", "matmul", "", 0, 0, 0.0, 100.0)), "virtual", "a test machine")
    words = [text.get_text() for text in plot.timeline(trace).axes[0].texts]
    assert words == ["matmul", "F0", "B0@3"]


def test_ours_beside_torchs_says_what_a_rank_of_each_hands_over(run_of):
    sent = Event(1, "comm", "send", "pp", 3_000, 0, 0.0, 1.0, peer=0)
    got = Event(0, "comm", "recv", "pp", 0, 0, 0.0, 1.0, peer=1)
    summed = [Event(rank, "comm", "all_reduce", "world", 2_048, 0, 1.0, 2.0) for rank in (0, 1)]
    ours, torchs, none = (
        run_of(Trace(tuple(events), "virtual", "a test machine"))
        for events in ((*summed, sent, got), summed, [Event(0, "compute", "add", "", 1, 0, 0.0, 1.0)])
    )
    titles = [axes.get_title(loc="left") for axes in plot.beside(ours, torchs).axes]
    assert titles[0].startswith("ours, all_reduce 2,048 and send 1,500 bytes a rank: ")
    assert titles[1].startswith("torch's, all_reduce 2,048 bytes a rank: ")
    assert "torch's, nothing handed over" in plot.beside(ours, none).alt
