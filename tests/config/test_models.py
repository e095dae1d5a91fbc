"""The config as a value: what it resolves to, what of it changes results, and how it is used from Python."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

import distilbatch.config
from distilbatch import schema
from distilbatch.config import Config, Engine, ParquetSink, TextClassification, load_config
from distilbatch.config.tables import RESERVED_COLUMN
from distilbatch.errors import ConfigError
from distilbatch.fingerprint import fingerprint
from distilbatch.pipeline import Pipeline


def config(*overrides: str) -> Config:
    document = {
        "source": {"path": "in"},
        "annotate": [{"name": "topic", "task": "text-classification", "model": "m", "threshold": 0.5}],
        "sink": {"path": "out", "passthrough": ["id", "day"], "partition_by": ["day"]},
    }
    return load_config(document, overrides=overrides, environ={})


def from_pipeline(*overrides: str) -> Config:
    document = {"source": {"path": "in"}, "pipeline": "p.py", "sink": {"path": "out", "passthrough": ["id"]}}
    return load_config(document, overrides=overrides, environ={})


def test_the_semantic_part_lists_what_changes_results_and_has_no_floats():
    semantic = config().semantic()
    assert semantic == {
        "version": 1,
        "columns": {"text": "text"},
        "partitioning": "hive",
        "max_doc_bytes": 1048576,
        "annotate": [
            {
                "name": "topic",
                "task": "text-classification",
                "top_k": None,
                "function_to_apply": None,
                "threshold": "0.5",
                "max_length": None,
                "stride": None,
                "text_pair": None,
                "reduction": "mean",
                "evidence": False,
            }
        ],
        "passthrough": ["id", "day"],
        "partition_by": ["day"],
        "precision": "auto",
        "hooks": None,
    }
    assert len(fingerprint(semantic)) == 64


@pytest.mark.parametrize(
    "override",
    [
        "source.columns.text=body", "source.partitioning=none", "source.max_doc_bytes=2048", "annotate.0.name=kind",
        "annotate.0.top_k=2", "annotate.0.function_to_apply=sigmoid", "annotate.0.threshold=0.25",
        "annotate.0.max_length=64", "annotate.0.stride=8", "annotate.0.text_pair=reply", "annotate.0.reduction=max",
        "annotate.0.evidence=true", "sink.passthrough=[day, id]", "sink.partition_by=[]", "engine.precision=float32",
    ],
)
def test_a_setting_that_changes_results_changes_the_fingerprint(override):
    assert fingerprint(config(override).semantic()) != fingerprint(config().semantic())


@pytest.mark.parametrize(
    "override",
    [
        "job.name=other", "job.timezone=Europe/Berlin", "source.path=elsewhere", "source.glob=a/*.parquet",
        "source.on_bad_file=quarantine", "annotate.0.model=elsewhere", "models.topic=elsewhere",
        "annotate.0.revision=v1", "models.topic={model: a/b, revision: v1}", "sink.path=elsewhere",
        "sink.compression=snappy", "sink.row_group_rows=10", "engine.device=cpu", "engine.max_batch_tokens=64",
        "engine.sort_buffer_rows=8", "engine.shard_rows=8", "engine.threads=1", "engine.type=ray",
        "engine.hang_timeout_s=null", "sink.max_error_share=0.1",
    ],
)
def test_a_setting_that_only_moves_work_keeps_the_fingerprint(override):
    assert config(override) != config()
    assert fingerprint(config(override).semantic()) == fingerprint(config().semantic())


def test_annotations_of_a_pipeline_count_like_written_ones():
    pipeline = Pipeline(annotate=[TextClassification(name="topic", model="m", threshold=0.5)])
    chosen = from_pipeline().annotations(pipeline)
    assert from_pipeline().semantic(chosen)["annotate"] == config().semantic()["annotate"]
    assert from_pipeline().semantic(chosen, hooks="ab")["hooks"] == "ab"


def test_models_of_the_config_win_over_those_of_annotations():
    declared = [TextClassification(name="a", model="old"), TextClassification(name="b", model="kept")]
    pipeline = Pipeline(annotate=declared)
    chosen = from_pipeline("models.a=new").annotations(pipeline)
    assert [(item.name, item.checkpoint) for item in chosen] == [("a", "new"), ("b", "kept")]
    assert pipeline.annotate[0].model == "old"


def test_a_model_of_the_config_takes_the_place_of_the_revision_too():
    pipeline = Pipeline(annotate=[TextClassification(name="a", model="org/old", revision="v1")])
    for override, revision in (("models.a=org/new", None), ("models.a={model: org/new, revision: v2}", "v2")):
        (chosen,) = from_pipeline(override).annotations(pipeline)
        assert (chosen.checkpoint, chosen.revision) == ("org/new", revision)
    (kept,) = from_pipeline().annotations(pipeline)
    assert (kept.checkpoint, kept.revision) == ("org/old", "v1")


def test_a_chosen_model_is_shown_as_short_as_it_can_be():
    assert config("models.topic=a").model_dump()["models"] == {"topic": "a"}
    pinned = {"topic": {"model": "org/a", "revision": "v1"}}
    assert Config(**config().model_dump() | {"models": pinned}).model_dump()["models"] == pinned


@pytest.mark.parametrize(
    ("annotations", "override", "message"),
    [
        ([TextClassification(name="a")], "job.name=x",
         "models: annotation 'a' has no model; name its folder or hub id in models.a, or as 'model' of the annotation"),
        ([TextClassification(name="a", model="m")], "models.b=m", "models: no annotation is named 'b'; there are: a"),
        ([TextClassification(name="id", model="m")], "job.name=x",
         "sink.passthrough: 'id' is also the name of an annotation; rename one of them"),
    ],
)
def test_a_pipeline_that_does_not_fit_the_config_is_refused(annotations, override, message):
    with pytest.raises(ConfigError) as caught:
        from_pipeline(override).annotations(Pipeline(annotate=annotations))
    assert str(caught.value) == message


def test_a_config_with_a_pipeline_asks_for_it():
    with pytest.raises(ConfigError, match="no annotations; load the config's pipeline and pass it in"):
        from_pipeline().annotations()


def test_an_annotation_without_a_model_says_where_to_name_one():
    with pytest.raises(ConfigError, match=r"annotation 'a' has no model; name its folder or hub id in models\.a"):
        _ = TextClassification(name="a").checkpoint


def test_sections_can_be_built_in_python_and_never_change():
    built = Config(
        source={"path": "in"},
        annotate=[TextClassification(name="topic", model="m")],
        sink=ParquetSink(path="out"),
        engine=Engine(type="ray", actors=2),
    )
    assert built.engine.actors == 2
    assert Config(source={"path": "in"}, pipeline="p.py", sink={"path": "out"}).engine == Engine()
    with pytest.raises(ValidationError, match="frozen"):
        built.sink.path = "elsewhere"


def test_a_path_object_is_a_path(tmp_path):
    assert TextClassification(name="a", model=tmp_path).model == str(tmp_path)


@pytest.mark.parametrize(("codec", "level"), [("zstd", 3), ("snappy", None), ("none", None)])
def test_only_zstd_has_a_level(codec, level):
    assert ParquetSink(path="out", compression=codec).compression_level == level


@pytest.mark.parametrize("share", ["auto", 0.25, 1, 2])
def test_a_gpu_is_shared_in_fractions_or_taken_whole(share):
    assert Engine(type="ray", gpus_per_actor=share).gpus_per_actor == share


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices(device):
    assert Engine(device=device).device == device


def test_the_reserved_column_is_the_one_that_the_schema_writes():
    assert RESERVED_COLUMN == schema.ROW


def test_the_json_schema_describes_numbers_that_may_be_auto():
    properties = Config.model_json_schema()["$defs"]["Engine"]["properties"]
    assert properties["max_batch_tokens"]["anyOf"] == [{"const": "auto"}, {"type": "integer", "minimum": 16}]
    assert properties["gpus_per_actor"]["anyOf"] == [{"const": "auto"}, {"type": "number", "exclusiveMinimum": 0}]


def test_the_json_schema_says_what_every_key_means():
    schema_ = Config.model_json_schema()
    sections = {name: kind.get("anyOf", [kind])[-1] for name, kind in schema_["$defs"].items()} | {"Config": schema_}
    silent = [
        f"{name}.{key}" for name, section in sections.items() for key, value in section["properties"].items()
        if not value.get("description")
    ]  # fmt: skip
    assert silent == []
    assert len(sections) > 10
    revision = sections["TokenClassification"]["properties"]["revision"]["description"]
    assert revision.startswith("Branch, tag or commit of a hub id")
    assert schema_["$defs"]["ChosenModel"]["anyOf"][0] == {"type": "string"}


def test_public_names_are_sorted_and_there():
    names = distilbatch.config.__all__
    assert names == sorted(names)
    assert all(hasattr(distilbatch.config, name) for name in names)


def test_importing_configs_and_pipelines_loads_nothing_heavy():
    program = "import sys, distilbatch.config, distilbatch.pipeline; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"torch", "ray", "pyarrow", "numpy"} & set(ran.stdout.split()) == set()
