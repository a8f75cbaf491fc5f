"""The groups a layout makes of the world.

world = pp x dp x cp x tp     tp innermost: it talks most, so its ranks are neighbours (Narayanan et al. 2021,
                              section 3); pp outermost: it talks least
      = pp x edp x ep x tp    for experts: the same ranks, dp x cp cut another way
"""

from __future__ import annotations

from dataclasses import dataclass

from llmlab.comm.group import Group
from llmlab.comm.mesh import Mesh
from llmlab.parallel.layout import Layout


@dataclass(frozen=True)
class Axes:
    """This rank's group along each axis."""

    world: Group
    pp: Group
    dp: Group
    cp: Group
    tp: Group
    ep: Group
    data: Group  # ranks that hold the same dense parameters: dp x cp
    same_expert: Group  # ranks that hold the same experts
    losses: Group  # ranks whose losses add up to the step's: pp x dp x cp

    @classmethod
    def over(cls, world: Group, layout: Layout) -> Axes:
        mesh = Mesh(world, pp=layout.pp, dp=layout.dp, cp=layout.cp, tp=layout.tp)
        n_data = layout.dp * layout.cp
        experts = Mesh(world, pp=layout.pp, edp=n_data // layout.ep, ep=layout.ep, tp=layout.tp)
        return cls(
            world=world,
            **{name: mesh[name] for name in ("pp", "dp", "cp", "tp")},
            ep=experts["ep"],
            data=mesh["dp"] if layout.cp == 1 else mesh["dp", "cp"],
            same_expert=experts["edp"],
            losses=mesh["pp", "dp", "cp"],
        )
