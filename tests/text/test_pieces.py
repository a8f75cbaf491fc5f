"""How text is cut before merging."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.text import pieces as module
from llmlab.text.pieces import pieces

AWKWARD = st.text(alphabet="ab é今一²Ⅷ½7 \n\t\r_'st-\x1c\x1f\u3000\u2028.", max_size=30)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("Hello, world!", ["Hello", ",", " world", "!"]),
        ("don't we'll I'M", ["don", "'t", " we", "'ll", " I", "'", "M"]),
        ("x  =   1\n\n  y", ["x", " ", " =", "  ", " 1", "\n\n ", " y"]),
        ("ab12 34c", ["ab", "12", " 34", "c"]),
        ("今天天气 很好。", ["今天天气", " 很好", "。"]),
        ("m² _x", ["m", "²", " _", "x"]),  # ² is a number, _ is neither letter nor number
        ("a\x1cb", ["a", "\x1c", "b"]),  # a separator is no blank in Unicode's sense
    ],
)
def test_text_is_cut_as_gpt2_cuts_it(text, cut):
    assert pieces(text) == cut


def test_digits_stand_alone_when_asked():
    assert pieces("in 1998, x²", "digits") == ["in", " ", "1", "9", "9", "8", ",", " x", "²"]


def test_llama_3_takes_a_sign_with_its_word_and_three_digits_at_once():
    assert pieces("I'M (here) 12345\n\n  x", "llama3") == [
        "I",
        "'M",
        " (",
        "here",
        ")",
        " ",
        "123",
        "45",
        "\n\n",
        " ",
        " x",
    ]
    assert pieces("in 1998", "qwen2") == ["in", " ", "1", "9", "9", "8"]


@given(AWKWARD | st.text(), st.sampled_from(module.PATTERNS))
def test_no_character_is_lost(text, pattern):
    assert "".join(pieces(text, pattern)) == text


@given(AWKWARD.map(lambda text: "".join(c for c in text if c not in module._rare())), st.sampled_from(module.PATTERNS))
def test_the_plain_rule_equals_the_exact_one_where_it_is_used(text, pattern):
    assert module._plain(pattern).findall(text) == module._exact(pattern).findall(text)


def test_every_number_of_unicode_is_known_as_one():
    beyond = [c for c in map(chr, range(0x20000, sys.maxunicode + 1)) if c.isnumeric() and not c.isalpha()]
    assert beyond == []
    assert {"²", "Ⅷ", "½", "①"} <= set(module._other_numbers()) and "一" not in module._other_numbers()
