"""Where in the learner's own code a rank is: the line that errors and reports name."""

from __future__ import annotations

import functools
import linecache
import os
import sys
import sysconfig
from types import FrameType
from typing import NamedTuple

COMM = os.path.dirname(os.path.abspath(__file__)) + os.sep  # what runs ranks, and is never what a learner looks for
_PACKAGE = os.path.dirname(os.path.dirname(COMM)) + os.sep
_PYTHON = (sysconfig.get_paths()["stdlib"] + os.sep, "<frozen")


class Place(NamedTuple):
    """A line of code."""

    filename: str
    line: int
    function: str


def worker_line(frame: FrameType | None = None) -> Place:
    """Find the line of the worker that led here: the innermost frame outside this package, torch and Python itself.

    Where the worker is in this package, the innermost frame outside `comm`.
    """
    inner = outer = frame or sys._getframe(1)
    package: FrameType | None = None
    while True:
        kind = _kind(outer.f_code.co_filename)
        if kind == "package" and package is None:
            package = outer
        if kind == "worker" or outer.f_back is None:
            break
        outer = outer.f_back
    found = outer if kind == "worker" else package or inner
    return Place(found.f_code.co_filename, found.f_lineno, found.f_code.co_name)


def is_library(frame: FrameType) -> bool:
    """Whether a frame is Python's own or an installed package's, torch's for one."""
    return _kind(frame.f_code.co_filename) == "library"


@functools.cache
def _kind(filename: str) -> str:
    if filename.startswith(COMM):
        return "library"
    if filename.startswith(_PACKAGE):
        return "package"
    return "library" if "site-packages" in filename or filename.startswith(_PYTHON) else "worker"


def describe(place: Place) -> str:
    """Put a line in words: `cell:4 in worker: world.recv(x, 1)`."""
    text = linecache.getline(place.filename, place.line).strip()
    return f"{short_name(place.filename)}:{place.line} in {place.function}" + (f": {text}" if text else "")


def short_name(filename: str) -> str:
    """A notebook's cell is called cell; a file by its name, without the folders of the machine."""
    if "ipykernel_" in filename or filename.startswith("<ipython-input"):
        return "cell"
    return os.path.basename(filename)
