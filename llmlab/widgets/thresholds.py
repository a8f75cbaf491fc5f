"""From which size on does a mode pay? Sliders over published hardware and the size of the group."""

from __future__ import annotations

from functools import partial

import ipywidgets as W

from llmlab import arguments
from llmlab.cost.thresholds import THRESHOLDS
from llmlab.cost.thresholds import threshold as find_threshold
from llmlab.hardware import Cluster, cluster
from llmlab.plot import Picture, explore
from llmlab.plot.break_even import threshold
from llmlab.widgets.planner import CLUSTERS
from llmlab.widgets.sliders import choice

PLACES = {"side by side": None, "one in each node": 1}


def threshold_explorer(mode: str, device: str = "h100", *, ranks: int = 8, place: str = "side by side") -> W.VBox:
    """Explore the threshold of a mode ("data", "zero3", "tensor", "context", "pipeline" or "expert").

    place: "side by side" fills a node before the next; "one in each node" leaves the ranks the network alone, as where
    another mode has the node's other devices.
    """
    arguments.choice("threshold_explorer", "mode", mode, THRESHOLDS)
    return explore(
        partial(draw_threshold, mode=mode),
        device=choice("device", [*CLUSTERS, "classroom", "laptop"], device),
        ranks=choice("ranks", [2**k for k in range(1, 11)], ranks),
        place=choice("ranks lie", list(PLACES), place),
    )


def draw_threshold(figure: Picture | None, device: str, ranks: int, place: str, mode: str) -> Picture:
    """Draw what the sliders say."""
    on = cluster(device, devices_per_node=PLACES[place])
    limit = find_threshold(mode, on, ranks)
    return threshold(limit, hardware=f"{ranks} {device}, {wires(on, ranks)}", figure=figure)


def wires(on: Cluster, ranks: int) -> str:
    """Name the links that join neighbouring ranks."""
    if ranks <= on.devices_per_node:
        return on.intra.name
    return on.inter.name if on.devices_per_node == 1 else f"{on.intra.name} + {on.inter.name}"
