"""A torchrun script on simulated ranks: each rank has a `__main__` of its own, and the script's command line."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from llmlab.arguments import instance, string
from llmlab.comm.simulated.simulation import Simulation
from llmlab.comm.simulated.torch_programs.running import TorchProgram, run_worker
from llmlab.comm.simulated.torch_programs.state import Kept
from llmlab.comm.trace import Run

if TYPE_CHECKING:
    from llmlab.comm.simulator import Simulator


def run(simulator: Simulator, path: str | Path, argv: Sequence[str]) -> Run:
    """Run a script as `torchrun path argv...` would. Raises ValueError where there is none."""
    instance("run_script", "path", path, (str, Path))
    for word in argv:
        string("run_script", "each argument", word)
    file = Path(path).resolve()
    if not file.is_file():
        raise ValueError(f"run_script wants a Python file, and there is none at {path}")
    program = TorchProgram(rows=lambda: [Kept(Main(), "module", lambda: ModuleType("__main__"))])
    with command_line(file, str(path), argv):
        return Simulation(simulator, run_worker, (False, execute, (str(file),), {}), {}, program).run()


def execute(path: str) -> None:
    """Run a file as the program: the body of a rank's worker."""
    main = sys.modules["__main__"]
    main.__file__ = path
    with open(path, encoding="utf-8") as file:
        code = compile(file.read(), path, "exec")
    try:
        exec(code, vars(main))
    except SystemExit as stop:
        if stop.code not in (None, 0):
            raise


class Main:
    """The program's own module, as an attribute that can be swapped."""

    @property
    def module(self) -> ModuleType:
        return sys.modules["__main__"]

    @module.setter
    def module(self, value: ModuleType) -> None:
        sys.modules["__main__"] = value


@contextmanager
def command_line(file: Path, name: str, argv: Sequence[str]) -> Iterator[None]:
    """Python's own view of a script: its arguments, its folder for imports; what it imported from there is dropped."""
    before, folder = (sys.argv, sys.path, set(sys.modules)), file.parent
    sys.argv, sys.path = [name, *argv], [str(folder), *sys.path]
    try:
        yield
    finally:
        sys.argv, sys.path, known = before
        for module in set(sys.modules) - known:
            source = getattr(sys.modules[module], "__file__", None)
            if source is not None and folder in Path(source).parents and "site-packages" not in source:
                del sys.modules[module]
