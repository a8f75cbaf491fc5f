"""Closed forms: what a training step takes in time and memory, on any cluster, without running it."""

from llmlab.cost import compute_optimal, scoring
from llmlab.cost.calibration import Measured, calibrate
from llmlab.cost.emitting import emit
from llmlab.cost.failures import daly, draw_time_lost, time_lost, young
from llmlab.cost.growing import grow
from llmlab.cost.kernels import layer_kernels
from llmlab.cost.modes.pipeline import pipeline_bytes
from llmlab.cost.options import Options
from llmlab.cost.planning import plan
from llmlab.cost.plans import Prices, say_layout
from llmlab.cost.prediction import RECOMPUTE, Prediction, predict
from llmlab.cost.published import check_rows
from llmlab.cost.scaling import amdahl, fit_scaling, gustafson
from llmlab.cost.serving import draw_requests, kv_bytes, serve
from llmlab.cost.serving_step import Modelled
from llmlab.cost.simulated import simulate
from llmlab.cost.sources import Source, provenance
from llmlab.cost.stack import Stack, stacks
from llmlab.cost.thresholds import THRESHOLDS, Threshold, counted_only, threshold

__all__ = [
    "Measured", "Modelled", "Options", "Prediction", "Prices", "RECOMPUTE", "Source", "Stack", "THRESHOLDS",
    "Threshold", "amdahl", "calibrate", "check_rows", "compute_optimal", "counted_only", "daly", "draw_requests",
    "draw_time_lost", "emit",
    "fit_scaling", "grow", "gustafson", "kv_bytes", "layer_kernels", "pipeline_bytes", "plan", "predict",
    "provenance", "say_layout", "scoring", "serve", "simulate", "stacks", "threshold", "time_lost", "young",
]  # fmt: skip
