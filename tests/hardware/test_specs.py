"""Devices, links and clusters: rates by dtype, the roofline of a kernel, which link joins two ranks, variations."""

from __future__ import annotations

import dataclasses

import pytest

from llmlab.hardware import Device, Link, cluster, clusters, device, link, links
from llmlab.hardware.facts import read_facts

A100 = device("a100")


def test_every_cluster_and_link_can_be_looked_up():
    for name in clusters():
        found = cluster(name)
        assert found.name == name and found.device.memory_bytes > 0 and found.devices_per_node >= 1
    for name in links():
        assert link(name).bytes_per_s > 0 and link(name).latency_s > 0


@pytest.mark.parametrize("table", ["devices", "links", "clusters"])
def test_every_fact_has_a_source_and_a_name_of_its_own(table):
    rows = read_facts("hardware", f"{table}.csv")
    assert all(row["source"].strip() for row in rows)
    assert len({row["name"] for row in rows}) == len(rows)


def test_every_efficiency_is_a_share():
    for row in read_facts("hardware", "devices.csv"):
        assert all(0 < float(row[f"{kind}_efficiency"]) <= 1 for kind in ("matmul", "attention", "memory")), row["name"]
    assert all(0 < float(row["efficiency"]) <= 1 for row in read_facts("hardware", "links.csv"))


def test_a_matrix_product_is_priced_by_flops_when_it_is_large():
    reached = 312e12 * A100.matmul_efficiency
    assert A100.kernel_seconds("matmul", 10**15, 0, "bf16") == pytest.approx(1e15 / reached + A100.ramp_s)


def test_a_matrix_product_is_priced_by_bytes_when_it_is_thin():
    assert A100.kernel_seconds("matmul", 10, 10**9, "bf16") == pytest.approx(
        1e9 / (2039e9 * A100.memory_efficiency) + A100.ramp_s
    )


def test_an_elementwise_kernel_is_priced_by_bytes_alone():
    assert A100.kernel_seconds("memory", 10**15, 10**9, "bf16") == A100.kernel_seconds("memory", 0, 10**9, "bf16")


def test_every_kernel_pays_the_ramp():
    assert A100.kernel_seconds("memory", 0, 0, "fp32") == A100.ramp_s


def test_a_missing_dtype_is_priced_as_the_next_wider_one():
    assert A100.peak("fp8") == A100.peak("bf16") == 312e12
    assert device("v100").peak("bf16") == 125e12  # fp16: as wide
    assert device("laptop").peak("bf16") == device("laptop").peak("fp32")


def test_what_is_wider_than_anything_published_is_refused():
    with pytest.raises(ValueError, match="fp32 or wider, only for bf16"):
        device("tpu-v4").peak("fp32")


def test_an_unknown_kind_and_an_unknown_dtype_are_refused():
    with pytest.raises(ValueError, match="'conv'"):
        A100.kernel_seconds("conv", 1, 1, "bf16")
    with pytest.raises(ValueError, match="'int4'"):
        A100.kernel_seconds("matmul", 1, 1, "int4")


def test_ranks_of_a_node_talk_over_the_link_inside_it():
    h100 = cluster("h100")
    assert [h100.node(rank) for rank in (0, 7, 8, 16)] == [0, 0, 1, 2]
    assert h100.link(0, 7) == h100.intra and h100.link(7, 8) == h100.inter


def test_a_message_costs_latency_and_bytes():
    assert Link("x", 1e-3, 1e6, 0.5).seconds(10**6) == pytest.approx(2.001)


def test_a_link_is_chosen_by_name():
    varied = cluster("h100", inter="infiniband-hdr", intra="pcie5")
    assert varied.inter == link("infiniband-hdr") and varied.intra == link("pcie5")
    assert varied.device == cluster("h100").device
    assert all(word in varied.name for word in ("h100", "pcie5", "infiniband-hdr"))


def test_an_adapter_that_a_machine_has_once_is_shared_by_its_devices():
    assert cluster("h100", inter="ethernet-10g").inter.bytes_per_s == pytest.approx(1.25e9 / 8)
    assert cluster("h100", inter="ethernet-10g", devices_per_node=1).inter.bytes_per_s == pytest.approx(1.25e9)
    assert cluster("rtx4090", devices_per_node=2).inter.bytes_per_s == pytest.approx(1.25e9 / 2)  # looked up again


def test_a_link_given_as_an_object_is_taken_as_it_is():
    mine = Link("mine", 1e-6, 1e9)
    assert cluster("h100", inter=mine).inter is mine


def test_a_cluster_passes_through_and_varies_by_replace():
    h100 = cluster("h100")
    assert cluster(h100) is h100
    slow = dataclasses.replace(h100, device=dataclasses.replace(h100.device, memory_bytes=1))
    assert cluster(slow).device.memory_bytes == 1 and isinstance(slow.device, Device)


def test_an_unknown_name_is_refused_with_the_closest():
    with pytest.raises(ValueError, match="did you mean 'h100'"):
        cluster("h10")
    with pytest.raises(ValueError, match="a link is one of .*did you mean 'infiniband-ndr'"):
        cluster("h100", inter="infiniband-nrd")
    with pytest.raises(ValueError, match="devices_per_node as a whole number of at least 1; got 0"):
        cluster("h100", devices_per_node=0)


def test_clusters_can_be_keys():
    assert {cluster("h100"): 1}[cluster("h100")] == 1
