"""Tables for a notebook's cell that ends in a prediction or a plan: short to read, and said to be modelled."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def html_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Give an HTML table; the first column is words, the others figures."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(_row(row) for row in rows)
    return f"<table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _row(cells: Sequence[str]) -> str:
    first, *others = cells
    figures = "".join(f'<td style="text-align:right">{escape(cell)}</td>' for cell in others)
    return f'<tr><td style="text-align:left">{escape(first)}</td>{figures}</tr>'
