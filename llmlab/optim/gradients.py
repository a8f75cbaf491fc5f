"""What is done to gradients between backward and step: their norm, clipping, and loss scaling for fp16."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from llmlab.arguments import instance, instances, real, whole


@torch.no_grad()
def grad_norm(params: Iterable[Tensor]) -> Tensor:
    """Compute the 2-norm of all gradients taken as one vector; 0-dimensional.

    Where a mode of parallelism has spread gradients over ranks it is the norm of the whole: every rank calls this.
    """
    grads = [grad for p in _tensors("grad_norm", params) if (grad := p.grad) is not None]
    if not grads:
        return torch.zeros(())
    norms = torch._foreach_norm(grads)  # all in one call, so that ranks exchange them in one message
    dtype = max((norm.dtype for norm in norms), key=lambda dtype: torch.finfo(dtype).bits)
    return torch.linalg.vector_norm(torch.stack([norm.to(dtype) for norm in norms]))


@torch.no_grad()
def clip_grad_norm(params: Iterable[Tensor], max_norm: float | Tensor, norm: Tensor | None = None) -> Tensor:
    """Scale all gradients by min(1, max_norm / norm) in place; return the norm they had (Pascanu et al. 2013).

    `norm`: the global norm where the gradients here are only a part of the model's.
    """
    if not isinstance(max_norm, Tensor):
        real("clip_grad_norm", "max_norm", max_norm, above=0, infinite=True)
    params = _tensors("clip_grad_norm", params)
    norm = grad_norm(params) if norm is None else norm
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)  # always multiplied by: asking whether would wait for the value
    for p in params:
        if p.grad is not None:
            p.grad.mul_(scale)
    return norm


def _tensors(call: str, params: Iterable[Tensor]) -> list[Tensor]:
    if isinstance(params, Tensor):
        return [params]  # as torch's own does
    return instances(call, "params", params, Tensor, "model.parameters()")


class LossScaler:
    """Loss scaling for fp16, whose small gradients would round to 0 (Micikevicius et al. 2018, section 3.2).

    backward of scale(loss), then step(optimizer): gradients are divided by the scale again; if any is not finite the
    step is left out and the scale halved; after `growth_interval` good steps in a row it doubles. torch's defaults.
    """

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ):
        real("LossScaler", "init_scale", init_scale, above=0)
        real("LossScaler", "growth_factor", growth_factor, above=1)
        real("LossScaler", "backoff_factor", backoff_factor, above=0, below=1)
        whole("LossScaler", "growth_interval", growth_interval, least=1)
        self.value, self.good_steps = float(init_scale), 0
        self.growth_factor, self.backoff_factor, self.growth_interval = growth_factor, backoff_factor, growth_interval

    def scale(self, loss: Tensor) -> Tensor:
        return instance("LossScaler.scale", "loss", loss, Tensor) * self.value

    @torch.no_grad()
    def unscale(self, params: Iterable[Tensor]) -> Tensor:
        """Divide the gradients by the scale in place; return a 0-dimensional 1.0 if all are finite, else 0.0."""
        grads = [grad for p in params if (grad := p.grad) is not None]
        for g in grads:
            g.mul_(1 / self.value)
        if not grads:  # a pipeline stage with nothing to train
            return torch.ones(())
        # the largest magnitude, which nan and inf survive; a norm is the same on all ranks that share a gradient
        return torch.stack([norm.isfinite() for norm in torch._foreach_norm(grads, math.inf)]).all().float()

    def step(self, optimizer: torch.optim.Optimizer, finite: Tensor | None = None) -> bool:
        """Step if every gradient is finite, adapt the scale, and return whether it stepped.

        `finite`: what `unscale` returned, where it was called before (to clip, or for ranks to vote by its minimum).
        This is where the value is read; meta tensors, which have none, count as finite.
        """
        instance("LossScaler.step", "optimizer", optimizer, torch.optim.Optimizer)
        if finite is None:
            finite = self.unscale(p for group in optimizer.param_groups for p in group["params"])
        good = finite.is_meta or bool(finite)
        if good:
            optimizer.step()
        self._adapt(good)
        return good

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value, self.good_steps = float(state["value"]), int(state["good_steps"])

    def _adapt(self, good: bool) -> None:
        self.good_steps = self.good_steps + 1 if good else 0
        if not good:
            self.value *= self.backoff_factor
        elif self.good_steps == self.growth_interval:
            self.value, self.good_steps = self.value * self.growth_factor, 0
