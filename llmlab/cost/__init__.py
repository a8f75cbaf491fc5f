"""Closed forms: what a training step takes in time and memory, on any cluster, without running it."""

from llmlab.cost.step import Prediction, predict

__all__ = ["Prediction", "predict"]
