"""A stored model's settings, read strictly: a value that is missing, or not of its kind, is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Settings = Mapping[str, Any]
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


def need(settings: Settings, name: str) -> Any:
    """Give a setting that has no default."""
    if settings.get(name) is None:
        raise ValueError(f"the model's settings must give {name!r}, got {sorted(settings)[:40]}")
    return settings[name]


def size(settings: Settings, name: str, default: int | None = None) -> int:
    """Give a setting that is a count."""
    value = need(settings, name) if default is None else settings.get(name) or default
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return value


def flag(settings: Settings, name: str, default: bool) -> bool:
    """Give a setting that is a switch."""
    if not isinstance(value := settings.get(name, default), bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def fixed(settings: Settings, **wanted: Any) -> None:
    """Refuse settings that differ from the only value known here, which is also what a missing one means."""
    for name, value in wanted.items():
        if settings.get(name, value) not in (value, None):
            raise ValueError(
                f"{name} must be {value!r} for the modules here to compute the same, got {settings[name]!r}"
            )


def number(settings: Settings, name: str, default: float | None = None) -> float:
    """Give a setting that is a positive number."""
    value = need(settings, name) if default is None else settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a number above 0, got {value!r}")
    return float(value)


def activation(settings: Settings, name: str) -> str:
    """Give our name of an activation."""
    if (theirs := need(settings, name)) not in list(ACTIVATIONS):
        raise ValueError(f"{name} must be one of {', '.join(ACTIVATIONS)}; got {theirs!r}")
    return ACTIVATIONS[theirs]
