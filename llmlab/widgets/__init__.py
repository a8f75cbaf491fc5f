"""Sliders on the same functions: nothing is computed here that llmlab does not compute elsewhere."""

from llmlab.widgets.card import machine_card
from llmlab.widgets.explorer import speedup_explorer
from llmlab.widgets.game import layout_game
from llmlab.widgets.hover import timeline_hover
from llmlab.widgets.layouts import layout_explorer
from llmlab.widgets.live import LiveCurve
from llmlab.widgets.zero import zero_explorer

__all__ = [
    "LiveCurve",
    "layout_explorer",
    "layout_game",
    "machine_card",
    "speedup_explorer",
    "timeline_hover",
    "zero_explorer",
]
