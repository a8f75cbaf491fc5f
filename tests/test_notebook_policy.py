"""What every notebook of the course keeps to; read from the files, nothing is executed here."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.execute_notebooks import ABSOLUTE_PATH, CHECKED, RECORDED, all_notebooks, redraw, refused, slide_type, tagged

MAX_BYTES, MAX_PICTURE_BYTES = 1_000_000, 60_000  # a picture as a file, before base64
MAX_DEEP_IMPORTS = 37  # in the whole course: what a lesson needs is found at `lab.` or one package below
MAX_LINES = 10  # of a function or class in a cell; what is longer belongs in llmlab/
# These draw outside the cell's own outputs, where nbval sees them in the wrong place or not at all.
UNSEEN_BY_NBVAL = {"clear_output", "interact", "interactive_output"}


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tree(cell: NotebookNode) -> ast.Module:
    """The cell's syntax tree, magics translated as IPython does; SyntaxError where it does not compile."""
    source = TransformerManager().transform_cell(cell.source)
    compile(source, cell.id, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    return ast.parse(source)


def is_worker(node: ast.AST) -> bool:
    """A worker is what the lesson is about, so it may be as long as it must."""
    if getattr(node, "name", "") == "in_torch":  # a worker of torch's own: run_torch gives it no world
        return True
    return isinstance(node, ast.FunctionDef) and [argument.arg for argument in node.args.args[:1]] == ["world"]


def front_matter(notebook: NotebookNode) -> Iterator[str]:
    """A question for a title, and how long it takes the machine and the learner."""
    opening = [cell.source for cell in notebook.cells[:3] if cell.cell_type == "markdown"]
    if not opening or not re.match(r"# .*\?", opening[0]):
        yield "does not open with its question as title: '# ...?'"
    for phrase in ("to run", "to study"):
        if not any(
            phrase in clause.lower() and re.search(r"seconds?|minutes?|hours?", clause)
            for text in opening
            for clause in re.split(r"[.·|;\n]", text)
        ):
            yield f"does not say the time {phrase} in its first cells, in seconds, minutes or hours"


def checks(notebook: NotebookNode) -> Iterator[str]:
    """A green run is worth nothing without compared cells and assertions."""
    if not any(tagged(cell, CHECKED) for cell in code_cells(notebook)):
        yield f"has no cell tagged {CHECKED}"
    if not any(isinstance(node, ast.Assert) for cell in code_cells(notebook) for node in ast.walk(tree(cell))):
        yield "has no cell that asserts"


def outputs(notebook: NotebookNode) -> Iterator[str]:
    """Every cell was run and keeps what it showed, small and with a sentence, and the reader is told when."""
    if "widgets" in notebook.metadata:
        yield "stores the state of widgets"
    if not RECORDED.search(notebook.cells[0].source):
        yield "does not say in its first cell when its outputs were recorded"
    for cell in code_cells(notebook):
        if tagged(cell, CHECKED) and not (cell.outputs and cell.execution_count):
            yield f"{cell.id}: checked, but without output or count: nbval would compare nothing"
        if not cell.execution_count:
            yield f"{cell.id}: was not run: python tests/execute_notebooks.py"
        yield from (f"{cell.id}: {problem}" for problem in refused(cell))
        for output in cell.outputs:
            for mime in output.get("data", {}):
                if mime.startswith("image/") and not output.metadata.get(mime, {}).get("alt"):
                    yield f"{cell.id}: {mime} without alt text in its metadata"
                if mime == "image/png" and (size := len(output.data[mime]) * 3 // 4) > MAX_PICTURE_BYTES:
                    yield f"{cell.id}: a picture of {size} bytes, more than {MAX_PICTURE_BYTES}"


def sources(notebook: NotebookNode) -> Iterator[str]:
    """Cells that compile, define no library code, and are seen by nbval as by the learner."""
    ids = [cell.id for cell in notebook.cells]
    yield from (f"{name}: the id of {ids.count(name)} cells" for name in sorted(set(ids)) if ids.count(name) > 1)
    for cell in notebook.cells:
        if path := ABSOLUTE_PATH.search(cell.source):
            yield f"{cell.id}: a path of one machine: {path.group()!r}"
    for cell in code_cells(notebook):
        try:
            nodes = list(ast.walk(tree(cell)))
        except SyntaxError as error:
            yield f"{cell.id}: does not compile: {error.msg}"
            continue
        if cell.source.rstrip().endswith(";"):
            yield f"{cell.id}: ends in ';', which hides its value in JupyterLab and not under nbval"
        for node in nodes:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not is_worker(node):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_LINES:
                    yield f"{cell.id}: {node.name} has {lines} lines, more than {MAX_LINES}: move it to llmlab/"
            if isinstance(node, (ast.Name, ast.Attribute)):
                name = node.id if isinstance(node, ast.Name) else node.attr
                if name in UNSEEN_BY_NBVAL:
                    yield f"{cell.id}: {name} draws where nbval does not look"


def on_slides(notebook: NotebookNode) -> Iterator[str]:
    """Who shows it to a class finds its slides cut: all of them, or, where nobody has cut it yet, none."""
    cut = [cell for cell in notebook.cells if "slideshow" in cell.metadata]
    if cut and len(cut) < len(notebook.cells):
        yield f"{len(notebook.cells) - len(cut)} cells without a slide: python tests/execute_notebooks.py --slides"
    for cell in cut:
        if (found := cell.metadata.slideshow.slide_type) != slide_type(cell):
            yield f"{cell.id}: is on a {found!r}, and by its content would be on a {slide_type(cell)!r}"


RULES = (front_matter, checks, outputs, sources, on_slides)


def deep_imports(notebook: NotebookNode) -> list[str]:
    """The lines that import from inside llmlab: a reader has to know the file for each."""
    nodes = (node for cell in code_cells(notebook) for node in ast.walk(tree(cell)))
    return [ast.unparse(n) for n in nodes if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("llmlab.")]


def test_the_course_has_notebooks() -> None:
    assert all_notebooks()


def test_the_course_seldom_reaches_into_the_package() -> None:
    found = {path.stem: deep_imports(read(path)) for path in all_notebooks()}
    assert sum(map(len, found.values())) <= MAX_DEEP_IMPORTS, found


def test_what_two_notebooks_need_is_not_deep_in_the_package() -> None:
    users: dict[str, set[str]] = {}
    for path in all_notebooks():
        for line in deep_imports(read(path)):
            module, _, names = line.removeprefix("from ").partition(" import ")
            for name in names.split(", "):
                users.setdefault(f"{module}.{name.partition(' as ')[0]}", set()).add(path.stem)
    assert {name: found for name, found in users.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_small(path: Path) -> None:
    nbformat.validate(read(path))
    assert path.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("path", all_notebooks(), ids=lambda path: path.stem)
def test_a_notebook_keeps_to(path: Path, rule: Callable[[NotebookNode], Iterator[str]]) -> None:
    assert list(rule(read(path))) == []


def good_notebook() -> NotebookNode:
    """The smallest notebook that keeps to every rule."""
    picture = new_output("display_data", data={"image/png": "iVBO"}, metadata={"image/png": {"alt": "A line."}})
    cells = [
        new_markdown_cell(
            "# What does a test buy?\n\nAbout 3 seconds to run, an hour to study.\n\n"
            "*Outputs recorded on 2026-11-29, on 2 CPU cores without a GPU (Python 3.11, torch 2.13.0).*"
        ),
        new_code_cell("draw()", metadata={"tags": [CHECKED]}, outputs=[picture], execution_count=1),
        new_code_cell("assert 6 * 7 == 42", execution_count=2),
    ]
    return new_notebook(cells=cells)


def test_a_good_notebook_passes() -> None:
    assert [problem for rule in RULES for problem in rule(good_notebook())] == []


def printed(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


@pytest.mark.parametrize(
    ("cell", "change", "problem"),
    [
        (0, {"source": "# Tests\n3 seconds to run, an hour to study"}, "its question"),
        (0, {"source": "# Why?\n3 seconds to run"}, "the time to study"),
        (0, {"source": "# Why?\nEasy to run. An hour to study"}, "the time to run"),
        (0, {"id": "same"}, "the id of 2 cells"),
        (1, {"metadata": NotebookNode()}, "no cell tagged"),
        (0, {"source": "# Why?\n3 seconds to run, an hour to study"}, "when its outputs were recorded"),
        (1, {"outputs": []}, "would compare nothing"),
        (1, {"execution_count": None}, "would compare nothing"),
        (1, {"outputs": [new_output("display_data", data={"image/png": "iVBO"})]}, "without alt"),
        (1, {"outputs": [new_output("display_data", data={"image/png": "iVBO" * 20_001})]}, "more than 60000"),
        (1, {"outputs": [printed("late", "stderr")]}, "stderr output"),
        (1, {"outputs": [printed("in /home/ann/llmlab")]}, "a path of one machine"),
        (1, {"outputs": [new_output("error", ename="KeyError", evalue="3")]}, "error output"),
        (2, {"source": "6 * 7 == 42"}, "no cell that asserts"),
        (2, {"execution_count": None}, "was not run"),
        (2, {"source": "assert 1, open('/home/ann/x')"}, "a path of one machine"),
        (2, {"source": "assert 1;"}, "ends in ';'"),
        (2, {"source": "assert 1\nwidgets.interact(draw)"}, "interact draws"),
        (2, {"source": "def long(rank):\n" + "    rank += 1\n" * 10 + "assert 1"}, "long has 11 lines"),
    ],
)
def test_a_broken_rule_is_found(cell: int, change: dict[str, object], problem: str) -> None:
    notebook = good_notebook()
    notebook.cells[2].id = "same"
    notebook.cells[cell].update(change)
    assert any(problem in found for rule in RULES for found in rule(notebook))


def test_a_notebook_half_cut_into_slides_is_found() -> None:
    notebook = good_notebook()
    assert [slide_type(cell) for cell in notebook.cells] == ["slide", "subslide", "-"]
    notebook.cells[0].metadata.slideshow = NotebookNode(slide_type="slide")
    assert [*on_slides(notebook)] == ["2 cells without a slide: python tests/execute_notebooks.py --slides"]
    for cell in notebook.cells:
        cell.metadata.slideshow = NotebookNode(slide_type="slide")
    assert len([*on_slides(notebook)]) == 2


def test_a_cell_that_does_not_compile_is_found() -> None:
    notebook = good_notebook()
    notebook.cells[2].source = "assert ("
    assert any("does not compile" in found for found in sources(notebook))


def test_a_long_worker_and_a_magic_are_allowed() -> None:
    notebook = good_notebook()
    notebook.cells[2].source = "%matplotlib inline\ndef train(world):\n" + "    world.barrier()\n" * 20 + "assert train"
    assert list(sources(notebook)) == []


def test_redrawing_takes_over_pictures_whose_sentence_is_the_same_and_nothing_else() -> None:
    def notebook(picture: str, seconds: str) -> NotebookNode:
        drawn = [new_output("display_data", data={"image/png": picture, "text/plain": says}) for says in ("a", seconds)]
        clock = [printed(seconds)]
        cells = [new_code_cell(outputs=each, execution_count=1) for each in (drawn, clock, clock)]
        return new_notebook(cells=[new_markdown_cell("# Why?"), *cells])

    recorded = notebook("old", "3 s")
    recorded.cells[3].update(outputs=[], execution_count=None)
    redraw(recorded, notebook("new", "9 s"))
    assert [output.data["image/png"] for output in recorded.cells[1].outputs] == ["new", "old"]
    assert [cell.outputs[0].text for cell in recorded.cells[2:]] == ["3 s", "9 s"]
