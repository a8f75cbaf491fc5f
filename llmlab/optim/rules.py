"""The update rules, each written out from its formula, and the check that an optimizer trains what it is said to."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from llmlab.arguments import flag, function, instance, listing, real

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
