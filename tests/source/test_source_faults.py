"""Damage is a fact about a file; storage that does not answer and memory that is short are not."""

from __future__ import annotations

import errno
import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distilbatch.errors import DataError, FileError, ResourceError, SetupError
from distilbatch.source import faults, reader
from distilbatch.source.faults import patiently, reading
from distilbatch.source.listing import list_fragments
from distilbatch.source.reader import read_shard

NETWORK = [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EACCES]
MEMORY = [errno.ENOMEM, errno.EMFILE]


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses that were made; none of them takes any time."""
    made = []
    monkeypatch.setattr(faults.time, "sleep", made.append)
    return made


class Storage:
    """Hands out files whose reads fail while ``failures`` is above 0, from the byte ``start`` to the byte ``stop``."""

    def __init__(self) -> None:
        self.failures, self.start, self.stop = 0, 0, 1 << 60
        self.error: BaseException = OSError(errno.EIO, os.strerror(errno.EIO))

    def open(self, path: str) -> pa.PythonFile:
        storage = self

        class Flaky(io.FileIO):
            def read(self, size: int = -1, /) -> bytes:
                if storage.failures and storage.start <= self.tell() < storage.stop:
                    storage.failures -= 1
                    raise storage.error
                return super().read(size)

        return pa.PythonFile(Flaky(path), mode="r")


@pytest.fixture
def storage(monkeypatch):
    flaky = Storage()
    monkeypatch.setattr(pa, "OSFile", flaky.open)
    return flaky


@pytest.fixture
def source(tmp_path, storage):
    """Four row groups of 100 rows; the storage fails in the pages of the second one, if at all."""
    texts = [f"{i}:" + os.urandom(40).hex() for i in range(400)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=100, use_dictionary=False)
    chunk = pq.read_metadata(tmp_path / "a.parquet").row_group(1).column(0)
    storage.start, storage.stop = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
    return tmp_path, texts


def listed(root, on_bad_file="quarantine"):
    return list_fragments(
        root, text_column="text", columns=(), partitioning="hive", glob="**/*.parquet", on_bad_file=on_bad_file
    )


def read(root, on_bad_rows):
    found = listed(root)
    fragment = found.fragments[0]
    return list(
        read_shard(root, fragment, 0, 400, schema=found.schema, text_column="text", batch_rows=30,
                   on_bad_rows=on_bad_rows)
    )  # fmt: skip


@pytest.mark.parametrize("on_bad_rows", [reader.FAIL, reader.ERROR_ROWS])
@pytest.mark.parametrize("number", [*NETWORK, *MEMORY], ids=errno.errorcode.get)
def test_a_fault_that_passes_costs_no_row(source, storage, pauses, number, on_bad_rows):
    root, texts = source
    storage.failures, storage.error = 2, OSError(number, os.strerror(number))
    batches = read(root, on_bad_rows)
    assert [text for item in batches for text in item.batch.column("text").to_pylist()] == texts
    assert {item.error for item in batches} == {""}
    assert storage.failures == 0
    assert pauses == [0.5, 2.0]


@pytest.mark.parametrize("on_bad_rows", [reader.FAIL, reader.ERROR_ROWS])
@pytest.mark.parametrize(
    ("number", "kind"), [*((n, SetupError) for n in NETWORK), *((n, ResourceError) for n in MEMORY)]
)
def test_a_fault_that_stays_ends_the_shard_and_never_makes_error_rows(source, storage, number, kind, on_bad_rows):
    root, _ = source
    storage.failures, storage.error = 1000, OSError(number, os.strerror(number))
    with pytest.raises(kind, match=rf"source file a.parquet cannot be read now; found .*{os.strerror(number)}"):
        read(root, on_bad_rows)


def test_memory_that_is_short_is_no_damage(source, storage):
    root, _ = source
    storage.failures, storage.error = 1000, pa.lib.ArrowMemoryError("malloc of size 33554432 failed")
    with pytest.raises(ResourceError, match="found malloc of size 33554432 failed; raise the limit"):
        read(root, reader.ERROR_ROWS)


def test_damage_is_read_again_at_once_and_then_set_aside(source, storage, pauses):
    root, texts = source
    storage.failures, storage.error = 1000, pa.ArrowInvalid("a checksum that does not match")
    batches = read(root, reader.ERROR_ROWS)
    found = [text for item in batches for text in item.batch.column("text").to_pylist()]
    assert found == [None if 100 <= row < 200 else text for row, text in enumerate(texts)]
    assert pauses == [0]


def test_a_fault_while_the_file_is_opened_passes_too(source, storage):
    root, _ = source
    found = listed(root)
    storage.start, storage.stop, storage.failures = 0, 1 << 60, 2
    rows = read_shard(root, found.fragments[0], 0, 400, schema=found.schema, text_column="text")
    assert sum(item.batch.num_rows for item in rows) == 400


def test_a_file_that_cannot_be_listed_now_is_not_left_out(source, storage):
    root, _ = source
    pq.write_table(pa.table({"text": ["x"]}), root / "b.parquet")
    storage.start, storage.stop, storage.failures = 0, 1 << 60, 2
    assert [fragment.path for fragment in listed(root).fragments] == ["a.parquet", "b.parquet"]
    storage.failures = 1000
    with pytest.raises(SetupError, match=r"source file a.parquet cannot be read now; found Input/output error"):
        listed(root)


def test_a_file_that_may_not_be_opened_is_a_bad_file(source, monkeypatch):
    root, _ = source

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(pa, "OSFile", refuse)
    with pytest.raises(DataError, match=r"a\.parquet: Permission denied"):
        listed(root, "fail")


def test_what_pyarrow_says_of_damage_has_no_errno():
    with pytest.raises(FileError, match="ZSTD decompression failed"), reading("a.parquet"):
        raise OSError("ZSTD decompression failed: Data corruption detected")


def test_patience_ends(pauses):
    calls = []

    def fail():
        calls.append(1)
        raise SetupError("no answer")

    with pytest.raises(SetupError, match="no answer"):
        patiently(fail)
    assert len(calls) == 3
    assert pauses == [0.5, 2.0]
