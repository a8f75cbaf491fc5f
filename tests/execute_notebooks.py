"""Execute notebooks and store what they show: most readers meet them where nothing runs.

    python tests/execute_notebooks.py                        # all of notebooks/, rewritten in place
    python tests/execute_notebooks.py notebooks/00_start_here.ipynb
    python tests/execute_notebooks.py --keep-all FOLDER      # whole copies to look at; the notebooks stay
    python tests/execute_notebooks.py --pictures             # where drawing has changed: what was measured stays
    python tests/execute_notebooks.py --slides               # run nothing: say again which cell begins a slide

Every cell keeps its outputs and its count, and a line below the title says when and on what they were recorded. nbval
compares those tagged `nbval-check-output`, which are the same on every machine. What only a live kernel can show (a
progress bar, a curve while it grows) is left out; a widget leaves its first picture. An error (unless the cell is
tagged `raises-exception` too), a line on stderr or a path of this machine in an output is refused, and the notebook is
left as it was.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import date
from importlib import metadata
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CHECKED = "nbval-check-output"
RAISES = "raises-exception"
RECORDED = re.compile(r"\*Outputs recorded on \d{4}-\d\d-\d\d, on [^*\n]+\.\*")
MODEL_ID = "application/vnd.jupyter.widget-view+json"  # random, and dead without the kernel that drew it
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/>])/(?:home|root|tmp|var|usr|opt|mnt|work|private|Users|content)/\w|\b[A-Z]:\\\\?\w"
)


def all_notebooks() -> list[Path]:
    return sorted(path for path in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


def tagged(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def output_text(output: NotebookNode) -> str:
    """All that a reader could read in one output: streams, the text of every text format, the error's lines."""
    data = [str(text) for mime, text in output.get("data", {}).items() if not mime.startswith("image/png")]
    return "\n".join([output.get("text", ""), output.get("evalue", ""), *output.get("traceback", []), *data])


def refused(cell: NotebookNode) -> Iterator[str]:
    """Why the outputs of a code cell cannot be committed."""
    for output in cell.outputs:
        if output.output_type == "error" and not (tagged(cell, RAISES) and tagged(cell, CHECKED)):
            yield f"error output: {output.ename}: {output.evalue}"
        if output.get("name") == "stderr":
            yield f"stderr output: {output.text.strip()[:200]}"
        if path := ABSOLUTE_PATH.search(output_text(output)):
            yield f"a path of one machine: {path.string[path.start() : path.start() + 60]!r}"


