"""A notebook in a real JupyterLab, in a headless Chromium: run its cells, move its sliders, look at its pages.

    python tests/browser/lab_page.py notebooks/00_start_here.ipynb --screenshots FOLDER

Works on a copy, with a server of its own on loopback, a random token and empty settings; nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Browser, Locator, Page, sync_playwright

sys.path.append(str(Path(__file__).parents[2]))  # as a script: the repository is not on the path yet
from tests.execute_notebooks import problems  # noqa: E402

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",  # in a container, as root, Chromium starts no other way; it only ever opens our own server
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers often have 64 MB of it
]
PROJECTOR: Any = {"width": 1280, "height": 720}  # playwright has a type of its own for it
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of sight are not in the page
}
# "Run all" before the kernel answers opens a "Select Kernel" dialog that waits for ever; the status light is no proof.
# Nothing here is awaited: wait_for_function would take a promise for a yes.
READY = """() => {
    const app = window.jupyterapp, panel = app && app.shell.currentWidget;
    if (!panel || !panel.sessionContext || !app.commands.hasCommand('notebook:run-all-cells')) return false;
    const kernel = panel.sessionContext.session && panel.sessionContext.session.kernel;
    return panel.context.isReady && panel.sessionContext.isReady && kernel && kernel.status === 'idle';
}"""
# Folds the file browser away once Lab has put its panels up, or after 10 s: a wider notebook, nothing more.
FOLD_AWAY = """async () => {
    await Promise.race([window.jupyterapp.restored, new Promise(resolve => setTimeout(resolve, 10000))]);
    window.jupyterapp.shell.collapseLeft();
}"""
# Every code cell has its count, or one failed that should not: after an error the cells below it never get theirs.
FINISHED = """() => {
    const cells = [...window.jupyterapp.shell.currentWidget.content.model.cells].filter(c => c.type === 'code');
    const failed = cell => cell.toJSON().outputs.some(output => output.output_type === 'error')
        && !(cell.getMetadata('tags') || []).includes('raises-exception');
    return cells.every(cell => cell.executionCount !== null) || cells.some(failed);
}"""
# Pixels down to the end of the last cell (below it Lab leaves room to scroll), and of one screenful.
HEIGHTS = """scroller => {
    const bottoms = [...scroller.querySelectorAll('.jp-Cell')].map(cell => cell.getBoundingClientRect().bottom);
    const top = scroller.getBoundingClientRect().top - scroller.scrollTop;
    return [Math.ceil(Math.max(...bottoms) - top), scroller.clientHeight];
}"""
# What of the outputs a reader at this window does not see: more than fits in the width, a picture taller than what Lab
# leaves of the screen, letters out of their drawing, a line of a table that goes on in the next.
CUT_OFF = """() => {
    const panel = window.jupyterapp.shell.currentWidget.node;
    const screen = panel.querySelector('.jp-WindowedPanel-outer').clientHeight;
    const found = [];
    [...panel.querySelectorAll('.jp-Cell')].forEach((cell, number) => {
        const say = words => found.push(`cell ${number}: ${words}`);
        for (const place of cell.querySelectorAll('.jp-OutputArea-output, .jp-MarkdownOutput')) {
            const right = place.getBoundingClientRect().right + 1;
            if (place.scrollWidth > place.clientWidth + 1)
                say(`an output ${place.scrollWidth} px wide in ${place.clientWidth}`);
            for (const drawn of place.querySelectorAll('img, svg, table, .widget-slider, .widget-readout')) {
                const box = drawn.getBoundingClientRect();
                const name = drawn.getAttribute('alt') || drawn.getAttribute('aria-label') || drawn.tagName;
                if (box.right > right) say(`${name.slice(0, 60)} goes ${box.right - right} px out to the right`);
                if (drawn.matches('img, svg[viewBox]') && box.height > screen)
                    say(`${name.slice(0, 60)} is ${box.height} px high on a screen of ${screen}`);
                if (drawn.tagName === 'IMG' && drawn.complete && box.width > drawn.naturalWidth + 1)
                    say(`${name.slice(0, 60)} is stretched from ${drawn.naturalWidth} px to ${box.width}`);
            }
            for (const text of place.querySelectorAll('svg text')) {
                const own = text.getBoundingClientRect(), svg = text.ownerSVGElement.getBoundingClientRect();
                if (own.width && (own.right > svg.right + 1 || own.left < svg.left - 1 || own.bottom > svg.bottom + 1))
                    say(`the words '${text.textContent}' are cut`);
            }
            for (const text of place.querySelectorAll('pre')) {
                const lines = text.textContent.replace(/\\n$/, '').split('\\n');
                const row = parseFloat(getComputedStyle(text).lineHeight);
                const broken = Math.round(text.getBoundingClientRect().height / row) - lines.length;
                if (lines.length > 1 && broken > 0) say(`${broken} lines of ${lines.length} are broken in two`);
            }
        }
    });
    return found;
}"""
# Every cell is in the page, and every picture has come.
DRAWN = """([name, count]) => {
    const panel = window.jupyterapp && window.jupyterapp.shell.currentWidget;
    if (!panel || !panel.content || !panel.context.isReady || panel.context.path !== name) return false;
    const pictures = [...panel.node.querySelectorAll('.jp-OutputArea-output img')];
    return pictures.length >= count && pictures.every(picture => picture.complete && picture.naturalWidth);
}"""
PICTURES = "cell => [...cell.querySelectorAll('.widget-html img, .widget-html svg')].map(e => e.outerHTML).join()"


def chromium() -> str | None:
    """Path of an installed Chromium or Chrome, or None."""
    return next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)


@contextmanager
def lab_server(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve `folder` in a JupyterLab of its own; gives its address and token. Its kernels end with it."""
    with tempfile.TemporaryDirectory(prefix="llmlab-lab-") as private:
        settings = Path(private) / "settings"
        for name, values in SETTINGS.items():
            file = settings / f"{name}.jupyterlab-settings"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values), encoding="utf-8")
        homes = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
        environment = os.environ | {f"JUPYTER_{key}": str(Path(private) / name) for key, name in homes.items()}
        environment |= {"JUPYTERLAB_SETTINGS_DIR": str(settings), "IPYTHONDIR": str(Path(private) / "ipython")}
        environment["JUPYTERLAB_WORKSPACES_DIR"] = str(Path(private) / "workspaces")
        token, port = secrets.token_hex(16), free_port()
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
        command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
        command += ["--LabApp.expose_app_in_browser=True"]  # window.jupyterapp, which READY asks
        log = Path(private) / "server.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
            try:
                wait_until_up(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
                yield f"http://127.0.0.1:{port}", token
            finally:
                stop(server)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def wait_until_up(address: str, server: subprocess.Popen[bytes], log: Path, timeout_s: float = 90) -> None:
    """Return when the server answers. Raises RuntimeError with its log when it ends or takes too long."""
    deadline = time.monotonic() + timeout_s
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab does not answer after {timeout_s} s:\n{log.read_text(errors='replace')[-4000:]}")


def stop(server: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, which ends its kernels; after 20 s it is killed."""
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@dataclass
class LabPage:
    """An open notebook. `console` collects what the browser complained about."""

    page: Page
    console: list[str] = field(default_factory=list)

    def open(self, address: str, token: str, name: str, timeout_s: float = 120) -> None:
        """Load the notebook and wait until its kernel answers."""
        self.page.on("console", lambda message: self.console.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.console.append(str(error)))
        self.page.goto(f"{address}/lab/tree/{name}?token={token}")
        self.page.wait_for_function(READY, timeout=timeout_s * 1000)
        self.page.evaluate(FOLD_AWAY)

    def read(self, address: str, token: str, notebook: Path, timeout_s: float = 120) -> None:
        """Load a notebook as it is stored and wait until its pictures are there, not for a kernel."""
        self.page.goto(f"{address}/lab/tree/{notebook.name}?token={token}&reset")  # without what was open before
        outputs = [o for cell in nbformat.read(notebook, as_version=4).cells for o in cell.get("outputs", [])]
        pictures = sum("image/png" in output.get("data", {}) for output in outputs)
        self.page.wait_for_function(DRAWN, arg=[notebook.name, pictures], timeout=timeout_s * 1000)
        self.page.evaluate(FOLD_AWAY)

    def cut_off(self) -> list[str]:
        """What of the outputs cannot be seen whole in this window."""
        return self.page.evaluate(CUT_OFF)

    def run_all(self, timeout_s: float = 180) -> None:
        """Run every cell; return when each has its count, or at the first that fails."""
        # not awaited: a promise that never settles would wait without a time limit
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        self.page.wait_for_function(FINISHED, timeout=timeout_s * 1000)

    def problems(self) -> list[str]:
        """What the outputs, as JupyterLab holds them now, should not hold: errors, stderr, paths of this machine."""
        model = self.page.evaluate("() => window.jupyterapp.shell.currentWidget.content.model.toJSON()")
        return problems(nbformat.from_dict(model))

    def slider_cells(self) -> list[Locator]:
        """The code cells whose output has both a slider and a picture that can follow it."""
        cells = self.page.locator(".jp-CodeCell").all()
        return [c for c in cells if c.locator(".widget-slider .noUi-handle").count() and c.evaluate(PICTURES)]

    def press_slider(self, cell: Locator, timeout_s: float = 10) -> None:
        """Move the cell's first slider by one arrow key and wait until a picture has changed."""
        handle = cell.locator(".widget-slider .noUi-handle").first
        at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        before = cell.evaluate(PICTURES)
        handle.focus()
        self.page.keyboard.press("ArrowLeft" if at_end else "ArrowRight")
        self.wait_for_change(cell, before, timeout_s)

    def drag_slider(self, cell: Locator, timeout_s: float = 10) -> None:
        """Drag the cell's first slider to the far end of its rail and wait until a picture has changed."""
        slider = cell.locator(".widget-slider").first
        slider.scroll_into_view_if_needed()
        handle, rail = slider.locator(".noUi-handle").first.bounding_box(), slider.locator(".noUi-base").bounding_box()
        assert handle and rail, "the slider is on the page"
        x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
        far = rail["x"] + rail["width"] if x < rail["x"] + rail["width"] / 2 else rail["x"]
        before = cell.evaluate(PICTURES)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(far, y, steps=8)
        self.page.mouse.up()
        self.wait_for_change(cell, before, timeout_s)

    def wait_for_change(self, cell: Locator, before: str, timeout_s: float) -> None:
        self.page.wait_for_function(
            f"([cell, before]) => ({PICTURES})(cell) !== before",
            arg=[cell.element_handle(), before],
            timeout=timeout_s * 1000,
        )

    def screenshots(self, folder: Path) -> list[Path]:
        """Photograph the notebook from top to bottom, one screenful after another: `page-01.png` ..."""
        folder.mkdir(parents=True, exist_ok=True)
        scroller = self.page.locator(".jp-NotebookPanel:visible .jp-WindowedPanel-outer").first
        height, screen = scroller.evaluate(HEIGHTS)
        files = []
        for number, top in enumerate(range(0, height, screen), start=1):
            scroller.evaluate("(e, top) => { e.scrollTop = top }", top)
            self.page.wait_for_timeout(200)  # milliseconds, for the page to be painted again
            files.append(folder / f"page-{number:02}.png")
            scroller.screenshot(path=files[-1])
        return files


@contextmanager
def open_notebook(notebook: Path) -> Iterator[LabPage]:
    """Open a copy of a notebook in JupyterLab and wait for its kernel. Raises RuntimeError without a Chromium."""
    copy = nbformat.read(notebook, as_version=4)
    for cell in copy.cells:
        if cell.cell_type == "code":  # an old count would look like a cell that has run
            cell.outputs, cell.execution_count = [], None
    with open_lab() as (folder, address, token, browser):
        nbformat.write(copy, folder / notebook.name)
        lab = LabPage(browser.new_page(viewport=PROJECTOR))
        lab.open(address, token, notebook.name)
        yield lab


@contextmanager
def open_lab() -> Iterator[tuple[Path, str, str, Browser]]:
    """Start a JupyterLab on an empty folder, and a browser: folder, address, token, browser.

    Raises RuntimeError without a Chromium.
    """
    executable = chromium()
    if executable is None:
        raise RuntimeError(f"no Chromium on this machine: looked for {', '.join(CHROMIUM_NAMES)}")
    with (
        tempfile.TemporaryDirectory(prefix="llmlab-page-") as folder,
        sync_playwright() as playwright,
        lab_server(Path(folder)) as (address, token),
    ):
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGUMENTS)
        try:
            yield Path(folder), address, token, browser
        finally:
            browser.close()


def main() -> int:
    """Run a notebook in the browser and photograph it; the exit status says whether anything went wrong in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--screenshots", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--stored", action="store_true", help="as it is stored: run nothing")
    parser.add_argument("--timeout", type=float, default=180, metavar="SECONDS", help="for all cells (default: 180)")
    arguments = parser.parse_args()

    start = time.perf_counter()
    if arguments.stored:
        with open_lab() as (folder, address, token, browser):
            shutil.copy(arguments.notebook, folder)
            lab = LabPage(browser.new_page(viewport=PROJECTOR))
            lab.read(address, token, arguments.notebook)
            print(*lab.screenshots(arguments.screenshots), *lab.cut_off(), sep="\n")
        return 0
    with open_notebook(arguments.notebook) as lab:
        print(f"{time.perf_counter() - start:6.1f} s  ready", flush=True)
        try:
            lab.run_all(arguments.timeout)
            print(f"{time.perf_counter() - start:6.1f} s  stopped, at the end or at an error", flush=True)
        finally:  # what a cell that never ends looks like is worth seeing too
            print(*lab.screenshots(arguments.screenshots), sep="\n")
        wrong = lab.problems() + lab.console + lab.cut_off()
    print(*wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
