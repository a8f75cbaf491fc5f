"""Training on one process: forward, backward, update, again and again, and knowing when to stop.

    loss = Σ over the target tokens of all microbatches  -log p(target) / their number

Microbatches accumulate their gradients before an update, so that a batch may be larger than memory. They are divided by
the number of tokens of all of them, once: a mean of their means would weigh a short one as much as a long one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from llmlab.arguments import flag, function, instance, real, whole
from llmlab.evaluate import mean_loss, on_device
from llmlab.evaluate.scores import Batch
from llmlab.model import IGNORE
from llmlab.model.dropout import places
from llmlab.optim import LRScheduler, check_over, clip_grad_norm, grad_norm

Curves = dict[str, dict[int, float]]  # name -> step -> nats per token: what plot.losses draws


def summed_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Compute the model's own loss, summed over the targets, from a batch of what its `loss` takes."""
    return model.loss(*on_device(model, batch), reduction="sum")  # type: ignore[operator]


def trained(model: nn.Module) -> list[Tensor]:
    """What an optimizer may step: the model's parameters, or the shards that ZeRO has made of them."""
    sharded = getattr(model, "zero", None)
    return list(model.parameters()) if sharded is None else list(sharded.owned.values())


class Checkpoints(Protocol):
    """Where a run goes on from, and when it saves: `lab.checkpoint.Checkpoints`."""

    def resume(
        self, target: Any, optimizer: torch.optim.Optimizer | None = None, *, last: float = ...
    ) -> dict[str, Any] | None: ...
    def after(
        self, n_step: int, target: Any, optimizer: torch.optim.Optimizer | None, extra: Callable[[], Any], *, last: bool
    ) -> None: ...
    def of_each(self, value: Any) -> list[Any]: ...
    def mine(self, values: list[Any]) -> Any: ...


class EarlyStop:
    """Remember the best validation loss and its weights; stop after `patience` validations without a better one."""

    def __init__(self, patience: int):
        whole("EarlyStop", "patience (validations)", patience, least=1)
        self.patience, self.best, self.waited = patience, math.inf, 0
        self.weights: dict[str, Tensor] = {}

    def update(self, loss: float, model: nn.Module) -> None:
        if loss < self.best:
            self.best, self.waited = loss, 0
            self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        else:
            self.waited += 1

    @property
    def stopped(self) -> bool:
        return self.waited >= self.patience


