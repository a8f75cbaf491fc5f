"""The folder: files written and hashed, a checkpoint that appears by a rename, and what is wrong with one.

A manifest says what each file hashes to; the folder's name says what the manifest hashes to. So a bit that has flipped
anywhere is noticed, and whoever notes the name somewhere safe can tell whether anything was tampered with.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmlab.arguments import instance
from llmlab.model.safetensors import DTYPES, header_of

FORMAT = "llmlab checkpoint 1"
MANIFEST = "manifest.json"
NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})")
WRITING = ".writing-"


def newest(folder: str | Path) -> Path | None:
    """Find the newest checkpoint of a folder, by its step; None where there is none. It may turn out damaged."""
    return next(iter(listed(folder)), None)


def listed(folder: str | Path) -> list[Path]:
    """The checkpoints of a folder, newest first: by step, then by when they were written."""
    instance("checkpoint", "folder", folder, (str, Path))
    found = [path for path in Path(folder).glob("step-*") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (step_of(path), path.stat().st_mtime_ns), reverse=True)


def step_of(path: Path) -> int:
    """The number of updates that a checkpoint's name tells."""
    found = NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])


# --- writing ----------------------------------------------------------------------------------------------------------


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write safetensors, to the disk and not only to its cache; give the file's record: name, bytes, sha256."""
    digest, n_bytes = hashlib.sha256(), 0
    chunks: Iterable[bytes | memoryview] = chain([header_of(tensors)], map(bytes_of, tensors.values()))
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            n_bytes += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return {"file": path.name, "bytes": n_bytes, "sha256": digest.hexdigest()}


def bytes_of(x: Tensor) -> memoryview:
    """A tensor's numbers as bytes, in row-major order; not copied where they lie so already, on the host."""
    if x.is_meta:
        raise ValueError("a checkpoint wants numbers, got tensors without any: save in a run with numerics=True")
    if x.dtype not in DTYPES.values():
        raise ValueError(f"a checkpoint holds tensors of {', '.join(map(str, DTYPES.values()))}; got {x.dtype}")
    return x.detach().reshape(-1).contiguous().cpu().view(torch.uint8).numpy().data


def write_text(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def commit(writing: Path, step: int, manifest: Mapping[str, Any]) -> Path:
    """Let what was written appear as a checkpoint."""
    text = json.dumps(manifest, indent=1)
    write_text(writing / MANIFEST, text)
    sync_folder(writing)
    path = writing.parent / f"step-{step:08d}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if path.exists():  # the same to the last bit: there is nothing to add
        shutil.rmtree(writing)
        return path
    writing.rename(path)
    sync_folder(path.parent)
    return path


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk, where the system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path, keep: int | None) -> None:
    """Delete all but the newest `keep` checkpoints. One whose manifest is not what its name says does not count."""
    if keep is None:
        return
    whole = [path for path in listed(folder) if manifest_of(path)[1] is None]
    for path in whole[keep:]:
        shutil.rmtree(path, ignore_errors=True)


# --- reading ----------------------------------------------------------------------------------------------------------


def manifest_of(path: Path) -> tuple[dict[str, Any], str | None]:
    """Read a checkpoint's manifest, or say what is wrong with it."""
    try:
        data = (path / MANIFEST).read_bytes()
    except OSError as error:
        return {}, f"{MANIFEST} cannot be read ({error.strerror})"
    if hashlib.sha256(data).hexdigest()[:16] != path.name.rpartition("-")[2]:
        return {}, f"{MANIFEST} is not the one it was saved with: the folder's name tells its hash"
    found = json.loads(data)
    if found.get("format") != FORMAT:
        return {}, f"it must be of format {FORMAT!r}, got {found.get('format')!r}"
    return found, None


def damage(path: Path, files: Iterable[Mapping[str, Any]]) -> str | None:
    """Say what is wrong with the first of these files that is not as it was saved; None: all are."""
    for record in files:
        file = path / Path(record["file"]).name
        if not file.is_file():
            return f"{file.name} is missing"
        if (size := file.stat().st_size) != record["bytes"]:
            return f"{file.name} must have {record['bytes']} bytes, got {size}"
        with file.open("rb") as opened:
            digest = hashlib.sha256()
            while chunk := opened.read(1 << 22):
                digest.update(chunk)
        if digest.hexdigest() != record["sha256"]:
            return f"{file.name} is not as it was saved: its sha256 differs"
    return None
