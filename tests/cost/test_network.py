"""The closed forms of communication against hand calculations on a cluster with round numbers."""

from __future__ import annotations

import dataclasses

import pytest

from llmlab.cost.network import Axis, axes
from llmlab.cost.ownership import MEASURED, Owners
from llmlab.cost.stack import Stack, owned
from llmlab.hardware import Link, cluster
from llmlab.hardware.facts import read_facts
from llmlab.parallel.layout import Layout

NEAR, FAR = Link("near", 1e-6, 100e9, 0.5), Link("far", 1e-5, 10e9, 1.0)  # 50 GB/s and 10 GB/s reached
HERE = dataclasses.replace(cluster("a100"), devices_per_node=8, intra=NEAR, inter=FAR)
ON = Stack().wires(HERE)


def test_a_group_of_one_says_nothing():
    alone = Axis(1, 1, ON)
    assert alone.gather(1e9) == alone.all_reduce(1e9) == alone.message(1e9) == alone.all_to_all(1e9) == 0


def test_inside_a_node_a_gather_takes_the_ring_its_bytes_and_the_tree_its_latency():
    assert Axis(8, 1, ON).gather(50e9) == pytest.approx(7 / 8 + 3e-6)


def test_an_all_reduce_is_a_scatter_and_a_gather():
    assert Axis(8, 1, ON).all_reduce(50e9) == pytest.approx(2 * (7 / 8 + 3e-6))


def test_across_nodes_every_rank_of_the_group_in_a_node_sends_its_share():
    every = Axis(32, 1, ON)  # 8 in each of 4 nodes: 8 adapters together
    assert every.gather(80e9) == pytest.approx(max(7 / 8 * 80 / 50, 3 / 4 * 80 / 80) + 3e-6 + 2e-5)
    one = Axis(4, 8, ON)  # 1 in each of 4 nodes
    assert one.gather(80e9) == pytest.approx(3 / 4 * 80 / 10 + 2e-5)


def test_the_slower_leg_sets_the_pace():
    slow_inside = Stack().wires(dataclasses.replace(HERE, intra=Link("slow", 0.0, 1e9)))
    assert Axis(32, 1, slow_inside).gather(8e9) == pytest.approx(7 / 8 * 8 + 2e-5)


def test_a_message_takes_the_slowest_link_on_the_way_round():
    assert Axis(4, 2, ON).message(5e9) == pytest.approx(0.1 + 1e-6)
    assert Axis(4, 4, ON).message(5e9) == pytest.approx(0.5 + 1e-5)


def test_an_all_to_all_keeps_its_own_part():
    assert Axis(8, 1, ON).all_to_all(8e9) == pytest.approx(7 / 8 * 8 / 50 + 1e-6)
    assert Axis(16, 1, ON).all_to_all(16e9) == pytest.approx(8 / 16 * 16 / 10 + 1e-5)


def test_tensor_parallelism_lies_inside_a_node_and_the_pipeline_crosses_it_first():
    found = axes(Layout(dp=4, tp=4, pp=2, cp=2), ON)
    assert (found["tp"].size, found["tp"].local) == (4, 4)
    assert (found["data"].size, found["data"].stride, found["data"].local) == (8, 4, 2)
    assert (found["pp"].stride, found["pp"].local) == (32, 1)


def test_congestion_narrows_the_way_between_nodes_only():
    busy = Stack(congestion=0.5).wires(HERE)
    assert Axis(4, 8, busy).gather(80e9) == pytest.approx(2 * 3 / 4 * 80 / 10 + 2e-5)  # 4 nodes: the square root
    assert Axis(8, 1, busy).gather(50e9) == Axis(8, 1, ON).gather(50e9)


def test_congestion_is_what_collectives_were_measured_to_lose():
    """AWS EFA, 4 to 64 nodes of 8 H100: a ring's gather and a tree's sum, the bus bandwidth within a third."""
    on = cluster("h100", network="AWS EFA")
    logs = {("network", "AWS EFA", "congestion"): MEASURED["network", "AWS EFA", "congestion"][0]}
    wires = owned("typical", Owners(logs)).on(on).wires(on)
    rows = [row for row in read_facts("published", "collective_bandwidth.csv") if int(row["nodes"]) >= 4]
    for row in rows:
        n, nbytes = int(row["gpus"]), 8e9
        axis = Axis(n, 1, wires)
        summed = row["collective"] == "AllReduce"
        seconds = axis.all_reduce(nbytes) if summed else axis.gather(nbytes)
        modelled = (2 if summed else 1) * (n - 1) / n * nbytes / seconds / 1e9
        assert modelled == pytest.approx(float(row["busbw_gbytes_per_s"]), rel=1 / 3), row
    assert len(rows) == 15
