"""The patients of the timelines: one suspicion stands, the wrong ones are told the number against them."""

from __future__ import annotations

import pytest

from llmlab.check import timelines as check
from llmlab.check.patients import ward
from llmlab.parallel.layout import Layout


# The quickest to run; the notebook asserts the same of all six.
@pytest.mark.parametrize(
    ("letter", "treatment"),
    [
        ("A", {"hold_back": True, "bucket_mb": 0.1, "overlap": True}),
        ("B", {"layout": Layout(pp=4, microbatches=8)}),
        ("F", {"log_every_microbatch": False, "load_s": 0.008}),
    ],
)
def test_a_patient_has_one_illness_and_its_treatment_helps_and_changes_no_loss(letter, treatment):
    patient = ward()[letter]
    sick, treated = patient.run(), patient.run(**treatment)
    assert [cause for cause, words in check.refuted(patient, sick).items() if not words] == [patient.cause]
    before, after = (patient.diagnose(run)[1].mfu for run in (sick, treated))
    assert round(before, 2) == 0.22
    assert after > 1.4 * before
    for a, b in zip(sick.results[0], treated.results[0], strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_a_setting_that_a_patient_does_not_have_is_refused():
    with pytest.raises(ValueError, match="settings are microbatches, load_s, log_every_microbatch; got layout"):
        ward()["F"].run(layout=Layout())


def test_rows_that_are_not_the_batch_are_refused():
    with pytest.raises(ValueError, match="add up to the batch of 32"):
        ward()["D"].run(rows=(8, 8, 8))


def test_the_seventh_patient_is_named_by_its_cause_and_others_are_refuted_in_numbers():
    assert check.seventh_cause("uneven stages")
    assert "not slow rank: in products the slowest rank has 99%" in check.seventh_cause("uneven stages").text
    for cause in set(check.CAUSES) - {"uneven stages"}:
        result = check.seventh_cause(cause)
        assert not result
        assert f"against {cause!r} speaks" in result.text
    assert "`spent.flops`" in check.seventh_cause("bubble").text
    assert "the name of a cause, one of gradients, bubble" in check.seventh_cause("bad luck").text
    assert "nothing to check yet" in check.seventh_cause(...).text


def test_the_seventh_patient_is_cured_by_a_split_that_gives_the_last_stage_less():
    assert check.seventh_split((4, 4, 1))
    worse = check.seventh_split([4, 3, 2])
    assert not worse
    assert "rank 2 still has the most FLOPs" in worse.text and "fewer blocks" not in worse.text
    assert "fewer blocks" in check.seventh_split([4, 3, 2]).text


@pytest.mark.parametrize("answer", [(3, 3), (3, 3, 4), (9, 0, 0), "all", 3, "441", (4.5, 3.5, 1)])
def test_a_split_that_is_none_is_told_what_one_is(answer):
    assert "three whole numbers from 1 that add up to 9" in check.seventh_split(answer).text


def test_no_split_yet_is_no_mistake():
    assert "nothing to check yet" in check.seventh_split(...).text
