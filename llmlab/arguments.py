"""Checks of arguments, used everywhere: one `ValueError` with the rule, what was wanted and what came.

Each takes the name of what is called and of its argument, and gives the value back as the type it should have:
`ranks = whole("Simulator", "ranks", ranks, least=1)`. A bool is never a number, and a string never a list.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

T = TypeVar("T")


def whole(call: str, name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A count: an int (numpy's and torch's too), within the bounds."""
    try:
        number = None if isinstance(value, (bool, str)) or _is_tensor(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not _within(number, least, most):
        raise _wrong(call, name, f"a whole number{_bounds(least, most)}", value)
    return number


def real(
    call: str,
    name: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    infinite: bool = False,
) -> float:
    """A finite number within the bounds; `least` and `most` may be reached, `above` and `below` not."""
    try:
        number = math.nan if isinstance(value, (bool, str)) or _is_tensor(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    fits = _within(number, least, most) and (above is None or number > above) and (below is None or number < below)
    if math.isnan(number) or not fits or (math.isinf(number) and not infinite):
        raise _wrong(call, name, f"a number{_bounds(least, most, above, below)}", value)
    return number


def wholes(call: str, least: int | None = None, /, **values: Any) -> None:
    """Several counts of one bound, each by its name."""
    for name, value in values.items():
        whole(call, name, value, least)


def reals(call: str, least: float | None = None, /, **values: Any) -> None:
    """Several finite numbers of one bound, each by its name."""
    for name, value in values.items():
        real(call, name, value, least)


def flag(call: str, name: str, value: Any) -> bool:
    """True or False, and nothing that only counts as one of them."""
    if not isinstance(value, bool):
        raise _wrong(call, name, "True or False", value)
    return value


def choice(call: str, name: str, value: Any, choices: Iterable[T]) -> T:
    """One of a few values; a near miss is named."""
    known = list(choices)
    for each in known:
        if type(value) is type(each) and value == each:
            break
    else:
        names = {each.lower(): each for each in known if isinstance(each, str)}
        near = get_close_matches(str(value).lower(), names, n=1)
        hint = f"; did you mean {names[near[0]]!r}?" if near else ""
        raise _wrong(call, name, f"one of {', '.join(map(repr, known))}", value, hint)
    return value


def instance(call: str, name: str, value: Any, kind: type[T] | tuple[type[T], ...], hint: str = "") -> T:
    """An object of a class; `hint` says what to write instead."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds):
        wanted = " or ".join(_a(each.__name__) for each in kinds)
        raise _wrong(call, name, wanted, value, f"; {hint}" if hint else "")
    found: T = value
    return found


def function(call: str, name: str, value: Any, of: str = "") -> Callable[..., Any]:
    """Something that can be called; `of` shows how: "params"."""
    if not callable(value):
        raise _wrong(call, name, f"a function{f' of ({of})' if of else ''}", value)
    return value


def listing(call: str, name: str, value: Any, of: str = "values") -> list[Any]:
    """Several things, and not one string that happens to have letters, nor a dict whose keys would pass for them."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise _wrong(call, name, f"a list of {of}", value, f"; try [{_short(value)}]" if isinstance(value, str) else "")
    return list(value)


def instances(call: str, name: str, value: Any, kind: type[T], hint: str = "") -> list[T]:
    """Several objects of a class."""
    return [instance(call, name, each, kind, hint) for each in listing(call, name, value, f"{kind.__name__}s")]


def choices(call: str, name: str, value: Any, known: Iterable[T]) -> list[T]:
    """At least one of a few values."""
    known = list(known)
    found = [choice(call, name, each, known) for each in listing(call, name, value, "choices")]
    if not found:
        raise _wrong(call, name, f"one or more of {', '.join(map(repr, known))}", value)
    return found


def numbers(call: str, name: str, value: Any) -> list[float]:
    """Several numbers, from any list or array; a curve may hold what is not finite."""
    found = listing(call, name, value, "numbers")
    try:
        if any(isinstance(each, str) for each in found):
            raise TypeError
        return [float(each) for each in found]
    except (TypeError, ValueError):
        raise _wrong(call, name, "a list of numbers", value) from None


def table(call: str, name: str, value: Any, of: str) -> dict[Any, Any]:
    """A dict with at least one entry; `of` shows it: "{name: losses}"."""
    if not isinstance(value, Mapping) or not value:
        raise _wrong(call, name, of, value)
    return dict(value)


def string(call: str, name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(call, name, "a string", value)
    return value


# --- the words --------------------------------------------------------------------------------------------------------


def _wrong(call: str, name: str, wanted: str, value: Any, hint: str = "") -> ValueError:
    return ValueError(f"{call} wants {name} as {wanted}; got {_short(value)}{hint}")


def _short(value: Any) -> str:
    """A value in a few words: a tensor's or a model's whole text helps nobody."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, Sequence):
        return f"{_a(type(value).__name__)} of shape {tuple(shape)}"
    if not isinstance(value, (bool, int, float, complex, str, bytes, list, tuple, dict, set, type(None))):
        return _a(type(value).__name__)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:56]}...{text[-1]}"


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _is_tensor(value: Any) -> bool:
    """A tensor is no argument's number: on another device, or without numbers, it could not be read."""
    return type(value).__module__.partition(".")[0] == "torch"


def _within(number: float, least: float | None, most: float | None) -> bool:
    return (least is None or number >= least) and (most is None or number <= most)


def _bounds(least: float | None, most: float | None, above: float | None = None, below: float | None = None) -> str:
    if least is not None and most is not None:
        return f" from {least:,} to {most:,}"
    parts = [(" of at least ", least), (" above ", above), (" of at most ", most), (" below ", below)]
    return " and".join(f"{words}{bound:,}" for words, bound in parts if bound is not None)
