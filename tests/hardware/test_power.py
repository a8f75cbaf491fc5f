"""Power: a data sheet's figure, or none."""

from __future__ import annotations

from llmlab.hardware import cluster, clusters
from llmlab.hardware.facts import read_facts
from llmlab.hardware.power import watts


def test_a_device_with_a_data_sheet_has_its_thermal_design_power():
    assert watts(cluster("h100").device) == 700 and watts(cluster("a100-pcie").device) == 300
    assert watts(cluster("h100", devices_per_node=4).device) == 700


def test_no_data_sheet_no_figure():
    assert {name for name in clusters() if watts(cluster(name).device) is None} == {
        "classroom", "laptop", "tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e",
    }  # fmt: skip


def test_every_figure_has_a_source():
    assert all(row["source"] and float(row["tdp_watts"]) > 0 for row in read_facts("hardware", "power.csv"))
