"""Closed forms: what a training step takes in time and memory, on any cluster, without running it."""

from llmlab.cost.calibration import Measured, calibrate
from llmlab.cost.planning import plan
from llmlab.cost.plans import Prices
from llmlab.cost.prediction import Prediction, predict
from llmlab.cost.stack import Stack, stacks

__all__ = ["Measured", "Prediction", "Prices", "Stack", "calibrate", "plan", "predict", "stacks"]
