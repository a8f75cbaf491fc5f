"""Notebooks as they are stored, on a projector of 1280 x 720: nothing that a lesson points at is cut off.

`test_start_here.py` asks the same of the first one, running, with its widgets alive.
"""

from __future__ import annotations

import io
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from llmlab import plot
from tests.browser.lab_page import PROJECTOR, LabPage, chromium, open_lab
from tests.execute_notebooks import NOTEBOOKS, all_notebooks

NAMES = ("12_collectives", "20_data_parallel", "25_pipeline", "29_combining")
needs_chromium = pytest.mark.skipif(
    chromium() is None, reason="no Chromium on this machine (Debian, Ubuntu: apt-get install chromium)"
)


LABEL = '<svg viewBox="0 0 960 40" width="100%"><text x="900" y="20">a label too long for its place</text></svg>'


def broken() -> nbformat.NotebookNode:
    """A notebook in which everything is cut that can be."""
    wide = f"<table><tr>{'<td>a-column-of-a-table</td>' * 40}</tr></table>"
    tall, alt = plot.losses({"loss": [2.0, 1.0]}, height=8), {"alt": "a tall picture", "width": 900}
    outputs = [
        new_output("display_data", data={"image/png": plot.picture.png(tall)}, metadata={"image/png": alt}),
        new_output("display_data", data={"text/html": wide}),
        new_output("stream", text="a head\n" + "a column of a table   " * 20),
    ]
    return new_notebook(cells=[new_code_cell("", outputs=[each], execution_count=1) for each in outputs])


@pytest.fixture(scope="module")
def cut_off() -> Iterator[Callable[..., list[str]]]:
    """Look at a notebook by name and say what of it is cut off: one JupyterLab for all."""
    with open_lab() as (folder, address, token, browser):
        nbformat.write(broken(), folder / "broken.ipynb")
        for name in NAMES:
            notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
            notebook.metadata.pop("kernelspec", None)  # nothing runs: no kernel has to start
            nbformat.write(notebook, folder / f"{name}.ipynb")

        def look(name: str, added: str = "") -> list[str]:
            lab = LabPage(browser.new_page(viewport=PROJECTOR))
            lab.read(address, token, folder / f"{name}.ipynb")
            lab.page.evaluate("html => document.querySelector('.jp-OutputArea-output').innerHTML += html", added)
            found = lab.cut_off()
            lab.page.close()
            return found

        yield look


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_cut_off(cut_off: Callable[..., list[str]], name: str) -> None:
    assert cut_off(name) == []


@pytest.mark.browser
@needs_chromium
def test_what_is_cut_off_is_found(cut_off: Callable[..., list[str]]) -> None:
    said = "\n".join(cut_off("broken", LABEL))  # of a notebook that is not trusted Lab shows no SVG
    for words in ("IMG is 800 px high", "an output ", "a label too long for its place' are cut", "broken in two"):
        assert words in said


def pictures(path: Path) -> Iterator[tuple[str, int, np.ndarray]]:
    """Each stored picture: its cell, its height on a page, its pixels."""
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                pixels = np.asarray(Image.open(io.BytesIO(b64decode(output.data["image/png"]))).convert("RGB"))
                width = output.metadata["image/png"]["width"]
                yield cell.id, round(len(pixels) * width / pixels.shape[1]), pixels


@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_no_stored_picture_is_taller_than_a_screen_or_drawn_over_its_edge(path: Path) -> None:
    for cell, height, pixels in pictures(path):
        assert height <= 100 * plot.picture.SCREEN, cell
        edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        assert all((edge == edge[0]).all() for edge in edges), f"{cell}: something reaches over the picture's edge"
