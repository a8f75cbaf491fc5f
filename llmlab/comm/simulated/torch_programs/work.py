"""What a collective of a torch program returns: torch's Work, whose wait() hands the baton to the next rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from llmlab.comm.simulated.matching import Post
from llmlab.comm.simulated.recorder import unseen

if TYPE_CHECKING:
    from llmlab.comm.simulated.rank import Rank

Finish = Callable[[Any], object]  # takes the result of an operation to where the program wants it


class SimulatedWork(dist.Work):
    """One or more posts, and how their results reach the program's tensors. `outputs`: what its future gives."""

    def __init__(self, rank: Rank, posts: Sequence[tuple[Post, Finish | None]], outputs: Sequence[Tensor]):
        super().__init__()
        self._rank, self._open, self._outputs = rank, list(posts), list(outputs)
        self._first = posts[0][0] if posts else None
        self._future: torch.futures.Future | None = None

    @property
    def parts(self) -> list[tuple[Post, Finish | None]]:
        return self._open

    def wait(self, timeout: Any = None) -> bool:
        """Wait for every post, in order; whatever a timeout says, as nothing here is late but by a deadlock."""
        parts, self._open = self._open, []
        for post, finish in parts:
            self._rank.wait(post)
            if finish is not None:
                with unseen(), torch.no_grad():
                    finish(post.result)
        if self._future is not None and not self._future.done():
            self._future.set_result(self._outputs)
        return True

    def synchronize(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        """Let the others run before saying no, or a program that polls would never see it change."""
        scheduler = self._rank.simulation.scheduler
        for post, _ in self._open:
            if not post.matched and scheduler.ready:
                scheduler.yield_turn()
            elif not post.matched:
                self._rank.waiting_for = post
                scheduler.wait(lambda post=post: post.matched)  # type: ignore[misc]
                self._rank.waiting_for = None
        return all(post.matched for post, _ in self._open)

    def is_success(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def result(self) -> list[Tensor]:
        return self._outputs

    def _source_rank(self) -> int:
        peer = self._first.call.peer if self._first is not None else None
        return -1 if peer is None else peer

    source_rank = _source_rank

    def get_future(self) -> torch.futures.Future:
        """Give the future that DDP waits for in C++, which would stop the baton: our wait comes before its own.

        Within backward it is queued with the autograd engine, to run before the callback that DDP queues last.
        """
        if self._future is None:
            self._future = torch.futures.Future()
            if torch._C._current_autograd_node() is None:
                self.wait()
            else:
                engine: Any = torch.autograd.Variable._execution_engine
                engine.queue_callback(lambda: self.wait())
        return self._future
