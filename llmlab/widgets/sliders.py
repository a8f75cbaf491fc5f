"""The one slider of these widgets: it steps through named values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as W


def choice(description: str, options: Sequence[Any], value: Any) -> W.SelectionSlider:
    """Make a slider over some values. Raises ValueError for a start that is none of them."""
    if value not in options:
        raise ValueError(f"{description} is one of {', '.join(map(str, options))}; got {value!r}")
    style, layout = {"description_width": "10em"}, W.Layout(width="34em", max_width="100%")
    return W.SelectionSlider(options=options, value=value, description=description, style=style, layout=layout)
