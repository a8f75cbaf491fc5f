"""The package says in what order to read it, and leaves no file out."""

from __future__ import annotations

import re
from pathlib import Path

from llmlab import parallel


def test_the_package_names_every_file_of_its_own_and_no_other():
    assert parallel.__doc__ is not None and parallel.__file__ is not None
    files = {path.name for path in Path(parallel.__file__).parent.glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"\w+\.py", parallel.__doc__)) == files
