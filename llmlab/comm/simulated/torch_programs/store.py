"""The key-value store that a torch program's ranks share: one dictionary, waited for in the scheduler."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from llmlab.comm.simulated.scheduler import Scheduler


class SharedStore(dist.Store):
    """torch's TCPStore without a server. What nobody will ever set is a deadlock, named at once, and not a timeout."""

    def __init__(self, scheduler: Scheduler):
        super().__init__()
        self._scheduler, self._values, self._waiting = scheduler, {}, []  # type: ignore[var-annotated]

    def set(self, key: str, value: str | bytes) -> None:
        self._values[key] = as_bytes(value)
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            self._scheduler.wake(task)

    def get(self, key: str) -> bytes:
        self.wait([key])
        return self._values[key]

    def add(self, key: str, amount: int) -> int:
        total = int(self._values.get(key, b"0")) + amount
        self.set(key, str(total))
        return total

    def wait(self, keys: list[str], timeout: Any = None) -> None:
        def ready() -> bool:
            there = self.check(keys)
            if not there:
                self._waiting.append(self._scheduler.current)
            return there

        self._scheduler.wait(ready)

    def check(self, keys: list[str]) -> bool:
        return all(key in self._values for key in keys)

    def compare_set(self, key: str, expected: str | bytes, desired: str | bytes) -> bytes:
        """Set a key that has the expected value, or, where "" is expected, is not there."""
        if self._values.get(key, b"") == as_bytes(expected):
            self.set(key, desired)
        return self._values.get(key, as_bytes(expected))

    def delete_key(self, key: str) -> bool:
        return self._values.pop(key, None) is not None

    def num_keys(self) -> int:
        return len(self._values)

    def append(self, key: str, value: str | bytes) -> None:
        self.set(key, self._values.get(key, b"") + as_bytes(value))

    def set_timeout(self, timeout: Any) -> None:
        """A rank that waits in vain is found without one."""

    deleteKey, getNumKeys, compareSet = delete_key, num_keys, compare_set  # as a PrefixStore, in C++, calls them


def as_bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value)
