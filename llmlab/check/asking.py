"""What an exercise asks for, and what came instead: the same words at the door of every check."""

from __future__ import annotations

import re
from importlib import import_module
from inspect import isclass, signature
from typing import Any

from llmlab.check.differences import show


def unfit(exercise: str, answer: Any) -> str:
    """Say why the check cannot call an answer: what it wants, and what came. "" where it can."""
    wanted = arguments(exercise)
    wants = f"the check wants a function of ({', '.join(wanted)})" if wanted else "the check wants a function"
    if isclass(answer):
        return f"{wants}, got the class {answer.__name__}. Give it the function itself."
    if not callable(answer):
        return f"{wants}, got {show(answer)}. Give it the function itself."
    try:
        taken = signature(answer)
    except (TypeError, ValueError):  # some of C's functions do not say what they take
        return ""
    try:
        taken.bind(*wanted)
    except TypeError:
        return f"{wants} and calls it in this order, got one of {taken}."
    return ""


def arguments(exercise: str) -> list[str]:
    """Name what a check gives to an answer, as the first line of its docstring does: `answer(world, gradient)`."""
    check = getattr(import_module("llmlab.check"), exercise)
    found = re.match(r"`answer\((.*?)\)", check.__doc__ or "")
    return re.findall(r"\w+", found[1]) if found else []
