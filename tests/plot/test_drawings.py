"""Drawings of models, ranks and what they hold: read back from their artists and held against what really is."""

from __future__ import annotations

import pytest
from matplotlib.patches import FancyBboxPatch, Rectangle

import llmlab as lab
from llmlab.cost.modes.zero import model_states
from llmlab.model import EncoderDecoder
from llmlab.parallel.axes import Axes
from llmlab.parallel.schedules import make_schedule
from llmlab.parallel.timetable import in_flight, timetable
from llmlab.plot.meshes import groups
from llmlab.plot.stashes import held

CONFIG = lab.Config(vocab_size=512, d_model=64, n_layer=2, n_head=4, max_seq=32)


def boxes(figure) -> list[FancyBboxPatch]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]


def parameters(box: FancyBboxPatch) -> int:
    return int(box.get_label().split()[-1].replace(",", ""))


# --- a head -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
def test_a_head_has_a_square_for_every_number_and_hatches_what_is_not_seen(causal):
    figure = lab.plot.head(tokens=5, d_model=6, head_dim=3, causal=causal)
    drawn = [[patch for patch in axes.patches if isinstance(patch, Rectangle)] for axes in figure.axes]
    projections, scores, average = (len(patches) for patches in drawn)
    assert projections == 5 * 6 + 3 * (6 * 3) + 3 * (5 * 3)
    assert scores == 5 * 3 + 3 * 5 + 5 * 5 and average == 5 * 5 + 5 * 3 + 5 * 3
    hidden = [sum(patch.get_hatch() is not None for patch in patches) for patches in drawn]
    assert hidden == ([0, 10, 10] if causal else [0, 0, 0])
    assert ("10 of them" in figure.alt) == causal


# --- blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"norm_first": False}, {"n_expert": 4, "mlp": "swiglu", "norm": "rmsnorm"}])
def test_a_blocks_boxes_hold_all_its_parameters_in_the_order_they_run(options):
    config = lab.Config(**{**vars(CONFIG), "n_layer": 1, **options})
    drawn = sorted(boxes(lab.plot.block(config)), key=lambda box: box.get_y())
    block = lab.Transformer(config).blocks[0]
    assert sum(map(parameters, drawn)) == sum(p.numel() for p in block.parameters())
    kinds = ["norm" if "Norm" in box.get_label() else "own" for box in drawn]
    assert kinds == (["norm", "own"] if config.norm_first else ["own", "norm"]) * 2


def test_a_decoder_has_one_box_pair_more_and_the_encoders_arrow_ends_at_it():
    figure = lab.plot.encoder_decoder(CONFIG)
    left, right = ([box for box in boxes(figure) if (box.get_x() < -1) == side] for side in (True, False))
    assert (len(left), len(right)) == (4, 6)
    model = EncoderDecoder(CONFIG)
    for side, module in ((left, model.encoder[0]), (right, model.decoder[0])):
        assert sum(map(parameters, side)) == sum(p.numel() for p in module.parameters())
    (cross,) = (box for box in right if box.get_label().startswith("cross-attention"))
    ends = [arrow._posA_posB[1] for arrow in figure.axes[0].patches if hasattr(arrow, "_posA_posB")]
    assert (cross.get_x(), cross.get_y() + cross.get_height() / 2) in [pytest.approx(end) for end in ends]


# --- ranks ------------------------------------------------------------------------------------------------------------

LAYOUTS = [
    lab.Layout(dp=2, tp=2, pp=2, microbatches=2),
    lab.Layout(tp=3, cp=2),
    lab.Layout(dp=4),
    lab.Layout(dp=3, cp=2, pp=2, microbatches=2),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_ranks_of_one_look_are_the_ranks_of_one_group(layout):
    def members(world):
        axes = Axes.over(world, layout)
        return {name: list(getattr(axes, name).members) for name in ("pp", "dp", "cp", "tp")}

    real = lab.Simulator(ranks=layout.ranks).run(members).results
    drawn = groups(layout)
    assert set(drawn) == {name for name in real[0] if getattr(layout, name) > 1}
    for name, families in drawn.items():
        for rank in range(layout.ranks):
            assert [family for family in families if rank in family] == [real[rank][name]]
    figure = lab.plot.mesh(layout)
    for axes, families in zip(figure.axes, drawn.values(), strict=True):
        looks = {patch.get_label(): patch.get_facecolor() for patch in axes.patches}
        assert len(axes.patches) == layout.ranks and len(looks) == len(families)


def test_one_rank_or_too_many_are_refused():
    for layout in (lab.Layout(), lab.Layout(dp=64)):
        with pytest.raises(ValueError, match="mesh wants a layout of 2 to 32 ranks"):
            lab.plot.mesh(layout)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_bytes_drawn_are_the_bytes_kept(stage):
    figure = lab.plot.shards(stage, ranks=4)
    kept = [patch for patch in figure.axes[0].patches if patch.get_label() and patch.get_label()[0] != "_"]
    for rank in range(4):
        own = [patch for patch in kept if round(patch.get_y()) == rank]
        assert sum(patch.get_width() for patch in own) == pytest.approx(sum(model_states(1, 4, stage).values()))
    everything = {(patch.get_label(), round(patch.get_x(), 6)) for patch in kept}
    assert len(everything) == 3 * 4  # together the ranks lack nothing


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "zb_h1", "interleaved"])
def test_a_stash_is_what_was_begun_and_has_not_ended(name):
    plan = make_schedule(name, 4, 8)
    slots = timetable(plan)
    for rank, curve in enumerate(held(plan)):
        assert max(count for _, count in curve) == in_flight(plan)[rank] and curve[-1][1] == 0
        for time, count in curve:
            own = [slot for slot in slots if slot.rank == rank]
            begun = sum(slot.action.kind == "F" and slot.start <= time for slot in own)
            assert count == begun - sum(plan.last(slot.action) and slot.stop <= time for slot in own)
    figure = lab.plot.stash(name)
    assert len(figure.axes) == 4 and str(max(in_flight(plan))) in figure.alt
