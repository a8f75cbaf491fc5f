"""A trained model made smaller: fewer bits a weight, fewer weights, or a small model taught by a large one."""

from llmlab.compressing.calibrated import calibrate
from llmlab.compressing.distilling import Distillation, distillation_loss
from llmlab.compressing.pruning import Masks, magnitude_masks, two_of_four, without
from llmlab.compressing.quantising import QuantizedLinear, QuantizedTable, QuantizedWeight, quantize, stored_bytes

__all__ = [
    "Distillation",
    "Masks",
    "QuantizedLinear",
    "QuantizedTable",
    "QuantizedWeight",
    "calibrate",
    "distillation_loss",
    "magnitude_masks",
    "quantize",
    "stored_bytes",
    "two_of_four",
    "without",
]
