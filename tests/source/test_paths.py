"""Files are found in a fixed order, links and odd names never hide or double rows, Hive values are decoded."""

from __future__ import annotations

import os
import re

import pytest

from distilbatch.errors import FileError
from distilbatch.source.paths import find_files, parse_hive


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("**/*.parquet", ["B.parquet", "a.parquet", "x/b.parquet", "x/y/c.parquet"]),
        ("*.parquet", ["B.parquet", "a.parquet"]),
        ("*/*.parquet", ["x/b.parquet"]),
        ("x/**/*.parquet", ["x/b.parquet", "x/y/c.parquet"]),
        ("x/**", ["x/b.parquet", "x/notes.txt", "x/y/c.parquet"]),
        ("[ab].parquet", ["a.parquet"]),
        ("**/y/*", ["x/y/c.parquet"]),
        ("nothing", []),
    ],
)
def test_glob_and_order(tmp_path, glob, expected):
    touch(tmp_path, "x/y/c.parquet", "a.parquet", "x/b.parquet", "B.parquet", "x/notes.txt")
    touch(tmp_path, "_tmp/z.parquet", ".hidden/z.parquet", "_metadata.parquet", "x/.z.parquet")
    assert find_files(tmp_path, glob=glob) == (expected, [])


def test_files_with_another_extension_of_parquet_are_counted_aloud(tmp_path, caplog):
    touch(tmp_path, "a.parquet", "x/b.PARQUET", "x/c.pq", "d.Parq", "e.csv", "_tmp/f.pq", "parquet")
    assert find_files(tmp_path, glob="**/*.parquet") == (["a.parquet"], [])
    assert caplog.messages == ["files that look like Parquet but do not match '**/*.parquet': 3 (d.Parq)"]


@pytest.mark.parametrize("glob", ["a*.parquet", "**/*.[pP][aAqQ]*", "y/*.parquet"])
def test_a_glob_that_leaves_out_other_names_is_taken_at_its_word(tmp_path, caplog, glob):
    touch(tmp_path, "a.parquet", "x/b.PARQUET", "x/c.pq", "d.Parq")
    find_files(tmp_path, glob=glob)
    assert caplog.messages == []


def test_a_link_that_leaves_the_folder_is_refused(tmp_path):
    root = tmp_path / "root"
    touch(tmp_path, "outside/a.parquet", "root/a.parquet")
    (root / "b.parquet").symlink_to(tmp_path / "outside/a.parquet")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "notes.txt").symlink_to(tmp_path / "outside/a.parquet")
    found, bad = find_files(root, glob="**/*.parquet")
    assert found == ["a.parquet"]
    assert [(b.path, b.reason) for b in bad] == [
        ("b.parquet", "a symbolic link that leaves the source's folder"),
        ("folder", "a symbolic link that leaves the source's folder"),
    ]


def test_a_link_to_a_listed_file_or_folder_does_not_double_its_rows(tmp_path):
    touch(tmp_path, "2026/a.parquet", "_store/b.parquet")
    (tmp_path / "latest").symlink_to(tmp_path / "2026")
    (tmp_path / "again.parquet").symlink_to(tmp_path / "2026/a.parquet")
    (tmp_path / "b1.parquet").symlink_to(tmp_path / "_store/b.parquet")
    (tmp_path / "b2.parquet").symlink_to(tmp_path / "_store/b.parquet")
    assert find_files(tmp_path, glob="**/*.parquet") == (["2026/a.parquet", "b1.parquet"], [])


def test_what_cannot_be_followed_or_named_is_reported(tmp_path):
    (tmp_path / "broken.parquet").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.parquet").symlink_to(tmp_path / "loop.parquet")
    os.mkfifo(tmp_path / "pipe.parquet")
    (tmp_path / "dir.parquet").mkdir()
    touch(tmp_path, os.fsdecode(b"bad\xff.parquet"))
    found, bad = find_files(tmp_path, glob="**/*.parquet")
    assert found == []
    assert [(b.path, b.reason.split(":")[0]) for b in bad] == [
        ("bad\\xff.parquet", "the file name is not UTF-8"),
        ("broken.parquet", "a symbolic link that leads nowhere"),
        ("loop.parquet", "a symbolic link that leads nowhere"),
        ("pipe.parquet", "not a regular file"),
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_reported(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    assert find_files(tmp_path, glob="**")[1][0].path == "closed/"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.parquet", ()),
        ("x=1.parquet", ()),
        ("dt=2026-11-20/lang=en/a.parquet", (("dt", "2026-11-20"), ("lang", "en"))),
        ("plain/dt=1/other/a.parquet", (("dt", "1"),)),
        ("dt=__HIVE_DEFAULT_PARTITION__/a.parquet", (("dt", None),)),
        ("dt=/a.parquet", (("dt", ""),)),
        ("=x/a.parquet", ()),
        ("k=a%3Db%2F%20%C3%A9/a.parquet", (("k", "a=b/ é"),)),
        ("k=a=b/a.parquet", (("k", "a=b"),)),
        ("%6B=1/a.parquet", (("k", "1"),)),
    ],
)
def test_hive_values(path, expected):
    assert parse_hive(path) == expected


@pytest.mark.parametrize(
    ("path", "message"), [("a=1/a=2/x", "'a' twice"), ("a=%FF/x", "expected UTF-8 in percent-encoded folder names")]
)
def test_ambiguous_hive_paths_are_refused(path, message):
    with pytest.raises(FileError, match=re.escape(message)):
        parse_hive(path)
