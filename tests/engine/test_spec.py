from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import Workspace

from distilbatch.engine.driver import resolve_run
from distilbatch.engine.planning import build_plan, list_source
from distilbatch.engine.spec import HeadSpec, max_row_bytes


def head(task: str = "text-classification", **changes: int) -> HeadSpec:
    return HeadSpec("topic", task, Path("model"), (("text", "text"),), **changes)


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        ([head()], 512 * 8),
        ([head(max_length=64)], 64 * 8),
        ([head(max_length=64), head(max_length=128)], 128 * 8),
        ([head(max_length=64), head()], 512 * 8),
        ([head(max_length=64, stride=8)], 100_000),
        ([head(max_length=64), head(stride=0)], 100_000),
        ([head("question-answering", max_length=384)], 100_000),
    ],
)
def test_only_what_heads_read_of_a_text_makes_work(heads, expected):
    assert max_row_bytes(heads, max_doc_bytes=100_000) == expected
    assert max_row_bytes(heads, max_doc_bytes=100) == 100


def test_a_plan_weighs_what_heads_read(tmp_path):
    workspace = Workspace(tmp_path, rows_per_shard=1000)
    texts = [f"{row}:" + os.urandom(10_000).hex() for row in range(400)]
    pq.write_table(pa.table({"id": range(400), "text": texts}), workspace.source / "a.parquet", use_dictionary=False)
    job = workspace.job()
    assert len(build_plan(job, list_source(job), ()).shards) == 1  # 8 MB of texts, of which 1.6 MB are read
    windows = {**workspace.config(), "annotate": [{**workspace.config()["annotate"][0], "stride": 16}]}
    job = resolve_run(windows)
    assert len(build_plan(job, list_source(job), ()).shards) == 4
