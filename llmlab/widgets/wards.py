"""A round through the ward: a sick step's timeline, a guess, and what in the trace speaks against it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import ipywidgets as W

from llmlab.check.patients import Patient, ward
from llmlab.check.timelines import CAUSES, refuted
from llmlab.comm.trace import Run
from llmlab.plot import timeline, timeline_svg
from llmlab.plot.picture import show_live, status

ASK = "what is wrong?"


def ward_round(runs: Mapping[str, Run]) -> W.VBox:
    """Display the patients' timelines, one at a time, with a list of suspicions; each is answered from the trace.

    runs: {letter of a patient: its sick run}. Where no kernel runs, the first timeline and its sentence stand instead.
    """
    patients = {letter: ward()[letter] for letter in runs}
    letter = W.ToggleButtons(options=list(runs), description="patient", style={"button_width": "3em"})
    guess = W.Dropdown(options=[(ASK, ""), *((words, name) for name, words in CAUSES.items())], description="guess")
    guess.layout.width = "32em"
    view, said = W.HTML(layout=W.Layout(width="100%", margin="0")), W.HTML()

    def examine(change: object = None) -> None:
        guess.value = ""
        view.value = timeline_svg(runs[letter.value])
        said.value = status(introduce(letter.value, patients[letter.value], runs[letter.value]))

    def answer(change: object) -> None:
        if guess.value:
            said.value = status(reply(guess.value, patients[letter.value], runs[letter.value]))

    letter.observe(examine, names="value")
    guess.observe(answer, names="value")
    examine()
    box = W.VBox([letter, view, guess, said])
    first = timeline(runs[letter.value])
    show_live(box, first, f"Patient {letter.value}, the first of {', '.join(runs)}. {first.alt}")
    return box


def introduce(letter: str, patient: Patient, run: Run) -> str:
    """Say what is known before anything is examined."""
    _, used = patient.diagnose(run)
    return f"Patient {letter}: {escape(patient.complaint)}. MFU {used.mfu:.0%}."


def reply(cause: str, patient: Patient, run: Run) -> str:
    """Say whether a suspicion stands, and if not, what speaks against it."""
    against = refuted(patient, run)[cause]
    return f"No: {against}." if against else f"Yes: {CAUSES[cause]}."
