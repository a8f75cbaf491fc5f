"""Activation patching: everything patched is the other run, nothing patched is one's own."""

from __future__ import annotations

import pytest
import torch

from llmlab.interpreting import patch, patch_everywhere, residual_streams
from llmlab.model import Config, Transformer

CLEAN, CORRUPT = torch.tensor([[3, 1, 4, 1, 5]]), torch.tensor([[3, 1, 7, 1, 5]])


def small(**changes):
    sizes = {"vocab_size": 10, "d_model": 16, "n_layer": 3, "n_head": 4, "max_seq": 8, "position": "rotary"}
    return Transformer(Config(**{**sizes, **changes})).eval()


@pytest.mark.parametrize("layer", range(4))
def test_all_positions_of_any_layer_patched_give_the_other_runs_answer_exactly(layer):
    model = small()
    streams = residual_streams(model, CLEAN)
    assert torch.equal(patch(model, CORRUPT, layer, streams[layer]), model(CLEAN))
    assert not torch.allclose(model(CORRUPT), model(CLEAN))


@pytest.mark.parametrize("layer", range(4))
def test_no_position_patched_or_one_that_does_not_differ_changes_nothing(layer):
    model = small()
    streams = residual_streams(model, CLEAN)
    none = torch.tensor([], dtype=torch.long)
    assert torch.equal(patch(model, CORRUPT, layer, streams[layer], none), model(CORRUPT))
    before = torch.tensor([0, 1])  # the prompts differ from position 2 on, and nobody looks ahead
    assert torch.equal(patch(model, CORRUPT, layer, streams[layer], before), model(CORRUPT))


def test_the_table_holds_what_single_patches_give():
    model = small()
    found = patch_everywhere(model, CLEAN[0], CORRUPT[0], 2, 8)
    for layer, stream in enumerate(residual_streams(model, CLEAN)):
        for position in range(5):
            logits = patch(model, CORRUPT, layer, stream, torch.tensor([position]))[0, -1]
            # fp32, rows of a batch against one row: sums of 16 and 64 terms in another order, logits below 1
            assert found.patched[layer, position].item() == pytest.approx(float(logits[2] - logits[8]), abs=1e-5)
    clean, corrupt = (model(tokens)[0, -1].detach() for tokens in (CLEAN, CORRUPT))
    assert found.clean == pytest.approx(float(clean[2] - clean[8]), abs=1e-5)
    assert found.corrupt == pytest.approx(float(corrupt[2] - corrupt[8]), abs=1e-5)


def test_the_way_back_leads_from_the_place_that_differs_to_the_last():
    restored = patch_everywhere(small(), CLEAN[0], CORRUPT[0], 2, 8).restored
    whole = torch.ones(())
    assert torch.allclose(restored[0, 2], whole, atol=1e-3)  # before the first block only it differs
    assert torch.allclose(restored[3, 4], whole, atol=1e-3)  # after the last only the last position is read
    assert restored[0, [0, 1, 3, 4]].abs().max() < 1e-3 and restored[3, :4].abs().max() < 1e-3


def test_what_does_not_fit_is_refused():
    model = small()
    with pytest.raises(ValueError, match="of one length"):
        patch_everywhere(model, CLEAN[0], CORRUPT[0, 1:], 2, 8)
    with pytest.raises(ValueError, match="clean as a Tensor"):
        patch_everywhere(model, [1, 2], [1, 3], 2, 8)
    with pytest.raises(ValueError, match="layer as a whole number from 0 to 3"):
        patch(model, CLEAN, 4, residual_streams(model, CORRUPT)[3])
    with pytest.raises(ValueError, match="streams of one shape"):
        patch(model, CLEAN, 1, residual_streams(model, CORRUPT[:, 1:])[1])