class Trainer:
    """Update a model's weights, and know how far it came: `fit`, and `state_dict` to go on later as if never stopped.

    accumulate: microbatches per update.  clip: the largest norm of the gradient.  bf16: matrix products in bfloat16
    (torch's autocast); weights, norms and loss stay as they are.  patience: stop after so many validations in a row
    without a better loss, and put the best weights back.  loss: (model, batch) -> the sum over the batch's targets,
    which come last in it.  validate: (model, batches) -> the figure to watch.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        schedule: LRScheduler | None = None,
        accumulate: int = 1,
        clip: float | None = None,
        bf16: bool = False,
        patience: int | None = None,
        loss: Callable[[nn.Module, Any], Tensor] = summed_loss,
        validate: Callable[[nn.Module, Any], float] = mean_loss,
    ):
        instance("Trainer", "model", model, nn.Module)
        check_over("Trainer", optimizer, trained(model))
        whole("Trainer", "accumulate (microbatches per update)", accumulate, least=1)
        if clip is not None:
            real("Trainer", "clip (a norm, or None)", clip, above=0, infinite=True)
        if schedule is not None:
            instance("Trainer", "schedule", schedule, LRScheduler, "lab.optim.LRScheduler(optimizer, factor)")
        flag("Trainer", "bf16", bf16)
        function("Trainer", "loss", loss, "model, batch")
        function("Trainer", "validate", validate, "model, batches")
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.accumulate, self.clip, self.bf16 = accumulate, clip, bf16
        self.early_stop = None if patience is None else EarlyStop(patience)
        self.loss, self.validate = loss, validate
        self.n_step = self.n_batch = self.n_token = 0  # updates, microbatches and target tokens so far
        self.curves: Curves = {}

    def fit(
        self,
        batches: Iterable[Batch],
        steps: int | None = None,
        *,
        valid: Iterable[Batch] | None = None,
        valid_every: int = 100,
        limit_s: float | None = None,
        on_step: Callable[..., object] | None = None,
        progress: bool = True,
        checkpoints: Checkpoints | None = None,
    ) -> Curves:
        """Train until `steps` updates are made, `limit_s` seconds are over, the batches end or patience does.

        valid: what to validate on, every `valid_every` steps and after the last.  on_step: called after each step as
        on_step(train=..., valid=...), the latter only where there is one: `widgets.LiveCurve.add` draws them (and has a
        progress bar of its own).  checkpoints: `lab.checkpoint.Checkpoints(folder, every=...)`, to save on the way and,
        when the program is started again with the same batches from their first, to go on from the newest as if never
        stopped; `steps` then counts from the first start. A folder is for one call.  Returns the curves, those of
        earlier calls included.  To go on by `load_state_dict`, give batches that start at `n_batch`.
        """
        if steps is not None:
            whole("fit", "steps (or None, to go on while there are batches)", steps, least=1)
        whole("fit", "valid_every (steps)", valid_every, least=1)
        if limit_s is not None:
            real("fit", "limit_s", limit_s, above=0)
        flag("fit", "progress", progress)
        if on_step is not None:
            function("fit", "on_step", on_step, "train=, valid=")
        if isinstance(batches, (str, Tensor)) or not isinstance(batches, Iterable):
            raise ValueError(f"fit wants batches, (tokens, targets) each; got a {type(batches).__name__}")
        if self.early_stop and valid is None:
            raise ValueError("patience wants batches to validate on, got valid=None")
        begin, stream = self.n_step, iter(batches)
        last = math.inf if steps is None else begin + steps
        deadline = math.inf if limit_s is None else time.monotonic() + limit_s
        if checkpoints is not None and self._resumed(checkpoints, last):
            for _ in islice(stream, (self.n_step - begin) * self.accumulate):
                pass  # seen before
        group = [] if self.n_step >= last or (self.early_stop and self.early_stop.stopped) else self._next(stream)
        if not group and self.n_step == begin:
            raise ValueError("fit wants at least one batch, got none")
        self.model.train()
        done = self.n_step - begin
        with tqdm(total=steps, initial=done, desc="training", unit="step", disable=not progress) as bar:
            while group:
                losses = {"train": self.step(group)}
                over = self.n_step >= last or time.monotonic() >= deadline
                group = [] if over else self._next(stream)
                if valid is not None and (not group or self.n_step % valid_every == 0):
                    losses["valid"] = self._validate(valid)
                self._note(losses, bar, on_step)
                if self.early_stop and self.early_stop.stopped:
                    self.model.load_state_dict(self.early_stop.weights)
                    group = []
                if checkpoints is not None:
                    self._save(checkpoints, last=not group)
        return self.curves

    def step(self, batches: Sequence[Batch]) -> float:
        """Update the weights once, from all these microbatches; give their mean loss, in nats per target token.

        Raises ValueError, and leaves the weights as they were, if the loss or the gradient is not finite.
        """
        _check(batches)
        targets = [list(batch)[-1] for batch in batches]
        n_token = sum(int((target != IGNORE).sum()) for target in targets)
        if not n_token:
            raise ValueError("a step wants at least one target token, got none")
        self.optimizer.zero_grad()
        mean = 0.0
        for batch in batches:
            with self._precision():
                loss = self.loss(self.model, batch) / n_token
            self._finite("loss", loss)
            loss.backward()
            mean += loss.item()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = grad_norm(parameters) if self.clip is None else clip_grad_norm(parameters, self.clip)
        self._finite("gradient's norm", norm)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        self.n_step, self.n_batch, self.n_token = self.n_step + 1, self.n_batch + len(batches), self.n_token + n_token
        return mean

    def state_dict(self) -> dict[str, Any]:
        """Give all that a later run needs: tensors and plain numbers, which `torch.load(weights_only=True)` takes."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **self._rules(),
            "forwards": [(place.base, dict(place.drawn)) for place in places(self.model)],  # of dropout
            "progress": (self.n_step, self.n_batch, self.n_token),
            "curves": self.curves,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. Raises ValueError if one of the two has a schedule or a patience and the other has none."""
        if not isinstance(state, dict) or not {"model", "optimizer", "schedule", "early_stop"} <= set(state):
            raise ValueError(f"load_state_dict wants what Trainer.state_dict gave, got {_kind(state)}")
        self._check_rules(state)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._set_rules(state)
        for place, forwards in zip(places(self.model), state["forwards"], strict=True):
            place.resume(*forwards)
        self.n_step, self.n_batch, self.n_token = state["progress"]
        self.curves = {name: dict(curve) for name, curve in state["curves"].items()}

    def _rules(self) -> dict[str, Any]:
        """What decides over rates and the end, alike on every rank."""
        stop = self.early_stop
        return {
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "early_stop": None if stop is None else {k: v for k, v in vars(stop).items() if k != "patience"},
        }

    def _check_rules(self, state: dict[str, Any]) -> None:
        for name in ("schedule", "early_stop"):
            here, there = ("none" if x is None else "one" for x in (getattr(self, name), state[name]))
            if here != there:
                raise ValueError(f"{name}: the trainer wants {here}, the state has {there}")

    def _set_rules(self, state: dict[str, Any]) -> None:
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        if self.early_stop is not None:
            vars(self.early_stop).update(state["early_stop"])

    def _save(self, checkpoints: Checkpoints, last: bool) -> None:
        def extra() -> dict[str, Any]:
            curves = {name: list(map(list, curve.items())) for name, curve in self.curves.items()}
            of_each = checkpoints.of_each([self.n_batch, self.n_token, curves])  # ranks may see batches of their own
            return {"trainer": self._rules(), "of each rank": of_each}

        checkpoints.after(self.n_step, self.model, self.optimizer, extra, last=last)

    def _resumed(self, checkpoints: Checkpoints, last: float) -> bool:
        """Load the newest checkpoint, if there is one."""
        found = checkpoints.resume(self.model, self.optimizer, last=last)
        if found is None:
            return False
        if "trainer" not in found:
            raise ValueError("fit wants a folder that fit has saved into, got checkpoints of another loop")
        self._check_rules(found["trainer"])
        self._set_rules(found["trainer"])
        self.n_step = found["step"]
        self.n_batch, self.n_token, curves = checkpoints.mine(found["of each rank"])
        self.curves = {name: {int(step): loss for step, loss in curve} for name, curve in curves.items()}
        return True

    def _next(self, stream: Iterator[Batch]) -> list[Batch]:
        return list(islice(stream, self.accumulate))

    def _precision(self) -> torch.autocast:
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def _finite(self, what: str, value: Tensor) -> None:
        if not math.isfinite(value.item()):
            self.optimizer.zero_grad()
            rates = ", ".join(f"{group['lr']:.2g}" for group in self.optimizer.param_groups)
            raise ValueError(
                f"the {what} wants to be a finite number, got {value.item()} at step {self.n_step + 1} (learning rate "
                f"{rates}): the weights are those of step {self.n_step}; try a lower rate, a warm-up, or clip=1.0"
            )

    def _validate(self, batches: Iterable[Batch]) -> float:
        with self._precision():
            loss = self.validate(self.model, batches)
        if self.early_stop:
            self.early_stop.update(loss, self.model)
        return loss

    def _note(self, losses: dict[str, float], bar: tqdm, on_step: Callable[..., object] | None) -> None:
        for name, loss in losses.items():
            self.curves.setdefault(name, {})[self.n_step] = loss
        latest = {name: f"{list(curve.values())[-1]:.3f}" for name, curve in self.curves.items()}
        bar.set_postfix(latest, refresh=False)
        bar.update()
        if on_step is not None:
            on_step(**losses)


def _check(batches: Any) -> None:
    """Refuse what is no list of microbatches: a tensor's rows or a batch's parts would be taken for them."""
    if isinstance(batches, Tensor) or not batches or not isinstance(batches, Sequence):
        raise ValueError(f"step wants a list of batches, (tokens, targets) each; got {_kind(batches)}")
    for batch in batches:
        parts = [] if isinstance(batch, (str, Tensor)) else list(batch)
        if len(parts) < 2 or not isinstance(parts[-1], Tensor):
            raise ValueError(f"a batch wants tensors, (tokens, targets), the targets last; got {_kind(batch)}")


def _kind(value: Any) -> str:
    return f"keys {', '.join(map(str, value))}" if isinstance(value, dict) else f"a {type(value).__name__}"
