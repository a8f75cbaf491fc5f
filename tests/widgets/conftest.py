"""Widgets are tested without a browser: their values are moved and their HTML is read."""

from __future__ import annotations

import pytest


@pytest.fixture
def displayed(monkeypatch):
    """What was displayed, in order: the data of each bundle."""
    bundles = []

    def display(data, metadata=None, raw=False):
        assert raw
        bundles.append(data)

    monkeypatch.setattr("IPython.display.display", display)
    for module in ("card", "live"):
        monkeypatch.setattr(f"llmlab.widgets.{module}.display", display)
    return bundles
