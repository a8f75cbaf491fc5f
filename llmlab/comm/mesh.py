"""The ranks of a world laid out along named axes, and the groups along them."""

from __future__ import annotations

from functools import lru_cache
from math import prod

from llmlab.arguments import instance, whole
from llmlab.comm.group import Group

Axes = tuple[tuple[str, int], ...]  # their names and sizes


class Mesh:
    """The ranks of a world laid out along named axes; the last axis has neighbouring ranks.

    `Mesh(world, pp=2, dp=2, tp=2)["tp"]` is the Group of this rank's neighbours along tp; `mesh["dp", "tp"]` is the
    Group over both axes together. Make it on every rank, in the same order.
    """

    def __init__(self, world: Group, **axes: int):
        instance("Mesh", "world", world, Group, "the worker's first argument")
        if not axes:
            raise ValueError("Mesh wants axes with their sizes, such as dp=2; got none")
        axes = {name: whole("Mesh", name, n, least=1) for name, n in axes.items()}
        if prod(axes.values()) != world.size:
            sizes = " x ".join(f"{k}={v}" for k, v in axes.items())
            raise ValueError(
                f"Mesh wants axes that multiply to the world's {world.size} ranks, got {sizes} = {prod(axes.values())}"
            )
        self.world, self.axes = world, dict(axes)
        self._groups: dict[tuple[str, ...], Group] = {}
        world.engine.prepare({name: self._family((name,)) for name in axes})

    @property
    def coordinate(self) -> dict[str, int]:
        """Where this rank lies on each axis."""
        return self._place(self.world.rank)

    def __getitem__(self, names: str | tuple[str, ...]) -> Group:
        names = tuple(names) if isinstance(names, (tuple, list)) else (names,)
        unknown = [name for name in names if name not in tuple(self.axes)]
        if unknown or not names:
            raise ValueError(f"Mesh has axes {', '.join(self.axes)}; got {repr(unknown[0]) if unknown else 'none'}")
        if names not in self._groups:
            self._groups[names] = self._group(names)
        return self._groups[names]

    def __repr__(self) -> str:
        return f"Mesh({', '.join(f'{k}={v}' for k, v in self.axes.items())}; here {self.coordinate})"

    def _place(self, rank: int) -> dict[str, int]:
        return _place(rank, tuple(self.axes.items()))

    def _family(self, names: tuple[str, ...]) -> list[tuple[int, ...]]:
        """All groups along these axes, each the world ranks that differ in these axes only."""
        return _family(self.world.members, tuple(self.axes.items()), names)

    def _group(self, names: tuple[str, ...]) -> Group:
        me = self.world.members[self.world.rank]
        members = next(row for row in self._family(names) if me in row)
        return type(self.world)(members, members.index(me), "x".join(names), self.world.engine)


def _place(rank: int, axes: Axes) -> dict[str, int]:
    """Where a rank of the world lies on each axis."""
    place = {}
    for name, n in reversed(axes):
        rank, place[name] = divmod(rank, n)
    return place


@lru_cache(maxsize=64)  # a thousand simulated ranks ask the same
def _family(members: tuple[int, ...], axes: Axes, names: tuple[str, ...]) -> list[tuple[int, ...]]:
    rows: dict[tuple[int, ...], list[tuple[tuple[int, ...], int]]] = {}
    for rank, member in enumerate(members):
        place = _place(rank, axes)
        others = tuple(i for name, i in place.items() if name not in names)
        rows.setdefault(others, []).append((tuple(place[name] for name in names), member))
    return [tuple(member for _, member in sorted(row)) for row in rows.values()]
