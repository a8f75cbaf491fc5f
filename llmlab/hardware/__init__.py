"""The machines a run is on: published specs (`data/hardware/`, each with its source), and this machine, measured."""

from llmlab.hardware.facts import read_facts
from llmlab.hardware.machine import Machine, describe_machine, this_machine
from llmlab.hardware.measurement import fit_latency_bandwidth
from llmlab.hardware.published import cluster, clusters, device, link, links
from llmlab.hardware.specs import Cluster, Device, Link

__all__ = [
    "Cluster",
    "Device",
    "Link",
    "Machine",
    "cluster",
    "clusters",
    "describe_machine",
    "device",
    "fit_latency_bandwidth",
    "link",
    "links",
    "read_facts",
    "this_machine",
]
