"""A round through the ward: a guess is answered from the trace, and another patient asks anew."""

from __future__ import annotations

import pytest

from llmlab.check.patients import ward
from llmlab.check.timelines import CAUSES
from llmlab.widgets.wards import ward_round


@pytest.fixture(scope="module")
def runs():
    return {letter: ward()[letter].run() for letter in "BF"}


def test_a_wrong_guess_hears_the_number_against_it_and_the_right_one_is_confirmed(runs, displayed):
    letter, view, guess, said = ward_round(runs).children
    assert "Patient B: a pipeline of four stages in one node. MFU 22%." in said.value
    assert [name for _, name in guess.options] == ["", *CAUSES]
    guess.value = "slow rank"
    assert "No: in products the slowest rank has 100%" in said.value
    guess.value = "bubble"
    assert "Yes: a pipeline with too few micro-batches." in said.value


def test_another_patient_brings_another_timeline_and_no_guess(runs, displayed):
    letter, view, guess, said = ward_round(runs).children
    guess.value, before = "bubble", view.value
    letter.value = "F"
    assert guess.value == ""
    assert view.value != before
    assert "Patient F: one device" in said.value


def test_without_a_kernel_the_first_patients_picture_and_sentence_stand(runs, displayed):
    ward_round(runs)
    (bundle,) = displayed
    assert bundle["text/plain"].startswith("Patient B, the first of B, F. Timeline of 4 ranks")
