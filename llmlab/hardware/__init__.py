"""The machines a run is on: published specs (`data/hardware/`, each with its source), and this machine, measured."""

from llmlab.hardware.machine import Machine, describe_machine, this_machine
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
    "link",
    "links",
    "this_machine",
]
