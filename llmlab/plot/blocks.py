"""A Transformer's block, and an encoder beside a decoder: what feeds what, with the parameters of each part.

The parts and their numbers are read off the modules themselves, so a drawing cannot say what the model does not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from matplotlib.axes import Axes
from torch import nn

from llmlab.arguments import instance
from llmlab.model import Block, Config, EncoderDecoder, MoE
from llmlab.model.encoder_decoder import DecoderBlock
from llmlab.plot.flows import Box, bare, draw_arrow, draw_box, draw_plus
from llmlab.plot.picture import Picture, canvas, finish, styled
from llmlab.plot.style import BLUE, ORANGE, PALE, SKY, listing

STEP, SIDE = 1.15, 2.9  # from a box to the next, and how far the residual stream runs beside them
COLOURS = {"norm": PALE, "attention": SKY, "cross": BLUE, "mlp": ORANGE, "experts": ORANGE}
Part = tuple[str, str]  # what kind, and its words


@styled
def block(config: Config, figure: Picture | None = None) -> Picture:
    """Draw one block of this model, data flowing upwards: norms, attention, MLP, the sums, and their parameters."""
    instance("block", "config", config, Config)
    with torch.device("meta"):
        module = Block(config)
    first = "norms before (GPT-2)" if config.norm_first else "norms after (Vaswani et al. 2017)"
    figure = canvas(figure, (9, 5.2))
    axes = figure.subplots()
    axes.set_title(f"a block, D = {config.d_model}: {n_of(module):,} parameters, {first}")
    top = _stack(axes, 0.0, _sublayers(module, config.causal), config.norm_first, f"x  [B, T, {config.d_model}]")
    bare(axes, -6, 6, -0.6, top + 0.4)
    return finish(figure, describe_block(module, config))


@styled
def encoder_decoder(config: Config, figure: Picture | None = None) -> Picture:
    """Draw a block of the encoder beside one of the decoder, which asks what the encoder made of the source."""
    instance("encoder_decoder", "config", config, Config)
    with torch.device("meta"):
        module = EncoderDecoder(replace(config, n_layer=1))
    encoder, decoder = (cast(Block, half[0]) for half in (module.encoder, module.decoder))
    figure = canvas(figure, (9, 6.4))
    axes = figure.subplots()
    read = _stack(axes, -4.2, _sublayers(encoder, False), config.norm_first, "source  [B, S, D]")
    written = _stack(axes, 4.2, _sublayers(decoder, True), config.norm_first, "target so far  [B, T, D]")
    cross = _height(_sublayers(decoder, True), config.norm_first, "cross")
    draw_arrow(axes, (-4.2, read), (-4.2, read + 0.5), (0, read + 0.5), (0, cross), (4.2 - 2.4, cross), colour=BLUE)
    axes.text(0.15, (read + cross) / 2 + 0.2, "memory\n[B, S, D]", color=BLUE, fontsize=11.5, va="center")
    for x, name, part in ((-4.2, "encoder", encoder), (4.2, "decoder", decoder)):
        words = f"{name}, {config.n_layer} such blocks\n{n_of(part):,} parameters each"
        axes.text(x, written + 0.75, words, ha="center")
    bare(axes, -8, 8, -0.6, written + 1.4)
    return finish(figure, describe_encoder_decoder(encoder, decoder))


def describe_block(module: Block, config: Config) -> str:
    """Say what follows what, and where the parameters are."""
    parts = _sublayers(module, config.causal)
    return (
        f"A Transformer's block from bottom to top: {_order(parts, config.norm_first)}. Two arrows run past a sublayer "
        f"and are added behind it: the residual stream. {n_of(module):,} parameters."
    )


def describe_encoder_decoder(encoder: Block, decoder: Block) -> str:
    """Say what each side consists of and where they meet."""
    left, right = (
        _order(_sublayers(block, causal), block.norm_first) for block, causal in ((encoder, False), (decoder, True))
    )
    return (
        f"An encoder's block on the left: {left}. A decoder's block on the right: {right}. An arrow leads from the "
        "encoder's end into the decoder's cross-attention."
    )


def n_of(module: nn.Module) -> int:
    """Count a module's parameters."""
    return sum(p.numel() for p in module.parameters())


def _sublayers(module: Block, causal: bool) -> list[tuple[Part, Part]]:
    """Each sublayer's norm and its own part, in the order they run."""
    name = "causal self-attention" if causal else "self-attention"
    rows: list[tuple[nn.Module, str, str, nn.Module]] = [(module.attention_norm, "attention", name, module.attention)]
    if isinstance(module, DecoderBlock):
        rows.append((module.cross_norm, "cross", "cross-attention", module.cross))
    experts = isinstance(module.mlp, MoE)
    rows.append((module.mlp_norm, "experts" if experts else "mlp", "experts" if experts else "MLP", module.mlp))
    return [
        (("norm", f"{type(norm).__name__}  {n_of(norm):,}"), (kind, f"{words}  {n_of(part):,}"))
        for norm, kind, words, part in rows
    ]


def _flow(parts: Sequence[tuple[Part, Part]], norm_first: bool) -> list[tuple[Part | None, ...]]:
    """What stands above what in each sublayer; None is the sum."""
    return [(norm, own, None) if norm_first else (own, None, norm) for norm, own in parts]


def _order(parts: Sequence[tuple[Part, Part]], norm_first: bool) -> str:
    return listing([part[1] if part else "the sum" for row in _flow(parts, norm_first) for part in row])


def _height(parts: Sequence[tuple[Part, Part]], norm_first: bool, kind: str) -> float:
    flat = [part for row in _flow(parts, norm_first) for part in row]
    return STEP * (1 + next(i for i, part in enumerate(flat) if part and part[0] == kind))


def _stack(axes: Axes, x: float, parts: Sequence[tuple[Part, Part]], norm_first: bool, entry: str) -> float:
    """Draw sublayers upwards from their input at height 0; give the height at which the last arrow ends."""
    axes.text(x, 0, entry, ha="center", va="center")
    y, below = 0.0, 0.3  # below: where the arrow to the next thing starts
    for row in _flow(parts, norm_first):
        fork = (x, below + 0.12)
        for part in row:
            y += STEP
            if part is None:
                draw_arrow(axes, (x, below), (x, y - 0.25))
                draw_arrow(axes, fork, (x + SIDE, fork[1]), (x + SIDE, y), (x + 0.22, y))
                draw_plus(axes, x, y)
                below = y + 0.25
                continue
            box = Box(x, y, part[1], COLOURS[part[0]], width=4.8)
            draw_arrow(axes, (x, below), box.bottom)
            draw_box(axes, box)
            below = box.top[1]
    draw_arrow(axes, (x, below), (x, y + 0.8))
    return y + 0.8
