"""A mistake that only workers used to see is refused before anything is written, and can be corrected."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_job
from fakes import Workspace
from tiny_models import write_model

from distilbatch.engine.driver import run
from distilbatch.engine.forecast import plan
from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model.modeling import DistilBertForMaskedLM


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny job whose source has a column of floats too."""
    tiny_job.write_checkpoint(tmp_path / "model")
    columns = {"id": [1, 2, 3], "group": ["a", "b", "a"], "text": ["red one", "blue", None], "price": [0.5, 1.5, 2.5]}
    (tmp_path / "source").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "source" / "a.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["annotate.0.stride=600"], "the stride of text windows is too large"),
        (["annotate.0.max_length=600"], "annotation 'answer': max_length; expected . to 16"),
        (["annotate.0.text_pair=price"], "column 'price'; expected text; found double"),
        (["annotate.0.task=feature-extraction", "annotate.0.truncate_dim=33"], "truncate_dim"),
        (["sink.passthrough=[id, price]", "sink.partition_by=[price]"], "'price'; .* found type double"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written_and_can_be_corrected(folder, overrides, message):
    config = tiny_job.job_config(folder)
    if any("feature" in item for item in overrides):
        write_model(DistilBertForMaskedLM, folder / "model", seed=1)
    for tell in (run, plan):
        with pytest.raises(ConfigError, match=message):
            tell(config, overrides=overrides)
    assert not (folder / "out").exists()


def test_the_corrected_command_goes_on(folder):
    config = tiny_job.job_config(folder)
    with pytest.raises(ConfigError, match="stride"):
        run(config, overrides=["annotate.0.stride=600"])
    assert run(config).num_rows == 3


def test_targets_that_are_no_words_are_refused(folder):
    write_model(DistilBertForMaskedLM, folder / "model", seed=1)
    config = tiny_job.job_config(folder)
    config["annotate"] = [
        {"name": "answer", "task": "fill-mask", "model": str(folder / "model"), "targets": ["river", "\x01"]}
    ]
    with pytest.raises(ConfigError, match="targets; expected words of the vocabulary"):
        run(config)
    assert not (folder / "out").exists()


def test_a_tokenizer_of_another_model_is_refused(folder):
    with (folder / "model" / "vocab.txt").open("a") as vocabulary:
        vocabulary.write("more\n")
    with pytest.raises(CheckpointError, match="tokenizer and model do not belong together"):
        run(tiny_job.job_config(folder))
    assert not (folder / "out").exists()


def test_what_a_hook_makes_of_the_columns_is_left_to_the_workers(folder):
    """``before`` makes a text of the price; ``after`` a text of the column that rows are partitioned by."""
    pipeline = folder / "pipeline.py"
    pipeline.write_text(
        "import distilbatch\n"
        "import pyarrow as pa\n"
        "def cast(batch, name):\n"
        "    column = batch.column(name).cast(pa.string())\n"
        "    return batch.set_column(batch.schema.get_field_index(name), name, column)\n"
        "def before(batch):\n"
        "    return cast(batch, 'price')\n"
        "def after(batch):\n"
        "    return cast(batch, 'share')\n"
        "PIPELINE = distilbatch.Pipeline(\n"
        "    annotate=[distilbatch.TextClassification(name='answer', text_pair='price')], before=before, after=after)\n"
    )
    table = pq.read_table(folder / "source" / "a.parquet")
    pq.write_table(table.append_column("share", table.column("price")), folder / "source" / "a.parquet")
    config = tiny_job.job_config(folder, sink={"passthrough": ["id", "share"], "partition_by": ["share"]})
    config |= {"annotate": [], "pipeline": str(pipeline), "models": {"answer": str(folder / "model")}}
    assert run(config).num_rows == 3
    assert (folder / "out" / "data" / "share=0.5").is_dir()


def test_too_many_partitions_name_the_setting_to_change(tmp_path):
    tiny_job.write_checkpoint(tmp_path / "model")
    tiny_job.write_source(tmp_path / "source" / "a.parquet", 70)
    config = tiny_job.job_config(tmp_path, sink={"partition_by": ["id"]}, engine={"shard_rows": 70})
    with pytest.raises(ConfigError, match=r"partition_by id gives too many files; .* or lower engine\.shard_rows"):
        run(config)


def test_the_checks_need_no_torch(tmp_path):
    workspace = Workspace(tmp_path)
    workspace.write_file("a.parquet", 3)
    program = (
        "import sys; from distilbatch.engine.driver import resolve_run; from distilbatch.engine import planning\n"
        f"job = resolve_run({workspace.config()!r})\n"
        "from distilbatch.engine.feasible import refuse_impossible\n"
        "refuse_impossible(job, planning.list_source(job)); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])
