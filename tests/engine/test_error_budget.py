from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from engine_samples import assert_exact, config_of, query, random_texts, write_source

import distilbatch
from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import DeathRecord
from distilbatch.commit.store import LocalStore
from distilbatch.engine.driver import Driver, resolve_run
from distilbatch.engine.planning import obtain_plan
from distilbatch.errors import DataError

NIGHTS = ("2026-01-01", "2026-01-02")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "in", random_texts(100, most_words=5), group_rows=50)


@pytest.fixture
def config(source, tmp_path, checkpoint):
    """A job over 100 rows in two shards."""

    def write(most: float | None, **sections: Any) -> dict[str, Any]:
        config = config_of(source, tmp_path / "out", checkpoint, shard_rows=50)
        config["sink"] |= {} if most is None else {"max_error_share": most}
        config["source"] |= sections.get("source", {})
        return config

    return write


def spoil(config: dict[str, Any], errors: dict[int, str], *, day: str | None = None) -> None:
    """Plan a run whose rows have these errors."""
    job = resolve_run(config, day=day)
    plan = obtain_plan(job, LocalStore())
    ledger = RunLedger(LocalStore(), job.layout)
    for row, error in errors.items():
        index = next(shard.index for shard in plan.shards if shard.row_start <= row < shard.row_stop)
        ledger.record_crashing_rows(
            DeathRecord(index=index, plan_id=plan.plan_id, rows=(row,), message="", error=error)
        )


def never(job, spec):
    raise AssertionError("nothing was to be computed")


def test_a_run_over_its_limit_is_not_published_and_says_why(config, source, tmp_path):
    errors = {3: "slow for 3 s", 4: "dies", 60: "slow for 60 s", 61: "slow for 61 s", 70: "odd", 80: "even", 81: "dies"}
    limited = config(0.05)
    spoil(limited, errors)
    with pytest.raises(DataError) as caught:
        distilbatch.run(limited)
    error = caught.value
    control = tmp_path / "out" / "_distilbatch" / "job" / "once"
    assert error.exit_code == 3
    assert error.what == "job/once: too many rows could not be annotated, nothing was published"
    assert error.expected == "at most 5 % error rows (sink.max_error_share)"
    assert error.found == "7 %, 7 of 100 rows: 3 x slow for 3 s | 2 x dies | 1 x odd | and 1 more"
    assert f"look at them in {control}/dead_letter.parquet" in error.remedy
    assert "-s sink.max_error_share=0.07 publishes" in error.remedy
    assert not (tmp_path / "out" / "data").exists()
    assert not (control / "commit.json").exists()
    texts = pq.read_table(source / "part-0.parquet").column("text").to_pylist()
    letter = query("SELECT source_row, text, error FROM read_parquet(?) ORDER BY 1", control / "dead_letter.parquet")
    assert letter == [(row, texts[row], error) for row, error in errors.items()]


def test_a_higher_limit_publishes_what_was_computed(config, source, tmp_path):
    limited = config(0.01)
    spoil(limited, {5: "dies", 99: "dies"})
    for _ in range(2):
        with pytest.raises(DataError, match=r"found 2 %, 2 of 100 rows: 2 x dies"):
            distilbatch.run(limited)
    (tmp_path / "in").rename(tmp_path / "away")  # nothing of the source is needed any more
    (tmp_path / "in").mkdir()
    report = Driver(resolve_run(limited, overrides=["sink.max_error_share=0.02"]), make_executor=never).run()
    assert (report.state, report.rows_this_attempt, report.statuses["error"]) == ("committed", 0, 2)
    assert_exact(tmp_path / "out", tmp_path / "away")


@pytest.mark.parametrize(("most", "published"), [(0.29, True), (0.2899, False), (0, False), (1, True), (None, True)])
def test_a_run_exactly_at_its_limit_or_without_one_is_published(config, source, tmp_path, most, published):
    limited = config(most)
    spoil(limited, dict.fromkeys(range(29), "dies"))
    if published:
        assert distilbatch.run(limited).statuses["error"] == 29
        assert_exact(tmp_path / "out", source)
    else:
        with pytest.raises(DataError, match="found 29 %, 29 of 100 rows"):
            distilbatch.run(limited)
        assert not (tmp_path / "out" / "data").exists()


def test_without_error_rows_even_none_may_be(config):
    assert distilbatch.run(config(0)).state == "committed"


def test_rows_of_a_damaged_file_count(config, source):
    path = source / "part-0.parquet"
    chunk = pq.read_metadata(path).row_group(1).column(1)
    with path.open("r+b") as file:
        file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        file.write(b"\xff" * chunk.total_compressed_size)
    with pytest.raises(DataError, match=r"found 50 %, 50 of 100 rows: 50 x row group 1 of part-0\.parquet cannot be"):
        distilbatch.run(config(0.4, source={"on_bad_file": "quarantine"}))


def test_a_night_over_its_limit_stops_no_later_one(config, source, tmp_path):
    limited = config(0.01)
    spoil(limited, {5: "dies", 6: "dies"}, day=NIGHTS[0])
    with pytest.raises(DataError, match=f"job/{NIGHTS[0]}: too many rows"):
        distilbatch.run(limited, day=NIGHTS[0])
    pq.write_table(pq.read_table(source / "part-0.parquet").slice(0, 10), source / "more.parquet")
    for state in ("committed", "already committed"):
        with pytest.raises(DataError, match=f"{NIGHTS[1]} is {state}, but the earlier job/{NIGHTS[0]} cannot be fin.*"):
            distilbatch.run(limited, day=NIGHTS[1])
    rows = query("SELECT count(*) FROM read_parquet(?)", tmp_path / "out" / "data" / "*.parquet")
    assert rows == [(10,)]
    report = distilbatch.run(limited, day=NIGHTS[1], overrides=["sink.max_error_share=0.02"])
    assert [(earlier.run_key, earlier.rows_this_attempt) for earlier in report.earlier] == [(f"job/{NIGHTS[0]}", 0)]
