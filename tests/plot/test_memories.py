"""Memory bars: stacks add up, and the line is the device's capacity."""

from __future__ import annotations

import pytest

from llmlab import plot
from llmlab.comm.errors import OutOfDeviceMemory
from llmlab.comm.trace import Memory
from llmlab.hardware import cluster

GIB = 2**30


@pytest.fixture
def sharded(run_of):
    """Two ranks: the first holds 20 GiB at its peak, the second 12."""
    parts = [
        {"parameters": 8 * GIB, "gradients": 8 * GIB, "optimizer state": 4 * GIB, "activations": 0},
        {"parameters": 8 * GIB, "gradients": 4 * GIB, "optimizer state": 0, "activations": 0},
    ]
    return run_of(memory=[Memory({}, p) for p in parts], clock="virtual")


def test_bars_stack_to_the_peak_of_each_rank(sharded):
    (axes,) = plot.memory(sharded).axes
    tops = {}
    for bar in axes.patches:
        x = round(bar.get_x() + bar.get_width() / 2)
        tops[x] = max(tops.get(x, 0), bar.get_y() + bar.get_height())
    assert tops == {0: 20, 1: 12}
    assert axes.get_ylabel() == "peak memory (GiB)"
    assert [c.get_label() for c in axes.containers] == ["parameters", "gradients", "optimizer state"]  # no empty one


def test_a_category_looks_the_same_on_every_figure(sharded, run_of):
    only = run_of(memory=[Memory({}, {"gradients": 5})], clock="virtual")
    looks = [
        next(c for c in plot.memory(run).axes[0].containers if c.get_label() == "gradients").patches[0]
        for run in (sharded, only)
    ]
    assert looks[0].get_facecolor() == looks[1].get_facecolor() and looks[0].get_hatch() == looks[1].get_hatch()


def test_the_capacity_of_the_device_is_a_line(sharded):
    (axes,) = plot.memory(sharded, on="h100").axes
    assert axes.lines[0].get_ydata()[0] == cluster("h100").device.memory_bytes / GIB
    assert "capacity of NVIDIA H100 SXM5 80 GB: 80 GiB" in axes.lines[0].get_label()


def test_the_sentence_says_who_holds_most_and_whether_it_fits(sharded):
    assert plot.memory(sharded, on="h100").alt == (
        "Peak memory of 2 ranks by category: rank 0 holds most, 20 GiB (parameters 8 GiB, gradients 8 GiB and "
        "optimizer state 4 GiB); it fits in the 80 GiB of one NVIDIA H100 SXM5 80 GB."
    )
    assert "does not fit in the 16 GiB" in plot.memory(sharded, on="v100-16gb").alt


def test_many_ranks_are_thinned_and_the_caption_says_so(run_of):
    run = run_of(memory=[Memory({}, {"parameters": 5})] * 64, clock="virtual")
    figure = plot.memory(run)
    assert len(figure.axes[0].containers[0]) == 16 and "16 of 64 ranks shown" in figure.get_supxlabel()


def test_the_card_of_an_error_puts_terabytes_beside_what_the_device_holds():
    error = OutOfDeviceMemory("no", {"parameters": 350 * GIB, "optimizer state": 2100 * GIB}, 80 * GIB)
    figure = plot.memory_card(error, device="one A100")
    (axes,) = figure.axes
    *needed, capacity = axes.patches
    assert sum(bar.get_width() for bar in needed) == pytest.approx(2450 / 1024)
    assert capacity.get_width() == axes.lines[0].get_xdata()[0] == 80 / 1024
    assert figure.alt == (
        "Needed: 2.39 TiB (parameters 350 GiB and optimizer state 2.05 TiB); one A100 holds 80 GiB: it does not fit, "
        "and at least 31 of them would be needed to hold it."
    )


def test_a_card_of_bytes_wants_a_capacity():
    assert plot.memory_card({"parameters": 5 * GIB}, 16 * GIB).alt.endswith("one device holds 16 GiB: it fits.")
    with pytest.raises(ValueError, match="capacity as a number above 0; got None"):
        plot.memory_card({"parameters": 5 * GIB})
