"""Optimizers written out from their formulas, with torch's arguments and defaults, and what surrounds a step.

    SGD         p -= lr g                     momentum (Polyak 1964), Nesterov's (Sutskever et al. 2013)
    RMSprop     p -= lr g / (√E[g²] + eps)                               (Hinton 2012, lecture 6e)
    Adam        p -= lr m̂ / (√v̂ + eps)        m̂, v̂ corrected for their start at 0   (Kingma and Ba 2015, algorithm 1)
    AdamW       the same, after p -= lr λ p   (Loshchilov and Hutter 2019, algorithm 2)

Nothing here reads a value back to the host, so the operations are the same whatever the numbers are (LossScaler, which
has to decide whether to step, says where it does).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from llmlab.arguments import flag, function, instance, instances, listing, real, whole

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class Optimizer(torch.optim.Optimizer):
    """torch's parameter groups, state and hooks around one rule: `update(p, g, state, group)` changes p in place."""

    def __init__(self, params: Params, **defaults: Any):
        for name, value in defaults.items():
            _check_number(type(self).__name__, name, value)
            if name in ("nesterov", "centered", "amsgrad", "maximize"):
                flag(type(self).__name__, name, value)
        super().__init__(_check_params(type(self).__name__, params), defaults)

    # torch wraps these for its compiler, and the first call of one imports all of that: 2 s where a model takes 10 ms
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """Update every parameter that has a gradient; with a closure, compute the loss again first and return it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    g = -p.grad if group["maximize"] else p.grad
                    self.update(p, g, self.state[p], group)
        return loss

    def update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError(f"{type(self).__name__} wants an update rule")


def _check_number(call: str, name: str, value: Any) -> None:
    if name in ("lr", "eps", "weight_decay", "momentum", "alpha"):
        real(call, name, value, least=0, most=1 if name == "alpha" else None)


def _check_params(name: str, params: Params) -> Params:
    """Parameters, or groups of them: torch's own words name neither this optimizer nor what to write."""
    hint = "model.parameters()"
    if not isinstance(params, Iterable) or isinstance(params, (str, dict, Tensor)):
        raise ValueError(f"{name} wants params as {hint}; got a {type(params).__name__}")
    given: list[Any] = list(params)
    names = all(isinstance(each, tuple) and len(each) == 2 for each in given)  # model.named_parameters()
    for each in () if names else given:
        instance(name, "params", each, (Tensor, dict), hint)
        for option, value in each.items() if isinstance(each, dict) else ():
            _check_number(name, option, value)
    if not given:
        raise ValueError(f"{name} wants params as at least one parameter; got none")
    return given


def make_over(
    call: str, make_optimizer: Callable[..., torch.optim.Optimizer], parameters: Iterable[Tensor]
) -> torch.optim.Optimizer:
    """Make an optimizer over these parameters, some or all. Raises ValueError for one over any others: it would step
    what nobody trains."""
    own = list(parameters)
    return check_over(call, function(call, "make_optimizer", make_optimizer, "parameters")(own), own)


