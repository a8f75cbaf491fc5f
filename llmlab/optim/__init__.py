"""Optimizers written out from their formulas, with torch's arguments and defaults, and what surrounds a step.

    SGD         p -= lr g                     momentum (Polyak 1964), Nesterov's (Sutskever et al. 2013)
    RMSprop     p -= lr g / (√E[g²] + eps)                               (Hinton 2012, lecture 6e)
    Adam        p -= lr m̂ / (√v̂ + eps)        m̂, v̂ corrected for their start at 0   (Kingma and Ba 2015, algorithm 1)
    AdamW       the same, after p -= lr λ p   (Loshchilov and Hutter 2019, algorithm 2)

Nothing here reads a value back to the host, so the operations are the same whatever the numbers are (LossScaler, which
has to decide whether to step, says where it does).
"""

from llmlab.optim.gradients import LossScaler, clip_grad_norm, grad_norm
from llmlab.optim.rates import LRScheduler, constant, cosine, linear, warm_up
from llmlab.optim.rules import SGD, Adam, AdamW, Optimizer, RMSprop, check_over, make_over

__all__ = [
    "SGD", "Adam", "AdamW", "LRScheduler", "LossScaler", "Optimizer", "RMSprop", "check_over", "clip_grad_norm",
    "constant", "cosine", "grad_norm", "linear", "make_over", "warm_up",
]  # fmt: skip
