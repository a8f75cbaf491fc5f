"""The roofline: the roof is the published peaks, kernels lie under it, and modelled ones look so."""

from __future__ import annotations

import pytest

from llmlab.cost.kernels import Kernel, layer_kernels
from llmlab.cost.models import find_config
from llmlab.hardware import cluster
from llmlab.plot.rooflines import roofline

H100 = cluster("h100").device
KERNELS = layer_kernels(find_config("llama3-8b"), 1, 4096)


def test_the_roof_bends_where_peak_and_bandwidth_meet():
    roof = roofline(H100, KERNELS).axes[0].lines[0]
    ridge = 989e12 / 3350e9
    assert roof.get_xdata()[1] == pytest.approx(ridge) and list(roof.get_ydata()[1:]) == [989e12, 989e12]
    assert roof.get_ydata()[0] == pytest.approx(roof.get_xdata()[0] * 3350e9) and roof.get_linestyle() == "--"


def test_every_kernel_is_under_the_roof_and_has_a_bar_of_its_time():
    roof, bars = roofline(H100, KERNELS).axes
    marks = [line for line in roof.lines if "modelled" in line.get_label()]
    assert len(marks) == len(KERNELS) == len(bars.patches)
    for mark, bar, kernel in zip(marks, bars.patches, KERNELS, strict=True):
        intensity, rate = mark.get_xdata()[0], mark.get_ydata()[0]
        assert (intensity, rate) == (kernel.intensity, kernel.flops_per_s(H100))
        assert rate <= min(989e12, intensity * 3350e9)
        assert bar.get_width() == kernel.seconds(H100) and bar.get_linestyle() == "--"


def test_measured_kernels_are_filled_and_solid_and_their_numbers_stay_on_the_figure():
    figure = roofline(H100, KERNELS[:1], measured={"mine": (1e12, 1e9, 2e-3)})
    roof, bars = figure.axes
    mine = next(line for line in roof.lines if line.get_label() == "mine: measured")
    assert (mine.get_xdata()[0], mine.get_ydata()[0]) == (1e3, 5e14)
    assert mine.get_markerfacecolor() == mine.get_color() and bars.patches[1].get_linestyle() == "-"
    assert figure.alt.endswith("Measured: mine.") and "2 ms" not in figure.alt
    below = figure.get_supxlabel()
    assert "Modelled on NVIDIA H100" in below and "Measured on NVIDIA H100" in below


def test_kernels_that_lie_together_share_a_label():
    close = [Kernel("a", "matmul", 1e12, 1e9), Kernel("b", "matmul", 1.1e12, 1e9), Kernel("c", "memory", 1e9, 1e9)]
    assert [text.get_text() for text in roofline(H100, close).axes[0].texts] == ["1, 2", "3"]


def test_the_sentence_says_what_bounds_each_kernel():
    alt = roofline(H100, KERNELS).alt
    memory, computing = alt.split("; bound by computing")
    assert "bends at 295 FLOPs" in memory and "norm (" in memory and "attention (70% of peak)" in computing


def test_no_kernel_is_refused():
    with pytest.raises(ValueError, match="a kernel or more, got none"):
        roofline(H100)
