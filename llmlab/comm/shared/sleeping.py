"""Sleep until a word in shared memory changes, and wake who sleeps on one: Linux's futex, for which libc has no name.

A wake-up can be missed: the sleeper says that it sleeps, and the writer writes its word, at the same moment. So nobody
sleeps without a limit, and a missed one costs that limit.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Callable

_CALLS = {"x86_64": 202, "aarch64": 98}  # the system call's number
_WAIT, _WAKE = 0, 1  # linux/futex.h; shared between processes
_EVERYBODY = 0x7FFFFFFF


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def _system_call() -> Callable[..., int] | None:
    number = _CALLS.get(platform.machine()) if sys.platform == "linux" else None
    if number is None or sys.maxsize < 1 << 32:
        return None
    function = ctypes.CDLL(None).syscall
    pointer, word = ctypes.c_void_p, ctypes.c_uint32
    function.argtypes = [ctypes.c_long, pointer, ctypes.c_int, word, pointer, pointer, word]

    def call(address: int, what: int, value: int, limit: object) -> int:
        return int(function(number, address, what, value, limit, None, 0))

    return call


_futex = _system_call()


def sleep_until_changed(address: int, value: int, limit_s: float) -> None:
    """Sleep while the 64-bit word at this address holds `value`, no longer than the limit, and perhaps shorter."""
    if _futex is None:
        time.sleep(min(limit_s, 1e-3))
    else:
        limit = _Time(int(limit_s), int(limit_s % 1 * 1e9))
        _futex(address, _WAIT, value & 0xFFFFFFFF, ctypes.byref(limit))  # its low half: these machines put it first


def wake(address: int) -> None:
    """Wake all that sleep on this word."""
    if _futex is not None:
        _futex(address, _WAKE, _EVERYBODY, None)
