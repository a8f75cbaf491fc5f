"""Checkpoints: what a run needs to go on, saved from any layout and loaded into any other.

    runs/                                       the folder
      step-00000120-8c1f04a7d2b90e53/           one checkpoint: its step, and what its manifest hashes to
        manifest.json                           the tensors, where their pieces lie, what each file hashes to
        rank-00000.safetensors ...              the pieces each rank has written: no element twice
      .writing-.../                             one that is under way, or that never came to its end

A checkpoint appears whole, by a rename, after all of it is on the disk: whatever kills a save, the older ones stay.
Nothing in it can be run, unlike in a pickle. The layout is that of the single process: pieces say where in the whole
tensor they belong, so that others may cut it otherwise (the idea of torch.distributed.checkpoint, and of Wan et al.
2025, "ByteCheckpoint").
"""

from llmlab.checkpoint.exporting import export
from llmlab.checkpoint.loading import load
from llmlab.checkpoint.resuming import Checkpoints
from llmlab.checkpoint.saving import Saving, save
from llmlab.checkpoint.storing import newest

__all__ = ["Checkpoints", "Saving", "export", "load", "newest", "save"]
