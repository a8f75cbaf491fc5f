"""What an answer and the right one have in common: whether they are the same, and in words where they differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

RELATIVE = 1e-6  # answers are in double precision; learners may round a constant
LONGEST = 200  # characters of a value that are shown


def same(got: Any, expected: Any) -> bool:
    """Compare shapes, and numbers up to rounding. Tensors, lists and numbers compare with each other."""
    if isinstance(expected, (list, tuple)) and any(isinstance(e, (list, tuple, Tensor)) for e in expected):
        is_list = isinstance(got, (list, tuple)) and len(got) == len(expected)
        return is_list and all(same(g, e) for g, e in zip(got, expected, strict=True))
    a, b = numbers(got), numbers(expected)
    if a is None or b is None or a.shape != b.shape:
        return False
    return torch.allclose(a, b, rtol=RELATIVE, atol=0, equal_nan=True)


def numbers(value: Any) -> Tensor | None:
    """Give a value's numbers in double precision, or None where it is not real numbers."""
    try:
        tensor = torch.as_tensor(value).detach()
    except Exception:  # a learner's answer can be any object, and fail in any way
        return None
    return None if tensor.is_complex() else tensor.to("cpu", torch.float64)


def difference(got: Any, expected: Any) -> str:
    """Say in one line how an answer differs from the right one, and where first."""
    if got is None:
        return "nothing came back; does every way through the function end in a return?"
    if isinstance(expected, (list, tuple)) and any(isinstance(e, (list, tuple, Tensor)) for e in expected):
        return _of_lists(got, expected)
    a, b = numbers(got), numbers(expected)
    if b is None:
        return "another value"
    if a is None:
        return f"a {type(got).__name__}, where {'numbers are' if b.ndim else 'a number is'} wanted"
    if a.shape != b.shape:
        return f"{_shape(a)}, where {_shape(b)} is wanted"
    return _of_numbers(a, b)


def _of_lists(got: Any, expected: Any) -> str:
    """Name the first of several results that differs."""
    if not isinstance(got, (list, tuple)) or len(got) != len(expected):
        count = f" of {len(got)}" if isinstance(got, (list, tuple)) else ""
        return f"a {type(got).__name__}{count}, where {len(expected)} results are wanted, in a list or tuple"
    i = next(i for i, (g, e) in enumerate(zip(got, expected, strict=True)) if not same(g, e))
    return f"in result [{i}]: {difference(got[i], expected[i])}"


def _of_numbers(got: Tensor, wanted: Tensor) -> str:
    """Say what all wrong numbers have in common, or how many there are and which is the first."""
    if not torch.isfinite(got[torch.isfinite(wanted)]).all():
        name = "nan" if got.isnan().any() else "inf"
        return f"{name} among the numbers; which operation makes the first of them?"
    wrong = ~torch.isclose(got, wanted, rtol=RELATIVE, atol=0, equal_nan=True)
    if got.ndim and same(got.flatten().sort().values, wanted.flatten().sort().values):
        return f"the right numbers in another order, {_first(wrong)}"
    common = _common_factor(got, wanted)
    if common is not None:
        each = "every number is" if got.ndim else "the answer is"
        if common == 0:
            return f"{each} 0"
        return f"{each} right but for its sign" if common == -1 else f"{each} {common:.4g} times what is wanted"
    if not got.ndim:
        return f"the answer is too {'large' if got > wanted else 'small'}"
    return f"{int(wrong.sum())} of {wrong.numel()} numbers are wrong, {_first(wrong)}"


def _common_factor(got: Tensor, wanted: Tensor) -> float | None:
    ratio = (got / wanted).flatten()
    if not ratio.numel() or not torch.isfinite(ratio).all() or not same(ratio, ratio[:1].expand_as(ratio)):
        return None
    return round(ratio[0].item(), 12)  # what is left of rounding must not hide a sign


def _first(wrong: Tensor) -> str:
    return f"the first at {wrong.nonzero()[0].tolist()}"


def _shape(value: Tensor) -> str:
    return f"shape {list(value.shape)}" if value.ndim else "a single number"


def show(value: Any) -> str:
    """Say a value in a few words: numbers to six digits, and no more than fits a block."""
    text = _words(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return _words(value.tolist())
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_words(v) for v in value) + "]"
    return repr(value)
