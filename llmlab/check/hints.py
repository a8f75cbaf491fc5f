"""Hints in two stages: what is wrong and where to look first; the cure after the next wrong answer to the exercise.

Who finds the mistake alone learns more than who is told. A right answer begins again, an empty one counts for nothing.
"""

from __future__ import annotations

from collections import Counter

LATER = "look there first; after another wrong answer the check says how to mend it."
_wrong: Counter[str] = Counter()  # wrong answers to each exercise since its last right one, in this kernel


def not_yet(exercise: str, rows: dict[str, str], wrong: str, cure: str) -> str:
    """Count a wrong answer and say what is `wrong` with it; say the `cure` from the second on. `rows` stand before."""
    _wrong[exercise] += 1
    rows = {**rows, "look": wrong, "hint": cure if _wrong[exercise] > 1 else LATER}
    return "not yet.\n" + "\n".join(f"  {name:<9} {_indented(text)}" for name, text in rows.items() if text)


def begin_again(exercise: str | None = None) -> None:
    """Forget the wrong answers to an exercise, or to all."""
    if exercise is None:
        _wrong.clear()
    else:
        _wrong.pop(exercise, None)


def in_two(hint: str) -> tuple[str, str]:
    """Split `what is wrong: the cure` into both. A hint without a colon is all cure."""
    wrong, colon, cure = hint.partition(": ")
    return (wrong, cure) if colon else ("", hint)


def _indented(text: str) -> str:
    return text.replace("\n", "\n" + " " * 12)
