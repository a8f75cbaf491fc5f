"""Whole messages between the caller and a rank, over a private socket pair: a length, then a pickle.

A socket pair has no name and no port, so nobody but the two processes that hold its ends can read or write it.
"""

from __future__ import annotations

import pickle
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!Q")
_READ = 1 << 20  # bytes asked of the kernel at once


class Channel:
    """One end of a socket pair that carries tuples."""

    def __init__(self, sock: socket.socket):
        self._socket = sock
        self._buffer = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, *message: Any) -> None:
        data = pickle.dumps(message, protocol=5)
        self._socket.sendall(_LENGTH.pack(len(data)))
        self._socket.sendall(data)

    def receive(self) -> tuple[Any, ...]:
        """Wait for the next message. Raises EOFError when the other end is gone."""
        while (message := self._next()) is None:
            self._fill()
        return message

    def arrived(self) -> list[tuple[Any, ...]]:
        """Read once, and give the messages that are whole. Does not wait when the socket is readable."""
        self._fill()
        messages = []
        while (message := self._next()) is not None:
            messages.append(message)
        return messages

    def close(self) -> None:
        self._socket.close()

    def _fill(self) -> None:
        try:
            data = self._socket.recv(_READ)
        except ConnectionResetError:  # the other end was killed with our bytes unread
            data = b""
        if not data:
            raise EOFError("the other end is gone")
        self._buffer += data

    def _next(self) -> tuple[Any, ...] | None:
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            message = pickle.loads(view[_LENGTH.size : end])
        del self._buffer[:end]
        return message
