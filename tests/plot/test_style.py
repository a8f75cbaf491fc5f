"""Numbers in words, and colours that differ in more than colour."""

from __future__ import annotations

import pytest

from llmlab.plot.style import (
    FILLS,
    LINE_COLOURS,
    caption,
    listing,
    say_bytes,
    say_memory,
    say_seconds,
    text_on,
    three_digits,
    time_unit,
)  # fmt: skip


def contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours (WCAG 2, relative luminance)."""

    def luminance(colour):
        name = {"white": "#FFFFFF", "black": "#000000"}.get(colour, colour)
        parts = [int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_lines_stand_out_from_white():
    assert min(contrast(colour, "white") for colour in LINE_COLOURS) >= 3


def test_letters_on_fills_can_be_read():
    assert min(contrast(colour, text_on(colour)) for colour, _ in FILLS) >= 4.5


def test_every_fill_has_a_hatch_of_its_own():
    assert len({hatch for _, hatch in FILLS}) == len(FILLS)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (2.5, "2.5 s"), (0.0194, "19.4 ms"), (9e-4, "900 µs"), (3e-8, "30 ns"), (781, "781 s")],
)
def test_seconds_are_said_in_their_unit(seconds, said):
    assert say_seconds(seconds) == said


@pytest.mark.parametrize(
    ("nbytes", "said"), [(0, "0 B"), (999, "999 B"), (999.9, "1 kB"), (25e6, "25 MB"), (2.8e12, "2.8 TB")]
)
def test_bytes_on_a_wire_are_decimal(nbytes, said):
    assert say_bytes(nbytes) == said


@pytest.mark.parametrize(
    ("nbytes", "said"), [(80 * 2**30, "80 GiB"), (2**40, "1 TiB"), (2**20 - 1, "1 MiB"), (3, "3 B")]
)
def test_bytes_in_a_memory_are_binary(nbytes, said):
    assert say_memory(nbytes) == said


@pytest.mark.parametrize(
    ("value", "said"), [(0, "0"), (1.0, "1"), (0.05734, "0.0573"), (1234567, "1,234,567"), (6e-5, "6e-5")]
)
def test_three_digits_say_enough(value, said):
    assert three_digits(value) == said


def test_a_unit_is_chosen_so_that_the_number_is_at_least_one():
    assert time_unit(0.001) == (1e-3, "ms") and time_unit(59.0) == (1.0, "s")


def test_words_are_joined_as_in_a_sentence():
    assert [listing(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_a_caption_is_wrapped_to_the_figure():
    assert max(map(len, caption("a machine", "virtual", ("something long",) * 20).splitlines())) <= 114