def check_over(call: str, optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Give the optimizer back. Raises ValueError unless all that it steps is among these parameters."""
    instance(call, "the optimizer", optimizer, torch.optim.Optimizer, "lambda parameters: lab.optim.SGD(parameters)")
    own, stepped = set(parameters), [p for group in optimizer.param_groups for p in group["params"]]
    strange = sum(p not in own for p in stepped)
    if strange:
        raise ValueError(
            f"{call} wants an optimizer over this model's parameters, got one of which {strange} of {len(stepped)} are "
            "another's: nothing would train. Make it of the parameters that are given"
        )
    return optimizer


class SGD(Optimizer):
    """p -= lr g; with momentum b = momentum b + (1 - dampening) g and p -= lr b; Nesterov: p -= lr (g + momentum b)."""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ):
        flag("SGD", "nesterov", nesterov)
        real("SGD", "dampening", dampening)
        if nesterov and (real("SGD", "momentum", momentum) <= 0 or dampening != 0):
            raise ValueError(f"nesterov wants momentum > 0 and dampening 0, got {momentum} and {dampening}")
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
        )

    def update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        if group["weight_decay"]:
            g = g.add(p, alpha=group["weight_decay"])
        if momentum:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = g.clone()  # the first step is not dampened, as in torch
            else:
                state["momentum_buffer"].mul_(momentum).add_(g, alpha=1 - group["dampening"])
            b = state["momentum_buffer"]
            g = g.add(b, alpha=momentum) if group["nesterov"] else b
        p.add_(g, alpha=-group["lr"])


class RMSprop(Optimizer):
    """v = alpha v + (1 - alpha) g²; p -= lr g / (√v + eps). Centered: the variance, v less the squared mean of g."""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            maximize=maximize,
        )

    def update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        alpha, momentum = group["alpha"], group["momentum"]
        if not state:
            names = ["square_avg", *["grad_avg"] * group["centered"], *["momentum_buffer"] * (momentum > 0)]
            state.update({name: torch.zeros_like(p) for name in names})
        if group["weight_decay"]:
            g = g.add(p, alpha=group["weight_decay"])
        v = state["square_avg"].mul_(alpha).addcmul_(g, g, value=1 - alpha)
        if group["centered"]:
            mean = state["grad_avg"].lerp_(g, 1 - alpha)
            v = v.addcmul(mean, mean, value=-1)
        root = v.sqrt().add_(group["eps"])
        if momentum:
            b = state["momentum_buffer"].mul_(momentum).addcdiv_(g, root)
            p.add_(b, alpha=-group["lr"])
        else:
            p.addcdiv_(g, root, value=-group["lr"])


class Adam(Optimizer):
    """m = β₁ m + (1 - β₁) g; v = β₂ v + (1 - β₂) g²; p -= lr m/(1 - β₁ᵗ) / (√(v/(1 - β₂ᵗ)) + eps).

    weight_decay adds λ p to the gradient, so Adam scales it too; see AdamW. amsgrad: v never falls (Reddi et al. 2018).
    """

    decoupled = False  # whether weight decay stays out of the gradient

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        name = type(self).__name__
        both = [real(name, "each of betas", x, least=0, below=1) for x in listing(name, "betas", betas, "two numbers")]
        if len(both) != 2:
            raise ValueError(f"{name} wants betas as two numbers; got {betas!r}")
        super().__init__(
            params, lr=lr, betas=tuple(both), eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize
        )

    def update(self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        if not state:
            names = ["exp_avg", "exp_avg_sq", *["max_exp_avg_sq"] * group["amsgrad"]]
            state.update(step=0, **{name: torch.zeros_like(p) for name in names})
        state["step"] += 1
        if decay and self.decoupled:
            p.mul_(1 - lr * decay)
        elif decay:
            g = g.add(p, alpha=decay)
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if group["amsgrad"]:
            v = torch.maximum(state["max_exp_avg_sq"], v, out=state["max_exp_avg_sq"])
        root = v.sqrt().div_(math.sqrt(1 - beta2 ** state["step"])).add_(group["eps"])
        p.addcdiv_(m, root, value=-lr / (1 - beta1 ** state["step"]))


class AdamW(Adam):
    """Adam with weight decay left out of the gradient: first p -= lr λ p, then Adam's step."""

    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


# --- schedules: what the learning rate is multiplied by at step 0, 1, 2 ... ---------------------------------------

Factor = Callable[[int], float]


def constant(step: int) -> float:
    """Keep the learning rate."""
    return 1.0


def linear(steps: int, floor: float = 0.0) -> Factor:
    """Fall in a straight line from 1 to `floor` over so many steps, then stay."""
    whole("linear", "steps", steps, least=1)
    real("linear", "floor", floor, least=0)

    def factor(step: int) -> float:
        return 1 + (floor - 1) * min(step / steps, 1)

    return factor


def cosine(steps: int, floor: float = 0.0) -> Factor:
    """Fall from 1 to `floor` along half a cosine over so many steps, then stay (Loshchilov and Hutter 2017)."""
    whole("cosine", "steps", steps, least=1)
    real("cosine", "floor", floor, least=0)

    def factor(step: int) -> float:
        return floor + (1 - floor) * (1 + math.cos(math.pi * min(step / steps, 1))) / 2

    return factor


def warm_up(steps: int, then: Factor = constant) -> Factor:
    """Rise to 1 in so many equal steps, the first 1/steps, so none is wasted on 0; then follow `then` from its 0."""
    whole("warm_up", "steps", steps, least=0)
    function("warm_up", "then", then, "step")

    def factor(step: int) -> float:
        return (step + 1) / steps if step < steps else then(step - steps)

    return factor


class LRScheduler:
    """Set each group's learning rate to factor(step) times its first one. Call step() after the optimizer's."""

    def __init__(self, optimizer: torch.optim.Optimizer, factor: Factor):
        instance("LRScheduler", "optimizer", optimizer, torch.optim.Optimizer)
        function("LRScheduler", "factor", factor, "step")
        self.optimizer, self.factor, self.n_step = optimizer, factor, 0
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])  # already there when the optimizer's state was loaded
        self._set()

    def step(self) -> None:
        self.n_step += 1
        self._set()

    def state_dict(self) -> dict[str, int]:
        return {"n_step": self.n_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.n_step = state["n_step"]
        self._set()

    def _set(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.factor(self.n_step)


# --- gradients, between backward and step -----------------------------------------------------------------------------


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
