"""Each rank's random numbers: torch's, numpy's and Python's, where they are."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from llmlab.comm.group import Group

PREFIX = "random/"


def random_state(world: Group | None) -> dict[str, Tensor]:
    """Give the state of this rank's generators, as tensors."""
    _, words, at, has_gauss, gauss = np.random.get_state(legacy=True)
    version, numbers, next_gauss = random.getstate()
    found = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([*map(int, words), at, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor([gauss], dtype=torch.float64),
        "python": torch.tensor([version, *numbers], dtype=torch.int64),
        "python_gauss": torch.tensor([] if next_gauss is None else [next_gauss], dtype=torch.float64),
    }
    if world is not None and world.device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(world.device)
    return {PREFIX + name: value for name, value in found.items()}


def set_random_state(world: Group | None, state: Mapping[str, Tensor]) -> None:
    """Go on drawing where the state was taken."""
    found = {name.removeprefix(PREFIX): value for name, value in state.items()}
    torch.set_rng_state(found["torch"])
    *words, at, has_gauss = found["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(words, dtype=np.uint32), at, has_gauss, found["numpy_gauss"].item()))
    version, *numbers = found["python"].tolist()
    random.setstate((version, tuple(numbers), next(iter(found["python_gauss"].tolist()), None)))
    if "cuda" in found and world is not None and world.device.type == "cuda":
        torch.cuda.set_rng_state(found["cuda"], world.device)
