"""The sizes of timed commands as they are written."""

from __future__ import annotations

import pytest

from distilbatch.bench.options import JobSize
from distilbatch.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("", ()),
        ("7", (JobSize(7, "local"), JobSize(7, "ray"))),
        ("7:ray", (JobSize(7, "ray"),)),
        ("1000:local, 50000:ray", (JobSize(1000, "local"), JobSize(50_000, "ray"))),
    ],
)
def test_sizes_are_rows_with_or_without_an_engine(text, sizes):
    assert JobSize.parse(text) == sizes


@pytest.mark.parametrize("text", ["0", "-1", "many", "7:spark", "7,", "1.5", "7:ray:ray"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ConfigError, match=r"^--jobs; expected ROWS"):
        JobSize.parse(text)
