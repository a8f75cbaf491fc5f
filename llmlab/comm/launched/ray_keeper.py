"""Ends a local Ray when its caller is done with it or gone, however it went. Run as a program; Linux only.

Ray's own processes end with their parents, but two of them outlived a killed caller by ten seconds and more, and no
file of theirs was removed (looked at with Ray 2.60). The standard library alone: it has to be there before Ray is.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path


def start(folder: str) -> subprocess.Popen[bytes]:
    """Start the keeper; it sweeps the folder once its standard input is closed, and ends."""
    return subprocess.Popen(
        [sys.executable, "-S", "-E", __file__, folder],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def sweep(folder: str) -> None:
    """Kill every process that was born with this folder in its environment, and remove the folder."""
    while alive := _born_with(folder):  # again: one may have started another meanwhile
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _born_with(folder: str) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if folder.encode() in Path("/proc", name, "environ").read_bytes():
                found.append(int(name))
    return found


if __name__ == "__main__":
    sys.stdin.buffer.read()
    sweep(sys.argv[1])
