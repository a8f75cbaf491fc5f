"""The speed-up explorer: its curve is the predictor's, and its sentence says what the curve means."""

from __future__ import annotations

import pytest

from llmlab.cost import predict
from llmlab.measuring import tabulate_seconds
from llmlab.parallel.layout import Layout
from llmlab.widgets import speedup_explorer
from llmlab.widgets.explorer import LINKS, as_table, data_parallel, describe, joined
from llmlab.widgets.models import MODELS, SEQ


def worth(link, batch_per_gpu=4, gpus=64, model="7B"):
    """How many GPUs' work so many GPUs do."""
    predictions = data_parallel(model, batch_per_gpu, gpus, joined(link))
    return as_table(predictions, model, link).median("speedup")[gpus]


def test_over_wifi_64_gpus_lose_to_one():
    assert worth("Wi-Fi") < 1
    text = describe(data_parallel("7B", 4, 64, joined("Wi-Fi")), "7B", 4, "Wi-Fi")
    assert "The 64 GPUs lose to one." in text


def test_a_faster_link_never_loses_to_a_slower_one():
    by_speed = [worth(link) for link in LINKS]
    assert by_speed == sorted(by_speed, reverse=True) and by_speed[0] > 0.9 * 64


def test_more_sequences_per_gpu_hide_more_of_the_traffic():
    assert worth("InfiniBand", 32) > worth("InfiniBand", 4)


def test_the_curve_is_the_predictors():
    predictions = data_parallel("1.3B", 8, 4, joined("InfiniBand"))
    assert list(predictions) == [1, 2, 4]
    layout = Layout(dp=4, microbatches=8)
    alone = predict(MODELS["1.3B"], layout, joined("InfiniBand"), global_batch=32, seq=SEQ, stack="ideal")
    assert predictions[4].seconds == alone.seconds


def test_the_sentence_says_when_a_replica_does_not_fit():
    fits = describe(data_parallel("125M", 4, 2, joined("NVLink")), "125M", 4, "NVLink")
    assert "does not fit" not in fits and "2 GPUs do the work of" in fits
    assert "does not fit" in describe(data_parallel("7B", 4, 2, joined("NVLink")), "7B", 4, "NVLink")


def test_every_slider_changes_the_sentence(displayed):
    box = speedup_explorer()
    *sliders, view, said = box.children
    assert [slider.description for slider in sliders] == ["model", "sequences per GPU", "GPUs, up to", "link"]
    for slider in sliders:
        before = said.value
        slider.index = slider.index + 1
        assert said.value != before and view.value
    assert len(displayed) == 1 and displayed[0]["text/plain"].startswith("Modelled: a 7B model, 4 x 2048 tokens")


def test_measured_points_stand_beside_the_modelled_curve(displayed):
    mine = tabulate_seconds({1: 1.0, 2: 1.1}, clock="wall", hardware="this machine", work="weak", worker="mine")
    speedup_explorer(mine, gpus=4)
    strong = tabulate_seconds({1: 1.0, 2: 0.6}, clock="wall", hardware="this machine", worker="mine")
    with pytest.raises(ValueError, match="one kind of work, got strong and weak"):
        speedup_explorer(strong)


@pytest.mark.parametrize("wrong", [{"model": "9B"}, {"link": "string"}, {"gpus": 3}])
def test_a_start_that_is_no_choice_is_refused(wrong, displayed):
    with pytest.raises(ValueError, match="is one of"):
        speedup_explorer(**wrong)


def test_the_sizes_are_the_ones_they_are_called_by():
    for name, config in MODELS.items():
        said = float(name[:-1]) * {"M": 1e6, "B": 1e9}[name[-1]]
        assert config.n_param == pytest.approx(said, rel=0.05)
