"""What can go wrong on a rank, said the same way by every engine."""

from __future__ import annotations

from typing import Any


class RankError(RuntimeError):
    """A rank failed. Its text begins `rank 3: KeyError: planted`; `__cause__` is the rank's own exception.

    What a run raises is also an instance of the original type, so `except KeyError` works on every engine.
    """

    def __init__(self, message: str, rank: int | None = None):
        Exception.__init__(self, message)
        self.message, self.rank = message, rank

    def __str__(self) -> str:  # KeyError would print its repr
        return self.message


class RankDied(RankError):
    """A rank's process ended: killed by a signal, or by `os._exit`."""


class RankTimeout(RankError):
    """The run passed its time limit; the text says what every rank was doing."""


class DeadlockError(RankError):
    """No rank can go on; the text names every rank, the operation it waits in and its line."""


class MismatchError(RankError):
    """Ranks of one group are in different collectives, or in one whose shapes, dtypes or roots disagree."""


class RaceError(RankError):
    """A buffer was changed, or read, between an asynchronous call and its `wait()`."""


class OutOfDeviceMemory(MemoryError):
    """A rank's live tensors passed what its device holds; `breakdown` gives the bytes by category."""

    def __init__(self, message: str, breakdown: dict[str, int] | None = None, capacity: int = 0):
        super().__init__(message)
        self.breakdown, self.capacity = breakdown or {}, capacity


class Stopped(RankError):
    """A rank came to its `break_at`. `locals`: its variables there.  operations: what it has communicated so far."""

    def __init__(self, message: str, rank: int, variables: dict[str, Any], operations: list[str]):
        super().__init__(message, rank)
        self.locals, self.operations = variables, operations


def rank_error(rank: int, original: BaseException, note: str = "") -> RankError:
    """Wrap a rank's exception so that it is a RankError and, where Python allows it, of the original type too."""
    if isinstance(original, RankError):
        return original
    kind = type(original)
    text = f"rank {rank}: {kind.__name__}: {_plain(original)}"
    if note:
        text += "\n" + note
    try:
        both = type(
            kind.__name__, (RankError, kind), {"__module__": kind.__module__, "__new__": _new, "__reduce__": _reduce}
        )
        error = both(text, rank)
    except TypeError:  # a layout conflict, or a type that cannot be subclassed
        error = RankError(text, rank)
    error.__dict__.update({k: v for k, v in vars(original).items() if k not in ("message", "rank")})
    error.__cause__ = original
    return error


def _new(cls: type, *args: Any) -> Any:
    """Make the instance without the original's own constructor, whose arguments we do not know."""
    return cls.__mro__[2].__new__(cls, *args) if cls.__mro__[2].__new__ is not object.__new__ else object.__new__(cls)


def _reduce(self: RankError) -> tuple[Any, ...]:
    return RankError, (self.message, self.rank)


def _plain(error: BaseException) -> str:
    """Give an exception's words: KeyError('x') says x, not 'x'."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
