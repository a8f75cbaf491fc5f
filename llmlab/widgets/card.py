"""What this machine has, and why it is enough."""

from __future__ import annotations

from html import escape

from IPython.display import display

from llmlab.hardware import Machine, describe_machine
from llmlab.measuring import count


def machine_card(machine: Machine | None = None) -> None:
    """Display this machine as a card: `2 cores, 0 GPUs: enough`."""
    machine = machine or describe_machine()
    title, sentence = describe_card(machine)
    card = (
        '<div style="border:2px solid #0072B2;border-radius:8px;padding:0.6em 1em;max-width:44em;line-height:1.5">'
        f'<b style="font-size:1.4em">{escape(title)}</b><br>{escape(sentence)}</div>'
    )
    display({"text/html": card, "text/plain": f"{title}. {sentence}"}, raw=True)


def describe_card(machine: Machine) -> tuple[str, str]:
    """Give the title of the card and what it means for this course."""
    title = f"{count(machine.cores, 'core')}, {count(len(machine.gpus), 'GPU')}: enough"
    real = max(machine.cores, len(machine.gpus))
    shown = (
        f"Real processes can show a true speed-up on up to {real} ranks here"
        if real > 1
        else "One core shows no true speed-up"
    )
    memory = f", {machine.memory_bytes / 2**30:.0f} GiB of memory" if machine.memory_bytes else ""
    gpus = f" with {', '.join(machine.gpus)}" if machine.gpus else ""
    where = f"{machine.cpu}{memory}{gpus}, {machine.system}, Python {machine.python}, torch {machine.torch}."
    return title, f"{where} {shown}; simulated ranks, up to thousands, show the rest."
