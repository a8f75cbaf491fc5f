"""Where the project's facts lie: `data/`, beside the package in a checkout and inside it in a wheel."""

from __future__ import annotations

import csv
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def facts(*parts: str) -> Path:
    """Give the path of a file of facts, `facts("hardware", "devices.csv")`.

    Raises FileNotFoundError, with both places looked in, where an installation left `data/` out.
    """
    places = [PACKAGE / "data", PACKAGE.parent / "data"]  # a wheel's first: beside it, "data" may be anybody's
    for place in places:
        path = place.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(f"{'/'.join(parts)} is in none of {', '.join(str(p) for p in places)}")


def read_facts(*parts: str) -> list[dict[str, str]]:
    """Read a table of facts: one dict per row, every value as text."""
    with facts(*parts).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
