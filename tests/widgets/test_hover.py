"""Hover timelines and the machine's card."""

from __future__ import annotations

import pytest

from llmlab.comm.trace import Event, Trace
from llmlab.hardware import Machine
from llmlab.widgets import machine_card, timeline_hover
from llmlab.widgets.card import describe_card

WIDGET = "application/vnd.jupyter.widget-view+json"


def a_trace(seconds):
    return Trace((Event(0, "compute", "matmul", "", 0, 5, 0.0, seconds),), "virtual", "a test machine")


def test_a_timeline_hovers_and_leaves_a_picture_for_readers_without_a_kernel(displayed):
    live = timeline_hover(a_trace(2.0))
    assert "<title>rank 0: matmul, 0 s to 2 s (2 s), 5 FLOPs</title>" in live.value
    (data,) = displayed
    assert set(data) == {WIDGET, "image/png", "text/plain"} and data["text/plain"] in live.value


def test_two_timelines_share_the_longer_ones_axis(displayed):
    live = timeline_hover(a_trace(2.0), a_trace(1.0), names=("naive", "<b>bucketed"))
    assert live.value.count("<svg") == 2 and live.value.count(">2 s</text>") == 0
    assert live.value.count(">2</text>") == 2  # the last tick of both
    assert "&lt;b&gt;bucketed" in live.value
    assert displayed[0]["text/plain"].startswith("naive: Timeline of 1 rank")


def test_names_go_with_runs(displayed):
    with pytest.raises(ValueError, match="one run or two, with as many names"):
        timeline_hover(a_trace(1.0), names=("a", "b"))
    with pytest.raises(ValueError, match="one run or two"):
        timeline_hover()


def a_machine(cores, gpus=()):
    return Machine("a processor", cores, 8 * 2**30, gpus, "Linux x86_64", "3.11.7", "2.13.0")


def test_the_card_says_that_this_machine_is_enough(displayed):
    machine_card(a_machine(2))
    (data,) = displayed
    assert "2 cores, 0 GPUs: enough" in data["text/html"]
    assert data["text/plain"].startswith("2 cores, 0 GPUs: enough. a processor, 8 GiB of memory, Linux x86_64")
    assert "up to 2 ranks here" in data["text/plain"]


def test_the_card_is_right_for_one_core_and_for_gpus():
    title, text = describe_card(a_machine(1))
    assert title == "1 core, 0 GPUs: enough" and "One core shows no true speed-up" in text
    title, text = describe_card(a_machine(4, ("a GPU", "a GPU")))
    assert title == "4 cores, 2 GPUs: enough" and "with a GPU, a GPU" in text and "up to 4 ranks" in text
