"""The threshold explorer: each slider moves the threshold, and the first picture is there without a kernel."""

from __future__ import annotations

import pytest

from llmlab.cost.thresholds import THRESHOLDS, threshold
from llmlab.hardware import cluster
from llmlab.plot.break_even import NOT_COUNTED
from llmlab.plot.style import caption
from llmlab.widgets import threshold_explorer
from llmlab.widgets.thresholds import PLACES, draw_threshold, wires


@pytest.mark.parametrize("mode", THRESHOLDS)
def test_every_slider_changes_the_picture_and_the_sentence(mode, displayed):
    box = threshold_explorer(mode, ranks=16)
    *sliders, view, said = box.children
    assert [slider.description for slider in sliders] == ["device", "ranks", "ranks lie"]
    for slider in sliders:
        before = view.value
        slider.index = slider.index - 1 if slider.index else 1
        assert view.value != before and said.value
    assert displayed[0]["text/plain"].startswith("Modelled: ") and "image/png" in displayed[0]


def test_one_in_each_node_leaves_the_network_alone():
    apart = draw_threshold(None, "h100", 8, "one in each node", "tensor")
    limit = threshold("tensor", cluster("h100", devices_per_node=1), 8)
    assert f"from {limit.least:,.0f} d_ff per rank on" in apart.alt
    assert "8 h100, infiniband-ndr" in apart.get_supxlabel()
    two_nodes = draw_threshold(None, "h100", 16, "side by side", "data")
    assert "16 h100, nvlink4 + infiniband-ndr" in two_nodes.get_supxlabel()


def test_every_device_and_group_of_the_sliders_has_every_threshold(displayed):
    device, ranks, *_ = threshold_explorer("data").children
    for mode in THRESHOLDS:
        for name in device.options:
            for size in ranks.options[::4]:
                for place, per_node in PLACES.items():
                    assert threshold(mode, cluster(name, devices_per_node=per_node), size).least > 0
                    assert "\n" not in caption_of(name, size, place) or name == "classroom"


def caption_of(device, ranks, place):
    on = cluster(device, devices_per_node=PLACES[place])
    return caption(f"{ranks} {device}, {wires(on, ranks)}", "virtual", NOT_COUNTED)


def test_a_mode_or_a_start_that_is_none_is_refused(displayed):
    for wrong in (("magic",), ("data", "gpu9000")):
        with pytest.raises(ValueError, match="one of"):
            threshold_explorer(*wrong)
