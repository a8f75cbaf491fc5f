"""Where in the learner's own code a rank is: the line that errors and reports name."""

from __future__ import annotations

import linecache
import os
from types import FrameType
from typing import NamedTuple

import torch

_INSIDE = tuple(os.path.dirname(os.path.abspath(file)) for file in (os.path.dirname(__file__), torch.__file__))


class Place(NamedTuple):
    """A line of code."""

    filename: str
    line: int
    function: str


def caller(frame: FrameType) -> Place:
    """The innermost line outside llmlab and torch."""
    outer: FrameType | None = frame
    while outer is not None and outer.f_code.co_filename.startswith(_INSIDE):
        outer = outer.f_back
    found = outer or frame
    return Place(found.f_code.co_filename, found.f_lineno, found.f_code.co_name)


def describe(place: Place) -> str:
    """Put a line in words: `cell:4 in worker: world.recv(x, 1)`."""
    text = linecache.getline(place.filename, place.line).strip()
    return f"{short_name(place.filename)}:{place.line} in {place.function}" + (f": {text}" if text else "")


def short_name(filename: str) -> str:
    """A notebook's cell is called cell; a file by its name, without the folders of the machine."""
    if "ipykernel_" in filename or filename.startswith("<ipython-input"):
        return "cell"
    return os.path.basename(filename)
