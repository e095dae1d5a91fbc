"""Reading configs: merging, overrides, the environment, and every message a wrong file gets."""

from __future__ import annotations

import contextlib
import io
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilbatch.config import Config, Engine, load_config, load_config_files, show_config
from distilbatch.errors import ConfigError

GOOD = """\
version: 1
job: {name: topics}
source: {path: in, columns: {text: body}}
annotate:
  - {name: topic, task: text-classification, model: m, top_k: 3}
sink: {path: out, passthrough: [id, registry], partition_by: [registry]}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "job.yaml") -> str:
        Path(name).write_text(textwrap.dedent(text), encoding="utf-8")
        return name

    return write


def lines_of(source, **arguments) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(source, environ=arguments.pop("environ", {}), **arguments)
    return str(caught.value).split("\n")


def test_a_good_file_becomes_a_config_with_defaults(write):
    config = load_config(write(GOOD), environ={})
    assert config.job.name == "topics"
    assert config.source.columns.text == "body"
    assert config.annotate[0].top_k == 3
    assert config.sink.passthrough == ("id", "registry")
    assert (config.sink.compression, config.sink.compression_level) == ("zstd", 3)
    assert config.engine == Engine()


def test_a_mapping_loads_like_a_file(write):
    section = {"path": "in"}
    mapping = {"source": section, "sink": {"path": "out"},
               "annotate": [{"name": "topic", "task": "text-classification", "model": "m"}]}
    config = load_config(mapping, overrides=["source.path=other"], environ={})
    assert config.source.path == "other"
    assert section == {"path": "in"}
    assert lines_of({**mapping, "sinc": 1}) == ["sinc: unknown key (did you mean 'sink'?)"]


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("sink: {path: out, compresion: zstd}",
         ["job.yaml:6: sink.compresion: unknown key (did you mean 'compression'?)"]),
        ("sink: {path: out, zzz: 1}",
         ["job.yaml:6: sink.zzz: unknown key (expected one of type, path, passthrough, partition_by, compression, "
          "compression_level, row_group_rows, max_error_share)"]),
        ("sink: {}", ["job.yaml:6: sink.path: required key is missing"]),
        ("sink: {path: }", ["job.yaml:6: sink.path: expected a string, found nothing"]),
        ("sink: {path: ''}", ["job.yaml:6: sink.path: expected a path, found ''"]),
        ("sink: out", ["job.yaml:6: sink: expected a mapping, found 'out'"]),
        ("sink:", ["job.yaml:6: sink: expected a mapping, found nothing"]),
        ("sink: {path: out, passthrough: id}", ["job.yaml:6: sink.passthrough: expected a list, found 'id'"]),
        ("sink: {path: out, passthrough: [id, false]}",
         ["job.yaml:6: sink.passthrough.1: expected a string, found false (put it in quotes)"]),
        ("sink: {path: out, passthrough: [id, id]}", ["job.yaml:6: sink.passthrough.1: 'id' is listed twice"]),
        ("sink: {path: out, passthrough: [_row]}",
         ["job.yaml:6: sink.passthrough.0: '_row' is written by distilbatch itself"]),
        ("sink: {path: out, passthrough: [topic]}",
         ["job.yaml:6: sink.passthrough.0: 'topic' is also the name of an annotation; rename one of them"]),
        ("sink: {path: out, partition_by: [day]}",
         ["job.yaml:6: sink.partition_by.0: 'day' must be listed in sink.passthrough as well"]),
        ("sink: {path: out, compression: snappy, compression_level: 3}",
         ["job.yaml:6: sink.compression_level: only zstd has levels, and sink.compression is 'snappy'"]),
        ("sink: {path: out, compression: gzip}",
         ["job.yaml:6: sink.compression: expected 'zstd', 'snappy' or 'none', found 'gzip'"]),
        ("sink: {type: delta, path: out}", ["job.yaml:6: sink.type: expected 'parquet', found 'delta'"]),
        ("sink: {path: 'o/{{ day }}'}",
         ["job.yaml:6: sink.path: unknown template '{{ day }}'; expected {{ date }}, {{ date:%Y/%m/%d }} or "
          "{{ window }}"]),
    ],
)
def test_a_wrong_sink_is_named_with_file_line_and_key(write, text, messages):
    assert lines_of(write(GOOD[: GOOD.index("sink:")] + text)) == messages


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("engine: {type: rya}", ["job.yaml:7: engine.type: expected 'local' or 'ray', found 'rya'"]),
        ("engine: {type: [ray]}", ["job.yaml:7: engine.type: expected 'local' or 'ray', found a list"]),
        ("engine: ray", ["job.yaml:7: engine: expected a mapping, found 'ray'"]),
        ("engine: {type: ray, actor: 2}", ["job.yaml:7: engine.actor: unknown key (did you mean 'actors'?)"]),
        ("engine: {type: ray, ray: 2}\n", None),
        ("engine:\n  type: ray\n  actors: 0",
         ["job.yaml:9: engine.actors: expected 'auto' or a whole number of at least 1, found the number 0"]),
        ("engine: {type: ray, actors: true}",
         ["job.yaml:7: engine.actors: expected 'auto' or a whole number of at least 1, found true"]),
        ("engine: {type: ray, gpus_per_actor: 1.5}",
         ["job.yaml:7: engine.gpus_per_actor: expected 'auto', a fraction of at most 1, or a whole number, "
          "found the number 1.5"]),
        ("engine: {type: ray, cpus_per_actor: 0}",
         ["job.yaml:7: engine.cpus_per_actor: expected 'auto' or a number above 0, found the number 0"]),
        ("engine: {device: 'cuda:'}",
         ["job.yaml:7: engine.device: expected 'auto', 'cpu', 'cuda' or 'cuda:<index>', found 'cuda:'"]),
        ("engine: {max_batch_tokens: 15}",
         ["job.yaml:7: engine.max_batch_tokens: expected 'auto' or a whole number of at least 16, "
          "found the number 15"]),
        ("engine: {sort_buffer_rows: 4096.5}",
         ["job.yaml:7: engine.sort_buffer_rows: expected a whole number of at least 1, found the number 4096.5"]),
        ("engine: {shutdown_grace_s: .nan}",
         ["job.yaml:7: engine.shutdown_grace_s: expected a number of at least 0, found the number nan"]),
        ("job: {name: again}", ["job.yaml:7: job: key given twice, first on line 2"]),
        ("true: 1", ["job.yaml:7: expected a text key, found true; put it in quotes"]),
        ("on: 1", ["job.yaml:7: on: unknown key (expected one of version, job, source, annotate, pipeline, models, "
                   "sink, engine)"]),
        ("~: 1", ["job.yaml:7: expected a text key, found ~; put it in quotes"]),
        ("<<: {version: 1}",
         ["job.yaml:7: merge keys ('<<') are not supported; put the shared part in a file of its own"]),
        ("pipeline: p.py", ["job.yaml:7: pipeline: a config has either 'pipeline' or 'annotate', not both"]),
        ("models: {topik: m}", ["job.yaml:7: models: no annotation is named 'topik'; there are: topic"]),
        ("models: {topic: 'm/{{ date }}'}",
         ["job.yaml:7: models.topic: templates are expanded in source.path and sink.path only; write the value out"]),
        ("models: {topic: ''}", ["job.yaml:7: models.topic: expected a path, found ''"]),
        ("models: {topic: 5}",
         ["job.yaml:7: models.topic: expected a folder, a hub id, or a mapping with 'model' and 'revision', found the "
          "number 5"]),
        ("models: {topic: {revision: v1}}", ["job.yaml:7: models.topic.model: required key is missing"]),
        ("models: {topic: {model: a/b, revison: v1}}",
         ["job.yaml:7: models.topic.revison: unknown key (did you mean 'revision'?)"]),
        ("models: {topic: {model: a/b, revision: 12}}",
         ["job.yaml:7: models.topic.revision: expected a string, found the number 12 (put it in quotes)"]),
        ("models: {topic: {model: a/b, revision: 'a b'}}",
         ["job.yaml:7: models.topic.revision: expected a branch, tag or commit, found 'a b'"]),
        ("models: !!python/object:os.system {}",
         ["job.yaml:7: models: the tag !!python/object:os.system is not supported"]),
        ("models: {topic: !!binary aGk=}", ["job.yaml:7: models.topic: the tag !!binary is not supported"]),
    ],
)
def test_a_wrong_line_is_named_with_file_line_and_key(write, text, messages):
    found = lines_of(write(GOOD + text))
    if messages is None:
        assert found[0].startswith("job.yaml:7: engine.ray: unknown key (expected one of type, device, precision,")
    else:
        assert found == messages


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version: 1", "version: 2", "job.yaml:1: version: expected 1, found the number 2"),
        ("version: 1", "version: true", "job.yaml:1: version: expected 1, found true"),
        ("version: 1", "version: '1'", "job.yaml:1: version: expected 1, found '1'"),
        ("name: topics", "name: 0x3E8", "job.yaml:2: job.name: expected a string, found the number 1000 "
         "(put it in quotes)"),
        ("top_k: 3", "top_k: 1:30",
         "job.yaml:5: annotate.0.top_k: expected a whole number of at least 1, found '1:30'"),
        ("top_k: 3", "top_k: 1_000",
         "job.yaml:5: annotate.0.top_k: expected a whole number of at least 1, found '1_000'"),
        ("top_k: 3", "threshold: 0:0.5",
         "job.yaml:5: annotate.0.threshold: expected a number from 0 to 1, found '0:0.5'"),
        ("name: topics", "name: ../x", "job.yaml:2: job.name: expected letters, digits, '.', '_' and '-', beginning "
         "with a letter or digit, at most 100 characters, found '../x'"),
        ("name: topics", "timezone: Mars", "job.yaml:2: job.timezone: expected an IANA time zone such as UTC or "
         "Europe/Berlin, found 'Mars'"),
        ("name: topics", "timezone: America", "job.yaml:2: job.timezone: expected an IANA time zone such as UTC or "
         "Europe/Berlin, found 'America'"),
        ("name: topics", "timezone: ../../etc/passwd", "job.yaml:2: job.timezone: expected an IANA time zone such "
         "as UTC or Europe/Berlin, found '../../etc/passwd'"),
        ("text: body", "txt: body", "job.yaml:3: source.columns.txt: unknown key (did you mean 'text'?)"),
        ("text: body", "text: ''", "job.yaml:3: source.columns.text: expected text that is not empty, found ''"),
        ("path: in", "path: in, max_doc_bytes: 1023",
         "job.yaml:3: source.max_doc_bytes: expected a whole number of at least 1024, found the number 1023"),
        ("path: in", "path: in, max_doc_bytes: 99999999999",
         "job.yaml:3: source.max_doc_bytes: expected a whole number of at most 2147483647, "
         "found the number 99999999999"),
        ("path: in", "path: in, on_bad_file: skip",
         "job.yaml:3: source.on_bad_file: expected 'fail' or 'quarantine', found 'skip'"),
        ("name: topic,", "name: _topic,", "job.yaml:5: annotate.0.name: expected a column name of letters, digits "
         "and '_', beginning with a letter, at most 64 characters, found '_topic'"),
        ("task: text-classification", "task: ner",
         "job.yaml:5: annotate.0.task: expected 'text-classification', 'token-classification', 'question-answering', "
         "'fill-mask', 'multiple-choice', 'feature-extraction' or 'zero-shot-classification', found 'ner'"),
        ("task: text-classification, ", "",
         "job.yaml:5: annotate.0.task: required key is missing, for example 'text-classification'"),
        ("model: m, ", "revision: v1, ",
         "job.yaml:5: annotate.0.revision: a revision stands beside its model; name the model here too"),
        ("model: m, ", "", "job.yaml: models: annotation 'topic' has no model; name its folder or hub id in "
         "models.topic, or as 'model' of the annotation"),
        ("top_k: 3", "top_k: 0",
         "job.yaml:5: annotate.0.top_k: expected a whole number of at least 1, found the number 0"),
        ("top_k: 3", "threshold: 1.5",
         "job.yaml:5: annotate.0.threshold: expected a number from 0 to 1, found the number 1.5"),
        ("top_k: 3", "threshold: .inf",
         "job.yaml:5: annotate.0.threshold: expected a number from 0 to 1, found the number inf"),
        ("top_k: 3", "max_length: 2",
         "job.yaml:5: annotate.0.max_length: expected a whole number of at least 3, found the number 2"),
        ("top_k: 3", "function_to_apply: relu",
         "job.yaml:5: annotate.0.function_to_apply: expected 'none', 'softmax' or 'sigmoid', found 'relu'"),
        ("top_k: 3}", "top_k: 3}\n  - {name: topic, task: text-classification, model: m}",
         "job.yaml:6: annotate.1.name: the name 'topic' is taken by another annotation"),
        ("top_k: 3}", "top_k: 3}\n  - text", "job.yaml:6: annotate.1: expected a mapping, found 'text'"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected_and_found(write, old, new, message):
    assert old in GOOD
    assert lines_of(write(GOOD.replace(old, new))) == [message]


def test_all_problems_of_a_file_are_reported_at_once_in_line_order(write):
    name = write("""\
        sinc: {}
        source:
          path: "${env:SOURCE_FOLDER}"
          colums: {}
        annotate:
          - {name: topic, task: text-classification, model: m}
        pipeline: p.py
        sink:
          path: out
          passthrough: [topic, id, id]
        job:
          name: a
          name: b
    """)
    assert lines_of(name, overrides=["engine.type=raj", "sink.fromat=x"]) == [
        "job.yaml:1: sinc: unknown key (did you mean 'sink'?)",
        "job.yaml:3: source.path: the environment variable SOURCE_FOLDER is not set",
        "job.yaml:4: source.colums: unknown key (did you mean 'columns'?)",
        "job.yaml:7: pipeline: a config has either 'pipeline' or 'annotate', not both",
        "job.yaml:10: sink.passthrough.2: 'id' is listed twice",
        "job.yaml:13: job.name: key given twice, first on line 12",
        "-s engine.type: expected 'local' or 'ray', found 'raj'",
        "-s sink.fromat: unknown key (expected one of type, path, passthrough, partition_by, compression, "
        "compression_level, row_group_rows, max_error_share)",
    ]


def test_an_empty_config_is_told_what_it_needs(write):
    assert lines_of(write("version: 1")) == [
        "job.yaml: source: required key is missing",
        "job.yaml: pipeline: required key is missing: name a pipeline file here, or list annotations in 'annotate'",
        "job.yaml: sink: required key is missing",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "job.yaml: expected a mapping with 'source', 'annotate' and 'sink' at the top of the file"),
        (b"- 1", "job.yaml: expected a mapping with 'source', 'annotate' and 'sink' at the top of the file"),
        (b"a: 1\n---\nb: 1\n",
         "job.yaml:2: column 1: not valid YAML: expected a single document in the stream, but found another document"),
        (b"a: 1\nb: c: d\n", "job.yaml:2: column 5: not valid YAML: mapping values are not allowed here"),
        (b"a: 1\nb: \xff\n", "job.yaml:2: not UTF-8 text"),
        (b"a: 1\nb: \x07\n", "job.yaml:2: not valid YAML: character U+0007 is not allowed"),
        (b'a: "\\U99999999"', None),
        (b'a: "\\ud800"', "job.yaml:1: a: half a surrogate pair is not text"),
        (b"source:\n  path: {{ date }}/x\n", None),
        (b"#" * (1 << 20) + b"#", "job.yaml: larger than 1048576 bytes; is this a config?"),
        (b"[" * 100_000, "job.yaml:1: not valid YAML: more than 40 levels deep"),
        (b"a: &a [*a]", "job.yaml:1: not valid YAML: more than 40 levels deep"),
        (b"[" + b"1," * 20_000 + b"]", "job.yaml:1: not valid YAML: more than 10000 values after following aliases"),
        (b"a0: &a0 [1]\n" + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9))
                                    for n in range(1, 9)),
         "job.yaml:1: not valid YAML: more than 10000 values after following aliases"),
    ],
)
def test_a_file_that_is_no_config_gets_one_message(write, content, message):
    Path(write("")).write_bytes(content)
    found = lines_of("job.yaml")
    if message is None:
        assert all(line.startswith("job.yaml") for line in found)
    else:
        assert message in found


def test_paths_that_cannot_be_read_are_named(write, tmp_path):
    assert lines_of("nowhere.yaml") == ["nowhere.yaml: no such file"]
    (tmp_path / "folder").mkdir()
    assert lines_of(Path("folder")) == ["folder: a folder, not a file"]
    assert lines_of("a\0b") == ["a\0b: embedded null byte"]


URL = "URLs are not opened; mount or copy what is there and give its path ('./' before a name that looks so)"
HOME = "'~' is not expanded; write the path in full ('./' before a name that begins so)"


@pytest.mark.parametrize("key", ["source.path", "sink.path", "annotate.0.model", "models.topic", "pipeline"])
@pytest.mark.parametrize(
    ("path", "problem"),
    [("s3://b:secret@c/x", URL), ("FILE:///x", URL), ("file:/x", URL), ("~", HOME), ("~/x", HOME), ("~me/x", HOME)],
)
def test_a_path_that_names_another_place_than_is_meant_is_refused(write, key, path, problem):
    assert f"-s {key}: {problem}" in lines_of(write(GOOD), overrides=[f"{key}='{path}'"])


@pytest.mark.parametrize("path", ["./~x", "a~/b", "./s3://x", "a/b:/c", "12:/x"])
def test_other_unusual_paths_are_taken(write, path):
    assert load_config(write(GOOD), overrides=[f"sink.path='{path}'"], environ={}).sink.path == path


def test_a_glob_may_begin_with_a_tilde(write):
    assert load_config(write(GOOD), overrides=["source.glob='~*.parquet'"], environ={}).source.glob == "~*.parquet"


def test_a_byte_order_mark_is_no_problem(write):
    name = write("")
    Path(name).write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_config(name, environ={}).job.name == "topics"


def test_aliases_are_followed(write):
    name = write(GOOD.replace("path: in", "path: &p in").replace("path: out", "path: *p"))
    assert load_config(name, environ={}).sink.path == "in"


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("annotate.0.top_k=5", lambda config: config.annotate[0].top_k == 5),
        ("annotate.0.top_k='5'", lambda config: config.annotate[0].top_k == 5),
        ("annotate.0.top_k=010", lambda config: config.annotate[0].top_k == 10),
        ("annotate.0.top_k=0o10", lambda config: config.annotate[0].top_k == 8),
        ("annotate.0.threshold=1e-1", lambda config: config.annotate[0].threshold == 0.1),
        ("job.name=1_0", lambda config: config.job.name == "1_0"),
        ("job.name=on", lambda config: config.job.name == "on"),
        ("job.name=2026-11-20", lambda config: config.job.name == "2026-11-20"),
        ("sink.path==", lambda config: config.sink.path == "="),
        ("sink.path=<<", lambda config: config.sink.path == "<<"),
        ("engine.compile=True", lambda config: config.engine.compile is True),
        ("engine.max_batch_tokens=1e3", lambda config: config.engine.max_batch_tokens == 1000),
        ("sink={path: out, passthrough: [no, y, registry]}",
         lambda config: config.sink.passthrough == ("no", "y", "registry")),
        ("sink.path='out #1'", lambda config: config.sink.path == "out #1"),
        ("sink.path=out#1", lambda config: config.sink.path == "out#1"),
        ("annotate.0.top_k=null", lambda config: config.annotate[0].top_k is None),
        ("annotate.0.top_k=", lambda config: config.annotate[0].top_k is None),
        ("annotate.0.threshold=0.5", lambda config: config.annotate[0].threshold == 0.5),
        ("sink.passthrough=[id, day]\n", None),
        ("sink.partition_by=[]", lambda config: config.sink.partition_by == ()),
        ("sink.path=a=b", lambda config: config.sink.path == "a=b"),
        ("source.path='{{ date }}/x'", lambda config: config.source.path == "{{ date }}/x"),
        ("engine={type: ray, actors: 3}", lambda config: config.engine == Engine(type="ray", actors=3)),
        ("engine.threads=auto", lambda config: config.engine.threads == "auto"),
        (" job.name =x", lambda config: config.job.name == "x"),
        ("models.topic=other", lambda config: config.annotations()[0].checkpoint == "other"),
    ],
)
def test_overrides_are_typed_as_yaml(write, override, value):
    if value is None:
        assert lines_of(write(GOOD), overrides=[override]) == [
            "job.yaml:6: sink.partition_by.0: 'registry' must be listed in sink.passthrough as well"]
    else:
        assert value(load_config(write(GOOD), overrides=[override], environ={}))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sink.path", "-s sink.path: expected section.key=value"),
        ("=1", "-s : expected section.key=value"),
        ("sink..path=1", "-s sink..path: expected section.key=value"),
        ("sink.path=1", "-s sink.path: expected a string, found the number 1 (put it in quotes)"),
        ("sink.path.x=1", "-s sink.path.x: 'sink.path' is a single value and has no 'x'"),
        ("sink.fromat=x", "-s sink.fromat: unknown key (expected one of type, path,"),
        ("sinc.path=x", "-s sinc.path: sinc: unknown key (did you mean 'sink'?)"),
        ("annotate.1.top_k=1", "-s annotate.1.top_k: no entry '1' in 'annotate'; expected an index from 0 to 0"),
        ("annotate.x=1", "-s annotate.x: no entry 'x' in 'annotate'; expected an index from 0 to 0"),
        ("annotate=[{name: a, task: text-classification, model: m, top_k: 0}]",
         "-s annotate: annotate.0.top_k: expected a whole number of at least 1, found the number 0"),
        ("sink.path={{ date }}/x", "-s sink.path: not a YAML value: "),
        ("sink.path=out #1", "-s sink.path: not a YAML value: '#' begins a comment; put text with special"),
        ("sink.path=#1", "-s sink.path: not a YAML value: '#' begins a comment"),
        ("sink={path: a} # b", "-s sink: not a YAML value: '#' begins a comment"),
        ("sink={path: a, path: b}", "-s sink: sink.path: key given twice, first on line 1"),
    ],
)
def test_a_wrong_override_is_named(write, override, message):
    found = lines_of(write(GOOD), overrides=[override])
    assert len(found) == 1
    assert found[0].startswith(message)


def test_one_config_serves_both_engines(write):
    name = write(GOOD + "engine: {type: ray, actors: 2, max_worker_deaths: 3}")
    config = load_config(name, overrides=["engine.type=local"], environ={})
    assert config.engine == Engine(type="local", actors=2, max_worker_deaths=3)


def test_a_config_can_come_from_standard_input(monkeypatch):
    def pipe(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    pipe(GOOD)
    assert load_config("-", environ={}).job.name == "topics"
    pipe(GOOD + "sinc: 1")
    assert lines_of("-") == ["standard input:7: sinc: unknown key (did you mean 'sink'?)"]


def test_the_last_override_of_a_key_wins(write):
    config = load_config(write(GOOD), overrides=["job.name=a", "job.name=b"], environ={})
    assert config.job.name == "b"


def test_later_files_win_key_by_key_and_replace_lists(write):
    first = write(GOOD)
    second = write("sink: {passthrough: [id], partition_by: []}\nengine: {type: ray}\n", "site.yaml")
    config = load_config_files([first, second], overrides=["sink.path=elsewhere"], environ={})
    assert (config.sink.path, config.sink.passthrough) == ("elsewhere", ("id",))
    assert config.source.columns.text == "body"
    assert config.engine.type == "ray"


def test_problems_name_the_file_that_holds_the_key(write):
    first = write(GOOD)
    second = write("job:\n  nam: x\nsink: {passthrough: [id], row_group_rows: 0}\n", "site.yaml")
    with pytest.raises(ConfigError) as caught:
        load_config_files([first, second], environ={})
    assert str(caught.value).split("\n") == [
        "job.yaml:6: sink.partition_by.0: 'registry' must be listed in sink.passthrough as well",
        "site.yaml:2: job.nam: unknown key (did you mean 'name'?)",
        "site.yaml:3: sink.row_group_rows: expected a whole number of at least 1, found the number 0",
    ]


def test_every_unreadable_file_is_reported(write):
    with pytest.raises(ConfigError) as caught:
        load_config_files(["a.yaml", write("{", "b.yaml")], environ={})
    assert [line.split(":")[0] for line in str(caught.value).split("\n")] == ["a.yaml", "b.yaml"]
    with pytest.raises(ConfigError, match="no config file given"):
        load_config_files([], environ={})


@pytest.mark.parametrize(
    ("text", "environ", "path"),
    [
        ("${env:A}", {"A": "x"}, "x"),
        ("p/${env:A}/${env:B:-y}", {"A": "x"}, "p/x/y"),
        ("${env:A:-d}", {"A": ""}, "d"),
        ("a${env:A:-}", {}, "a"),
        ("${env:A}", {"A": "x: {y: 1}\nsink: stolen"}, "x: {y: 1}\nsink: stolen"),
        ("${env:A}", {"A": "${env:B}"}, "${env:B}"),
    ],
)
def test_the_environment_fills_text_and_only_text(write, text, environ, path):
    config = load_config(write(GOOD.replace("path: in", f"path: '{text}'")), environ=environ)
    assert config.source.path == path


def test_the_environment_is_that_of_the_process_unless_one_is_given(write, monkeypatch):
    monkeypatch.setenv("DISTILBATCH_TEST_SOURCE", "x")
    name = write(GOOD.replace("path: in", "path: '${env:DISTILBATCH_TEST_SOURCE:-y}'"))
    assert load_config(name).source.path == "x"
    assert load_config(name, environ={}).source.path == "y"


def test_a_config_is_shown_with_its_defaults_and_loads_again(write):
    name = write(GOOD + "engine: {type: ray, gpus_per_actor: 0.5}")
    text = show_config([name], overrides=["annotate.0.threshold=0.25"], environ={})
    again = load_config(write(text, "again.yaml"), environ={})
    assert again == load_config(name, overrides=["annotate.0.threshold=0.25"], environ={})
    assert "row_group_rows: 131072" in text


@pytest.mark.parametrize("name", ["010", "1e3", "0o17", "1_000", "0b1", "0x1F", "12", "no", "true", "2026-11-20"])
def test_a_text_that_looks_like_another_value_is_shown_in_quotes(write, name):
    text = show_config([write(GOOD)], overrides=[f"job.name='{name}'"], environ={})
    assert load_config(write(text, "again.yaml"), environ={}).job.name == name


def test_a_reference_in_the_long_form_of_a_model_is_shown(write):
    name = write(GOOD + "models: {topic: {model: '${env:M:-m}'}}")
    text = show_config([name], environ={"M": "secret/m"})
    assert "  topic: ${env:M:-m}\n" in text
    assert load_config(write(text, "again.yaml"), environ={}).models["topic"].model == "m"
    name = write(GOOD + "models: {topic: {model: '${env:M}', revision: '${env:R}'}}")
    text = show_config([name], environ={"M": "secret/m", "R": "v1"})
    assert "    model: ${env:M}\n    revision: ${env:R}\n" in text


def test_what_the_environment_holds_is_not_shown(write):
    name = write(GOOD.replace("path: in", "path: '${env:A}/in'").replace("top_k: 3", "top_k: '${env:K:-3}'"))
    text = show_config([name], overrides=["sink.path=${env:B}"], environ={"A": "hidden", "B": "secret", "K": "7"})
    assert "path: ${env:A}/in" in text
    assert "path: ${env:B}" in text
    assert "top_k: ${env:K:-3}" in text
    assert not any(word in text for word in ("hidden", "secret", "top_k: 7"))


def test_a_number_may_come_from_the_environment(write):
    name = write(GOOD.replace("top_k: 3", "top_k: '${env:K}', threshold: '${env:T}'"))
    config = load_config(name, environ={"K": "7", "T": "0.25"})
    assert (config.annotate[0].top_k, config.annotate[0].threshold) == (7, 0.25)


def test_messages_never_show_what_the_environment_holds(write):
    name = write(GOOD.replace("top_k: 3", "top_k: '${env:K}'"))
    assert lines_of(name, environ={"K": "secret"}) == [
        "job.yaml:5: annotate.0.top_k: expected a whole number of at least 1, found the value of '${env:K}'"]


@pytest.mark.parametrize("text", ["${A}", "${env:}", "${env:1A}", "${env:A", "${env:A-b}", "${oc.env:A}"])
def test_other_references_are_refused(write, text):
    found = lines_of(write(GOOD.replace("path: in", f"path: '{text}'")), environ={"A": "x"})
    assert found == [f"job.yaml:3: source.path: unknown reference in '{text}'; expected ${{env:NAME}} or "
                     "${env:NAME:-default}"]


_SNIPPETS = st.sampled_from(
    ["{", "}", "[", "]", ": ", "- ", "\n", "  ", "'", '"', "&a ", "*a", "!!set ", "!!float ", "? ", "<<: ", "|", ">",
     "%YAML 1.1\n", "---\n", "null", "yes", "2026-13-01", "1:99:99", "0b", "0x", ".nan", "${env:X}", "{{ date }}", "\t",
     "\x00", "\\x", "\\ud800", "\U0001f600", "9" * 5000, "engine:", "annotate", "auto", "ray", "@", "`", "#", "=", "!"]
)
_EDITS = st.lists(
    st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), _SNIPPETS | st.text(max_size=3)), min_size=1, max_size=4
)


@settings(max_examples=250, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=_EDITS, override=st.none() | st.tuples(st.sampled_from(["engine", "annotate.0", "sink.path"]), _SNIPPETS))
def test_a_mangled_file_loads_or_raises_config_error(tmp_path, edits, override):
    text = GOOD
    for start, length, snippet in edits:
        text = text[:start] + snippet + text[start + length :]
    path = tmp_path / "job.yaml"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    overrides = [f"{override[0]}={override[1]}"] if override else []
    with contextlib.suppress(ConfigError):  # any other exception fails the test
        assert isinstance(load_config(path, overrides=overrides, environ={}), Config)
