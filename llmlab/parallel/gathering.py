"""From what the ranks hold back to the single process's names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from llmlab.comm.group import Group
from llmlab.parallel.placement import shard_of


class Gathering:
    """Knows the whole model's parameters by name, and which of them this rank holds (a part of).

    Made before any mode, from the whole model; `hold` says later what is left of it here.
    """

    def __init__(self, model: nn.Module, world: Group):
        self.world = world
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        self.aliases = {name: self.names[p] for name, p in model.named_parameters(remove_duplicate=False)}
        self.like = {name: torch.empty(p.shape, dtype=p.dtype, device="meta") for p, name in self.names.items()}
        self.held: dict[str, nn.Parameter] = {}
        self.paths = {module: path for path, module in model.named_modules()}

    def hold(self, model: nn.Module) -> None:
        """Note what this rank still holds, and let go of the rest."""
        self.held = {self.names[parameter]: parameter for parameter in model.parameters()}
        self.paths = {module: self.paths[module] for module in model.modules() if module in self.paths}
        self.names = {}

    def gather(self, whole_here: Callable[[nn.Parameter], Tensor]) -> dict[str, Tensor]:
        """Shard -> Replicate, every parameter: `whole_here` gives one as its tensor-parallel slice knows it.

        Every name of the model comes out, on every rank, a tied table under both of its names. Each parameter is
        broadcast by the first rank that holds it: for checkpoints, lessons and tests, not for every step.
        """
        found = {}
        for name, source in zip(self.like, self._holders(), strict=True):
            if name in self.held:
                parameter = self.held[name]
                piece, placement = whole_here(parameter), shard_of(parameter)
                whole = piece.clone() if placement is None else placement.gather(piece)
            else:
                whole = torch.empty_like(self.like[name], device=self.world.device)
            found[name] = self.world.broadcast(whole.detach(), source)
        return {alias: found[name] for alias, name in self.aliases.items()}

    def _holders(self) -> list[int]:
        """The first rank of the world that holds each parameter."""
        mine = torch.tensor([[name in self.held for name in self.like]], dtype=torch.uint8, device=self.world.device)
        return self.world.all_gather(mine).argmax(0).tolist()


def persistent_buffers(paths: Mapping[nn.Module, str]) -> dict[str, tuple[nn.Module, str]]:
    """What of the state of these modules is no parameter, such as the bias that balances experts: name -> where."""
    return {
        f"{path}.{name}".lstrip("."): (module, name)
        for module, path in paths.items()
        for name in module._buffers
        if name not in module._non_persistent_buffers_set
    }
