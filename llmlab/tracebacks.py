"""Tracebacks in a notebook without the frames between your code and the message: the library's own, and what it called.

`%xmode Verbose` shows every frame again; `%debug` and scripts always have all of them.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from types import TracebackType
from typing import Any

LIBRARY = str(Path(__file__).parent) + os.sep
INSTALLED = tuple({path for name, path in sysconfig.get_paths().items() if name.endswith("lib")})


def hide_library_frames(shell: Any = None) -> None:
    """Let a notebook's shell leave out frames that are not the user's. Does nothing outside IPython.

    shell: None is the running one. A shell with a handler of its own keeps it.
    """
    if shell is None:
        ipython = sys.modules.get("IPython")
        shell = ipython.get_ipython() if ipython else None
    if shell is not None and not shell.custom_exceptions:
        shell.set_custom_exc((Exception,), _show)


def users_frames(tb: TracebackType | None) -> TracebackType | None:
    """Copy a traceback without the library's frames and those of installed code it called; all, if none is left."""
    kept, inside = [], False
    at = tb
    while at is not None:
        file = at.tb_frame.f_code.co_filename
        inside = file.startswith(LIBRARY) or (inside and file.startswith(INSTALLED))
        if not inside:
            kept.append(at)
        at = at.tb_next
    copied = None
    for each in reversed(kept):
        copied = TracebackType(copied, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return copied or tb


def _show(shell: Any, kind: type, error: BaseException, tb: TracebackType, tb_offset: int | None = None) -> None:
    if shell.InteractiveTB.mode == "Verbose":
        shell.showtraceback((kind, error, tb), running_compiled_code=True)
        return
    whole: list[tuple[BaseException, TracebackType | None]] = []
    at: BaseException | None = error.__cause__ or error.__context__
    while at is not None and all(at is not seen for seen, _ in whole):
        whole.append((at, at.__traceback__))
        at = at.__cause__ or at.__context__
    try:
        for each, its in whole:
            each.__traceback__ = users_frames(its)
        shell.showtraceback((kind, error, users_frames(tb)), running_compiled_code=True)
    finally:
        for each, its in whole:
            each.__traceback__ = its
        sys.last_traceback = tb  # %debug goes through all frames
