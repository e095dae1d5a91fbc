"""The demo's documents: drawn by quota, the same every time; and the file that ships is such a draw."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilbatch.demo import sample
from distilbatch.demo.sample import Quota, draw, main
from distilbatch.errors import DataError

SHIPPED = Path(sample.__file__).with_name("documents.parquet")
QUOTA = Quota(texts=5, other_scripts=2, nulls=1, most_used=10)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Twenty Latin texts by falling use, a mail address on top, and a few Chinese and null texts in each registry."""
    texts = ["write to me@example.org", *(f"text {n}" for n in range(20)), "中文", "文字", "русский", None, None]
    for name, (use, order) in sample.REGISTRIES.items():
        folder = tmp_path / f"registry={name}"
        folder.mkdir()
        uses = [n if order == "ascending" else -n for n in range(len(texts))]
        ids = [f"{name}/{n}" for n in range(len(texts))]
        pq.write_table(pa.table({"id": ids, use: uses, "text": texts}), folder / "part.parquet")
    return tmp_path


def test_every_registry_gives_its_quota_from_the_most_used(packages):
    rows = draw(packages, seed=0, quota=QUOTA).to_pylist()
    for name in sample.REGISTRIES:
        texts = [row["text"] for row in rows if row["registry"] == name]
        latin = [text for text in texts if text is not None and text.startswith("text ")]
        assert len(texts) == 8
        assert texts.count(None) == 1
        assert len(latin) == 5
        assert all(int(text.removeprefix("text ")) < 10 for text in latin)


def test_mail_addresses_are_never_drawn(packages):
    rows = draw(packages, seed=0, quota=Quota(texts=20, other_scripts=3, nulls=2, most_used=100)).to_pylist()
    assert len(rows) == 50
    assert not any("@" in (row["text"] or "") for row in rows)


def test_the_seed_decides_the_rows_and_their_order(packages):
    assert draw(packages, seed=1, quota=QUOTA) == draw(packages, seed=1, quota=QUOTA)
    assert draw(packages, seed=1, quota=QUOTA) != draw(packages, seed=2, quota=QUOTA)


def test_too_few_rows_are_an_error_that_says_of_what(packages):
    with pytest.raises(DataError, match="npm: null texts: too few rows to draw from; expected 3 or more; found 2"):
        draw(packages, seed=0, quota=Quota(texts=5, other_scripts=2, nulls=3))


def test_the_shipped_documents_are_small_real_input():
    file = pq.ParquetFile(SHIPPED)
    rows = file.read().to_pylist()
    assert file.schema_arrow.names == ["id", "registry", "text"]
    assert SHIPPED.stat().st_size < 400_000
    assert [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)] == [400] * 6
    assert len({row["id"] for row in rows}) == len(rows) == 2400
    assert sum(row["text"] is None for row in rows) == 80
    assert sum(bool(re.search("[\u0400-\u04ff\u3040-\u9fff\uac00-\ud7af]", row["text"] or "")) for row in rows) >= 100
    assert {row["id"].split("/")[0] for row in rows} == {"npm", "pypi"}


def test_the_shipped_documents_are_what_the_command_writes(shared_data, tmp_path):
    main(["--packages", str(shared_data / "packages"), "--out", str(tmp_path / "documents.parquet")])
    assert pq.read_table(tmp_path / "documents.parquet").equals(pq.read_table(SHIPPED))
