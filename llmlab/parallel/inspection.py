"""What a mode did to a model: shapes, hooks and swapped functions, which `print(model)` does not show."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from textwrap import fill
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from llmlab.arguments import instance

WIDEST = 132  # letters of a line that a projector of 1280 pixels shows of a cell's output
ENGINES = "llmlab.comm."  # the simulator counts gradients with hooks of its own: they are not the mode's


def describe(model_or_step: Any, before: nn.Module | None = None) -> str:
    """Make a table of a model, or of a step's model and optimizer: each parameter's shape here, what was hooked in.

    Layers that are alike share a line: `blocks.*.attention.query.weight  x 12`. With `before`, the model as it was,
    only what differs is shown, and what it was.
    """
    rows = _rows(model_or_step)
    if before is not None:
        instance("describe", "before", before, nn.Module, "the model as it was: copy.deepcopy(model)")
        rows = list(_changes(rows, dict(_rows(before))))
    if not rows:
        return "nothing was changed"
    lines = _alike(rows)
    width = max(len(path) for path, _ in lines)
    return "\n".join(_line(path, what, width) for path, what in lines)


def _line(path: str, what: str, width: int) -> str:
    """A row of the table; what is longer than a screen is wide goes on below itself."""
    first = f"{path:<{width}}  "
    return fill(what, max(WIDEST, width + 42), initial_indent=first, subsequent_indent=" " * len(first))


def _rows(model_or_step: Any) -> list[tuple[str, str]]:
    """(where, what) of everything there is to say."""
    model = model_or_step if isinstance(model_or_step, nn.Module) else getattr(model_or_step, "model", None)
    if not isinstance(model, nn.Module):
        raise ValueError(f"describe wants a model, or a step that has one, got {type(model_or_step).__name__}")
    rows = list(_model_rows(model))
    optimizer = getattr(model_or_step, "optimizer", None)
    if optimizer is not None and "step" in vars(optimizer):
        rows.append(("optimizer.step", f"= {_name(optimizer.step)}"))
    return rows


def _model_rows(model: nn.Module) -> Iterator[tuple[str, str]]:
    seen: dict[Tensor, str] = {}
    for path, module in model.named_modules():
        name = path or type(model).__name__
        parts = [f"{kind} {', '.join(hooks)}" for kind, hooks in _module_hooks(module)]
        parts += [f"{held} = {_name(value)}" for held, value in vars(module).items() if _is_function(value)]
        parts += [str(value) for value in vars(module).values() if _says_what_it_is(value)]
        if parts:
            yield name, "; ".join(parts)
        for short, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{short}".lstrip(".")
            if parameter in seen:
                yield full, f"is {seen[parameter]}"
                continue
            seen[parameter] = full
            yield full, _parameter(parameter)


def _parameter(parameter: nn.Parameter) -> str:
    hooks = _names(_hooks(parameter, "_post_accumulate_grad_hooks") + _hooks(parameter, "_backward_hooks"))
    text = f"{list(parameter.shape)} {str(parameter.dtype).removeprefix('torch.')}"
    text += "" if parameter.requires_grad else ", frozen"
    return text + (f"; gradient: {', '.join(hooks)}" if hooks else "")


def _module_hooks(module: nn.Module) -> Iterator[tuple[str, list[str]]]:
    kinds = {"before:": "_forward_pre_hooks", "after:": "_forward_hooks",
             "before backward:": "_backward_pre_hooks", "after backward:": "_backward_hooks"}  # fmt: skip
    for kind, attribute in kinds.items():
        if hooks := _names(_hooks(module, attribute)):
            yield kind, hooks


def _hooks(owner: Any, attribute: str) -> list[Callable[..., Any]]:
    return list((getattr(owner, attribute, None) or {}).values())


def _names(hooks: Iterable[Callable[..., Any]]) -> list[str]:
    return [_name(hook) for hook in hooks if not (getattr(hook, "__module__", "") or "").startswith(ENGINES)]


def _name(function: Any) -> str:
    """A function's own name; of an inner function the last part; of a partial the function it calls."""
    if isinstance(function, partial):
        return _name(function.func)
    return getattr(function, "__qualname__", type(function).__name__).rsplit("<locals>.", 1)[-1]


def _is_function(value: Any) -> bool:
    return isinstance(value, (FunctionType, MethodType, partial))


def _says_what_it_is(value: Any) -> bool:
    """State a mode left on the model (the Reducer of data parallelism, say)."""
    return type(value).__module__.startswith("llmlab.parallel.")


def _changes(rows: list[tuple[str, str]], before: dict[str, str]) -> Iterator[tuple[str, str]]:
    for path, what in rows:
        if what != before.get(path):
            yield path, what + (f"  (was {before[path]})" if path in before else "  (new)")
    left = dict(rows)
    for path in before:
        if path not in left:
            yield path, f"gone  (was {before[path]})"


def _alike(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Fold lines that differ only in a layer's number."""
    groups: dict[tuple[str, str], list[str]] = {}
    for path, what in rows:
        groups.setdefault((re.sub(r"\b\d+\b", "*", path), re.sub(r"\.\d+\.", ".*.", what)), []).append(path)
    return [
        (paths[0], what) if len(paths) == 1 else (pattern, f"{what}  x {len(paths)}")
        for (pattern, what), paths in groups.items()
    ]
