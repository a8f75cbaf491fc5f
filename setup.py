"""Ship the facts of data/ inside the package: `llmlab.hardware.facts` reads them there, or beside it in a checkout."""

from pathlib import Path
from shutil import copytree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithFacts(build_py):
    """Copy data/ into the built package as llmlab/data; an editable install reads the checkout's."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            copytree("data", Path(self.build_lib) / "llmlab" / "data", dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithFacts})
