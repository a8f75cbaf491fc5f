"""Facts are found beside the package in a checkout and inside it in a wheel."""

from __future__ import annotations

import pytest

from llmlab.hardware import facts as finding
from llmlab.hardware.facts import facts, read_facts


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package, `site/llmlab`, with nothing in it."""
    monkeypatch.setattr(finding, "PACKAGE", tmp_path / "site" / "llmlab")
    return tmp_path / "site" / "llmlab"


def put(folder, text: str) -> None:
    folder.mkdir(parents=True)
    (folder / "table.csv").write_text(text)


def test_a_checkout_has_its_facts_beside_the_package(package):
    put(package.parent / "data", "name\nhere\n")
    assert read_facts("table.csv") == [{"name": "here"}]


def test_a_wheel_has_them_inside_and_minds_no_stranger_beside_it(package):
    put(package / "data", "name\nours\n")
    put(package.parent / "data", "name\nanother package's\n")
    assert read_facts("table.csv") == [{"name": "ours"}]


def test_missing_facts_are_said_with_the_places_looked_in(package):
    with pytest.raises(FileNotFoundError, match="hardware/none.csv is in none of .*llmlab.data, .*site.data"):
        facts("hardware", "none.csv")
