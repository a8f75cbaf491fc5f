"""What a device may draw, from data sheets (`data/hardware/power.csv`): an upper bound, of the device alone."""

from __future__ import annotations

from functools import cache

from llmlab.arguments import instance
from llmlab.hardware.facts import read_facts
from llmlab.hardware.specs import Device


def watts(device: Device) -> float | None:
    """Give the thermal design power of a device, or None where no data sheet says."""
    return _watts_by_title().get(instance("watts", "device", device, Device, "lab.hardware.device('h100')").name)


@cache
def _watts_by_title() -> dict[str, float]:
    titles = {row["name"]: row["title"] for row in read_facts("hardware", "devices.csv")}
    return {titles[row["device"]]: float(row["tdp_watts"]) for row in read_facts("hardware", "power.csv")}
