"""From what the ranks hold back to the single process's names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from llmlab.comm.group import Group
from llmlab.parallel.buckets import make_buckets
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
        broadcast by the first rank that holds it, several in one message: for checkpoints, lessons and tests, not for
        every step.
        """
        found = {}
        for source, names in self._messages():
            wholes = {name: self._whole(name, whole_here) for name in names}
            sent = self.world.broadcast(torch.cat([whole.detach().flatten() for whole in wholes.values()]), source)
            pieces = sent.split([whole.numel() for whole in wholes.values()])
            for (name, whole), piece in zip(wholes.items(), pieces, strict=True):
                found[name] = piece.view(whole.shape).clone()  # its own memory: one may be kept when the others go
        return {alias: found[name] for alias, name in self.aliases.items()}

    def _whole(self, name: str, whole_here: Callable[[nn.Parameter], Tensor]) -> Tensor:
        """A parameter put together from its slices where this rank holds one; elsewhere as much room."""
        if name not in self.held:
            return torch.empty_like(self.like[name], device=self.world.device)
        piece, placement = whole_here(self.held[name]), shard_of(self.held[name])
        return piece if placement is None else placement.gather(piece)

    def _messages(self) -> Iterator[tuple[int, list[str]]]:
        """Who sends which parameters together, in the same order on every rank."""
        holders = self._holders()
        for source in sorted(set(holders)):
            names = {self.like[name]: name for name, holder in zip(self.like, holders, strict=True) if holder == source}
            for bucket in make_buckets(names):
                yield source, [names[like] for like in bucket]

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
