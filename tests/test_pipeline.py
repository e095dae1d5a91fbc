"""Pipelines: what they refuse, and what loading a pipeline file does and says."""

from __future__ import annotations

import pickle
import sys
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pytest

from distilbatch.config import TextClassification
from distilbatch.errors import ConfigError, DataError
from distilbatch.pipeline import Pipeline, load_pipeline, pipeline_fingerprint

HEAD = "from distilbatch.config import TextClassification\nfrom distilbatch.pipeline import Pipeline\n"
TOPIC = TextClassification(name="topic")


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "job.py") -> Path:
        Path(name).write_text(text, encoding="utf-8")
        return Path(name)

    return write


def test_a_pipeline_file_is_run_and_its_pipeline_returned(write):
    pipeline = load_pipeline(write(HEAD + """
import pyarrow as pa

def upper(batch: pa.RecordBatch) -> pa.RecordBatch:
    return batch.rename_columns([name.upper() for name in batch.schema.names])

PIPELINE = Pipeline(annotate=[TextClassification(name="topic", top_k=2)], before=upper)
"""))
    assert pipeline.annotate == (TextClassification(name="topic", top_k=2),)
    assert pipeline.before(pa.record_batch({"a": [1]})).schema.names == ["A"]
    assert pipeline.after is None


def test_two_files_of_one_name_do_not_meet_and_leave_no_trace(write, tmp_path):
    before = set(sys.modules)
    (tmp_path / "other").mkdir()
    names = [
        load_pipeline(write(HEAD + f"PIPELINE = Pipeline(annotate=[TextClassification(name='{name}')])", path))
        .annotate[0].name
        for name, path in [("a", "job.py"), ("b", "other/job.py")]
    ]
    assert names == ["a", "b"]
    assert set(sys.modules) == before
    assert list(tmp_path.rglob("*.pyc")) == []


def test_an_edited_file_is_read_again(write):
    for name in ("a", "b"):
        text = HEAD + f"PIPELINE = Pipeline(annotate=[TextClassification(name='{name}')])"
        assert load_pipeline(write(text)).annotate[0].name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "job.py: no PIPELINE; end the file with PIPELINE = Pipeline(annotate=[...])"),
        ("PIPELINE = 3", "job.py: PIPELINE; expected a distilbatch.Pipeline; found int"),
        ("x = 1\nif x\n", "job.py:2: not valid Python: expected ':'"),
        ("x = 1\ndef f():\n    return nope\nf()\n", "job.py:3: NameError: name 'nope' is not defined"),
        ("import no_such_module\n", "job.py:1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise Exception('settings missing')\n", "job.py:1: Exception: settings missing"),
        ("\nassert 1 == 2\n", "job.py:2: AssertionError"),
        (HEAD + "PIPELINE = Pipeline(annotate=[TextClassification(name='a')])\nimport sys\nsys.exit(0)\n",
         "job.py:5: it ends the program (SystemExit: 0); expected a file that declares PIPELINE"),
        ("def f():\n    raise SystemExit('bye')\nf()\n",
         "job.py:2: it ends the program (SystemExit: bye); expected a file that declares PIPELINE"),
        (HEAD + "PIPELINE = Pipeline(annotate=[])\n",
         "job.py:3: Pipeline.annotate is empty; expected at least one annotation"),
        (HEAD + "PIPELINE = Pipeline(annotate=[\n    TextClassification(nam='a', top_k=0)])\n",
         "job.py:4: TextClassification: name: required key is missing; top_k: expected a whole number of at least 1, "
         "found the number 0; nam: unknown key (did you mean 'name'?)"),
    ],
)
def test_a_wrong_pipeline_file_is_named_with_its_line(write, text, message):
    with pytest.raises(ConfigError) as caught:
        load_pipeline(write(text))
    assert str(caught.value) == message


def test_an_error_of_the_library_inside_a_pipeline_file_keeps_its_exit_code(write):
    with pytest.raises(DataError, match=r"^no rows$"):
        load_pipeline(write("from distilbatch.errors import DataError\nraise DataError('no rows')\n"))


def test_ctrl_c_inside_a_pipeline_file_stays_one(write):
    with pytest.raises(KeyboardInterrupt):
        load_pipeline(write("raise KeyboardInterrupt\n"))


def test_a_missing_file_is_named(write, tmp_path):
    with pytest.raises(ConfigError, match=r"^nowhere\.py: no such pipeline file$"):
        load_pipeline(Path("nowhere.py"))
    with pytest.raises(ConfigError, match="cannot read the pipeline file: Is a directory"):
        pipeline_fingerprint(tmp_path)
    Path("null.py").write_bytes(b"a\0b")
    with pytest.raises(ConfigError, match=r"null\.py:?1?: not valid Python"):
        load_pipeline(Path("null.py"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"annotate": TOPIC}, "Pipeline.annotate; expected a list; found TextClassification"),
        ({"annotate": "topic"}, "Pipeline.annotate; expected a list; found str"),
        ({"annotate": ["topic"]},
         "Pipeline.annotate.0; expected an annotation such as TextClassification(name=...); found str"),
        ({"annotate": [TOPIC, TOPIC]}, "Pipeline.annotate.1: the name 'topic' is taken by another annotation"),
        ({"annotate": [TOPIC], "before": 3}, "Pipeline.before; expected a function; found int"),
        ({"annotate": [TOPIC], "after": "x"}, "Pipeline.after; expected a function; found str"),
    ],
)
def test_a_wrong_pipeline_is_refused(arguments, message):
    with pytest.raises(ConfigError) as caught:
        Pipeline(**arguments)
    assert str(caught.value) == message


def test_a_pipeline_without_hooks_can_be_sent_to_another_process():
    pipeline = Pipeline(annotate=[TOPIC])
    assert pickle.loads(pickle.dumps(pipeline)) == pipeline


def test_the_fingerprint_is_that_of_the_text(write):
    path = write("PIPELINE = 1\n")
    assert pipeline_fingerprint(path) == sha256(b"PIPELINE = 1\n").hexdigest()
    assert pipeline_fingerprint(write("PIPELINE = 2\n")) != sha256(b"PIPELINE = 1\n").hexdigest()
