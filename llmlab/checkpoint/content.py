"""What one rank has to save, looked through before anything is written: what cannot be stored is refused by all.

An extra's tensors are stored as tensors; in its JSON each leaves a note of where it is:

    {"best": {"weight": tensor}}   ->   {"best": {"weight": {"__tensor__": "best/weight"}}}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llmlab.checkpoint.exchange import everyones
from llmlab.checkpoint.held import Part, Run
from llmlab.checkpoint.pieces import all_of
from llmlab.checkpoint.storing import bytes_of

NOTE = "__tensor__"


@dataclass(frozen=True)
class Content:
    """parts: this rank's tensors by key.  numbers: single ones of the optimizer's state.  extra: as JSON has it."""

    parts: dict[str, Part]
    numbers: dict[str, Any]
    options: dict[str, Any] | None
    extra: Any

    @classmethod
    def of(cls, run: Run, extra: Mapping[str, Any]) -> Content:
        """Look through all of it. Raises ValueError, on every rank, if any has what a checkpoint cannot hold."""
        complaint, found = None, None
        try:
            found = cls._of(run, extra)
        except ValueError as error:
            complaint = str(error)
        for rank, each in enumerate(everyones(run.world, complaint)):
            if each:
                raise ValueError(each if run.world is None or run.world.size == 1 else f"rank {rank}: {each}")
        assert found is not None
        return found

    @classmethod
    def _of(cls, run: Run, extra: Mapping[str, Any]) -> Content:
        text, tensors = without_tensors(extra)
        parts = {part.key: part for part in run.parts()}
        parts |= {key: Part(key, tuple(x.shape), all_of(x.shape), x.detach()) for key, x in tensors.items()}
        for part in parts.values():
            bytes_of(part.owned[:0] if part.owned.dim() else part.owned)  # refuses what cannot be written
        return cls(parts, single_numbers(run), optimizer_options(run), text)


def without_tensors(extra: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """Part an extra into what JSON makes of it and its tensors, by "extra/PATH". ValueError for anything else."""
    tensors: dict[str, Tensor] = {}

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[f"extra/{path}"] = value
            return {NOTE: path}
        if isinstance(value, Mapping):
            if NOTE in value:
                raise ValueError(f"save keeps the name {NOTE} for itself, got it in extra")
            if wrong := [key for key in value if not isinstance(key, str)]:
                raise ValueError(f"save wants names in extra as texts (JSON has no others), got {wrong[0]!r}")
            return {key: plain(each, f"{path}/{key}" if path else key) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each, f"{path}/{i}") for i, each in enumerate(value)]
        return value

    try:
        return json.loads(json.dumps(plain(extra, ""))), tensors
    except TypeError as error:
        raise ValueError(f"save wants extra of numbers, texts, tensors, lists and dicts of them; {error}") from None


def with_tensors(extra: Any, read: Callable[[str], Tensor]) -> Any:
    """Put them together again. read: from "extra/PATH" to the tensor."""
    if isinstance(extra, dict):
        if NOTE in extra:
            return read(f"extra/{extra[NOTE]}")
        return {key: with_tensors(value, read) for key, value in extra.items()}
    return [with_tensors(value, read) for value in extra] if isinstance(extra, list) else extra


def single_numbers(run: Run) -> dict[str, Any]:
    """What an optimizer's state has of single numbers, such as Adam's step, by parameter: [value, dtype or None]."""
    found: dict[str, Any] = {}
    for name, parameter in run.names.items():
        for word, value in run.state(run.owned(parameter)).items():
            if isinstance(value, Tensor) and value.dim() == 0:
                found[f"{word}/{name}"] = [value.item(), str(value.dtype).removeprefix("torch.")]
            elif isinstance(value, (int, float, bool)) or value is None:
                found[f"{word}/{name}"] = [value, None]
            elif not isinstance(value, Tensor):
                raise ValueError(
                    f"save wants optimizer state of tensors and numbers, got {word}: a {type(value).__name__}"
                )
    return found


def optimizer_options(run: Run) -> dict[str, Any] | None:
    """An optimizer's kind, and what each of its groups is set to: learning rates, betas ..."""
    if run.optimizer is None:
        return None
    groups = [{k: _option(v) for k, v in group.items() if k != "params"} for group in run.optimizer.param_groups]
    try:
        return json.loads(json.dumps({"kind": type(run.optimizer).__name__, "groups": groups}))
    except TypeError as error:
        raise ValueError(f"save wants an optimizer's options as numbers and texts; {error}") from None


def _option(value: Any) -> Any:
    if isinstance(value, Tensor) and value.dim() == 0:
        return value.item()
    return list(value) if isinstance(value, tuple) else value
