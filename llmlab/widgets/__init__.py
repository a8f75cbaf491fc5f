"""Sliders on the same functions: nothing is computed here that llmlab does not compute elsewhere."""

from llmlab.widgets.card import machine_card
from llmlab.widgets.chatting import Chat
from llmlab.widgets.explorer import joined, speedup_explorer
from llmlab.widgets.game import layout_game
from llmlab.widgets.hover import timeline_hover
from llmlab.widgets.layouts import layout_explorer
from llmlab.widgets.live import LiveCurve
from llmlab.widgets.maps import attention_explorer
from llmlab.widgets.memories import memory_explorer
from llmlab.widgets.optimizers import SURFACES, descend, optimizer_explorer
from llmlab.widgets.planner import prediction_explorer, scaling_explorer
from llmlab.widgets.positions import rotary_explorer, sinusoid_explorer
from llmlab.widgets.rooflines import roofline_explorer
from llmlab.widgets.sampling import sampling_explorer
from llmlab.widgets.schedules import schedule_explorer
from llmlab.widgets.thresholds import threshold_explorer
from llmlab.widgets.tokens import token_explorer
from llmlab.widgets.wards import ward_round
from llmlab.widgets.zero import zero_explorer

__all__ = [
    "SURFACES",
    "Chat",
    "LiveCurve",
    "attention_explorer",
    "descend",
    "joined",
    "layout_explorer",
    "layout_game",
    "machine_card",
    "memory_explorer",
    "optimizer_explorer",
    "prediction_explorer",
    "roofline_explorer",
    "rotary_explorer",
    "sampling_explorer",
    "scaling_explorer",
    "schedule_explorer",
    "sinusoid_explorer",
    "speedup_explorer",
    "threshold_explorer",
    "timeline_hover",
    "token_explorer",
    "ward_round",
    "zero_explorer",
]
