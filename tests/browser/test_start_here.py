"""The first notebook as a learner meets it: in JupyterLab, in a browser, with a mouse and a keyboard.

LLMLAB_SCREENSHOTS=FOLDER keeps pictures of it, for a person to look at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.lab_page import LabPage, chromium, open_notebook

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "00_start_here.ipynb"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        chromium() is None, reason="no Chromium on this machine (Debian, Ubuntu: apt-get install chromium)"
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[LabPage]:
    """The notebook, open in JupyterLab, every cell run once."""
    with open_notebook(NOTEBOOK) as lab:
        lab.run_all()
        yield lab
        if folder := os.environ.get("LLMLAB_SCREENSHOTS"):
            lab.screenshots(Path(folder))


def test_all_cells_run_without_an_error_or_a_warning(lab: LabPage) -> None:
    assert lab.problems() == []


def test_every_picture_follows_its_slider(lab: LabPage) -> None:
    cells = lab.slider_cells()
    assert cells, "no cell with a slider and a picture"
    for cell in cells:
        lab.press_slider(cell)
        lab.drag_slider(cell)
    assert lab.problems() == []


def test_the_browser_complains_of_nothing(lab: LabPage) -> None:
    assert lab.console == []


def test_nothing_is_cut_off_on_a_projector(lab: LabPage) -> None:
    assert lab.cut_off() == []