def strip(notebook: NotebookNode) -> None:
    """Take out of an executed notebook what is dead without its kernel, and what names the machine's software."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {
        "name": "python"
    }  # the kernel adds its version, which would change with each author
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [output for output in cell.outputs if not only_live(output)]
        for output in cell.outputs:
            output.get("data", {}).pop(MODEL_ID, None)
            if output.output_type == "error":  # frames name files of this machine; nbval compares name and message
                output.traceback = [f"{output.ename}: {output.evalue}"]


def redraw(old: NotebookNode, new: NotebookNode) -> None:
    """Give an executed notebook's pictures to the recorded one, each where its sentence has not changed.

    A cell that was never recorded, as after an edit, takes all of its outputs.
    """
    for before, after in zip(old.cells, new.cells, strict=True):
        if before.cell_type != "code":
            continue
        pictures = {text: output for output in after.outputs if (text := sentence(output))}
        if before.execution_count is None:
            before.outputs, before.execution_count = after.outputs, after.execution_count
        else:
            before.outputs = [pictures.get(sentence(output), output) for output in before.outputs]


def sentence(output: NotebookNode) -> str:
    """What a picture says it shows; of another output nothing."""
    data = output.get("data", {})
    return data.get("text/plain", "") if "image/png" in data else ""


def only_live(output: NotebookNode) -> bool:
    """Whether an output is a widget with nothing but a few words beside it: a progress bar stuck at its first step."""
    data = output.get("data", {})
    return MODEL_ID in data and set(data) <= {MODEL_ID, "text/plain"}


def slides(notebook: NotebookNode) -> None:
    """Say of every cell where it stands when a lecturer shows the notebook (`jupyter nbconvert --to slides`)."""
    for cell in notebook.cells:
        cell.metadata["slideshow"] = {"slide_type": slide_type(cell)}


def slide_type(cell: NotebookNode) -> str:
    """A heading begins a slide, a picture or a long table one below it; what a text says of a run comes when asked."""
    if cell.cell_type == "markdown":
        heading = re.match("#+(?= )", cell.source)
        return "fragment" if not heading else "subslide" if len(heading[0]) > 2 else "slide"
    long = any(output.get("text", "").count("\n") > 9 for output in cell.outputs)
    drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
    return "subslide" if drawn or long else "-"


def say_when(notebook: NotebookNode) -> None:
    """Put the line that says when and on what the outputs were recorded at the end of the opening cell."""
    title = notebook.cells[0]
    versions = (
        f"Python {sys.version_info.major}.{sys.version_info.minor}, torch {metadata.version('torch').split('+')[0]}"
    )
    gpu = "and a GPU" if shutil.which("nvidia-smi") else "without a GPU"
    line = f"*Outputs recorded on {date.today()}, on {os.cpu_count()} CPU cores {gpu} ({versions}).*"
    title.source = f"{RECORDED.sub('', title.source).rstrip()}\n\n{line}"


def execute(path: Path, timeout_s: int) -> NotebookNode:
    """Run every cell in a fresh kernel, in the notebook's own folder; a kernel that hangs gets a second chance.

    Raises: CellExecutionError of an untagged cell that fails, CellTimeoutError or DeadKernelError of the second try.
    """
    for last_try in (False, True):
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook,
            timeout=timeout_s,
            startup_timeout=timeout_s,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
            store_widget_state=False,
            coalesce_streams=True,
            record_timing=False,
        )
        try:
            return client.execute()
        except (CellTimeoutError, DeadKernelError):
            if last_try:
                raise
            print(f"{path.name}: no answer within {timeout_s} s, trying once more", file=sys.stderr)
    raise AssertionError("the second try returns or raises")


def problems(notebook: NotebookNode) -> list[str]:
    """Every output that is refused, with the cell it stands in."""
    return [
        f"cell {number} ({cell.id}): {problem}"
        for number, cell in enumerate(notebook.cells)
        if cell.cell_type == "code"
        for problem in refused(cell)
    ]


def renew(path: Path, keep_all: Path | None, timeout_s: int, pictures: bool = False) -> list[str]:
    """Execute a notebook; write it stripped over itself or whole into `keep_all`; return why it was refused."""
    try:
        notebook = execute(path, timeout_s)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        return [str(error)]
    if keep_all:
        keep_all.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, keep_all / path.name)
        return problems(notebook)
    strip(notebook)
    if pictures:
        recorded = nbformat.read(path, as_version=4)
        redraw(recorded, notebook)
        notebook = recorded
    else:
        say_when(notebook)
    slides(notebook)
    found = problems(notebook)
    if not found:
        nbformat.write(notebook, path)
    return found


def main() -> int:
    """Execute what the command line names; the exit status is the number of notebooks refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--keep-all", type=Path, metavar="FOLDER", help="write whole copies there, change nothing here")
    parser.add_argument("--pictures", action="store_true", help="take over pictures with unchanged sentences only")
    parser.add_argument("--slides", action="store_true", help="only say which cell begins a slide; run nothing")
    parser.add_argument("--timeout", type=int, default=120, metavar="SECONDS", help="for one cell (default: 120)")
    arguments = parser.parse_args()

    if arguments.slides:
        for path in arguments.notebooks or all_notebooks():
            notebook = nbformat.read(path, as_version=4)
            slides(notebook)
            nbformat.write(notebook, path)
        return 0
    failures = 0
    for path in arguments.notebooks or all_notebooks():
        start = time.perf_counter()
        found = renew(path, arguments.keep_all, arguments.timeout, arguments.pictures)
        seconds = time.perf_counter() - start
        print("\n".join([*found, f"{seconds:6.1f} s  {path.name}{'  REFUSED' if found else ''}"]), flush=True)
        failures += bool(found)
    return failures


if __name__ == "__main__":
    sys.exit(main())
