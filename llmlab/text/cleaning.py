"""Bring text into one spelling: the same words should be the same characters."""

from __future__ import annotations

import html
import re
import unicodedata

from llmlab.arguments import flag, string

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # what colours a terminal
_TAG = re.compile(r"<!--.*?-->|<(script|style)\b.*?</\1\s*>|</?[a-zA-Z][^<>]*>", re.DOTALL | re.IGNORECASE)
_BLANKS_AT_END = re.compile(r"[^\S\n]+$", re.MULTILINE)
_MANY_NEWLINES = re.compile(r"\n{3,}")


def clean(text: str, markup: bool = False) -> str:
    """Return text in one spelling: Unicode NFC, "\\n" between lines, nothing invisible, no trailing blanks.

    Two blank lines or more become one. Leading blanks stay: code needs them. markup: take out HTML tags, too, and read
    entities such as &amp; as their characters.
    """
    string("clean", "text", text)
    if flag("clean", "markup", markup):
        text = html.unescape(_TAG.sub("", text))
    text = _ESCAPE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", text)
    # Control (Cc) and format (Cf) characters: NUL, byte-order marks, zero-width blanks ... but not tab and newline.
    text = "".join(c for c in text if c in "\n\t" or c.isprintable() or unicodedata.category(c) not in ("Cc", "Cf"))
    return _MANY_NEWLINES.sub("\n\n", _BLANKS_AT_END.sub("", text)).strip("\n")
