"""Text in one spelling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.text import clean, load


@pytest.mark.parametrize(
    ("dirty", "cleaned"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufeffa\u200bb\x00c\x07", "abc"),
        ("\x1b[1;31mred\x1b[0m ink", "red ink"),
        ("a  \n\n\n\n  b\t\n", "a\n\n  b"),  # leading blanks stay: they are code
        ("今天　天气", "今天　天气"),
        ("if a < b and b > c: <T>", "if a < b and b > c: <T>"),
        ("Fish &amp; chips", "Fish &amp; chips"),
    ],
)
def test_text_is_brought_into_one_spelling(dirty, cleaned):
    assert clean(dirty) == cleaned


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>Fish &amp; chips</p>", "Fish & chips"),
        ("a<!-- not\nseen -->b", "ab"),
        ("<SCRIPT src='x'>var a = '<b>';</script >text<style>p {}</style>", "text"),
        ("1 < 2 and 3 > 2, x<y", "1 < 2 and 3 > 2, x<y"),
        ("&lt;b&gt; is how bold begins", "<b> is how bold begins"),
    ],
)
def test_markup_goes_when_asked(page, text):
    assert clean(page, markup=True) == text


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text):
    assert clean(clean(text)) == clean(text)


def test_real_documentation_survives():
    for text in load("python", max_bytes=200_000):
        assert clean(text).split() == text.split()
