"""Shared memory between the processes of one host, as a backend of torch.distributed called "llmlab".

Importing this registers it: `dist.init_process_group("llmlab")` then works under torchrun on one machine, and DDP,
FSDP2 and DTensor ride on it unchanged. `Processes` uses it by itself.

Read `memory` (what is shared, and in which order it is seen) with `joining` and `sleeping`, `rounds` with `collectives`
and `sums`, `messages` with `mailbox`, `works`, `progress` and `waiting` (who moves what, and when), `process_group`
(what torch calls); `buffers` (tensors that are summed where they lie).
"""

from llmlab.comm.shared.buffers import shared_empty
from llmlab.comm.shared.memory import available
from llmlab.comm.shared.process_group import SharedMemoryGroup, register
from llmlab.comm.shared.works import NAME

__all__ = ["NAME", "SharedMemoryGroup", "available", "register", "shared_empty"]

register()
