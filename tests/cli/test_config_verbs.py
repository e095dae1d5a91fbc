"""``config check``, ``config show`` and ``config schema``."""

from __future__ import annotations

import json

import yaml

PIPELINE = """\
from distilbatch import Pipeline, TextClassification
PIPELINE = Pipeline(annotate=[TextClassification(name="mood")])
"""


def test_a_good_config_is_ok(call, place):
    ran = call("config", "check", place.config)
    assert (ran.code, ran.out) == (0, "ok: job tiny, annotations answer\n")


def test_every_mistake_is_listed_at_once_with_its_key(call, place):
    ran = call("config", "check", place.config, "-s", "sinc.path=x", "-s", "engine.type=rya")
    assert ran.code == 2
    assert ran.err.splitlines() == [
        "error: -s sinc.path: sinc: unknown key (did you mean 'sink'?)",
        "       -s engine.type: expected 'local' or 'ray', found 'rya'",
    ]


def test_the_pipeline_that_a_config_names_is_checked_too(call, place):
    (place.folder / "p.py").write_text(PIPELINE)
    document = yaml.safe_load(place.config.read_text())
    del document["annotate"]
    place.config.write_text(yaml.safe_dump({**document, "pipeline": "p.py"}))
    assert "annotation 'mood' has no model" in call("config", "check", place.config).err
    ran = call("config", "check", place.config, "-s", "models.mood=model")
    assert ran.out == "ok: job tiny, annotations mood\n"


def test_a_config_is_shown_without_what_the_environment_holds(call, place, monkeypatch):
    monkeypatch.setenv("DISTILBATCH_TEST_FOLDER", "secret")
    ran = call("config", "show", place.config, "-s", "source.path=${env:DISTILBATCH_TEST_FOLDER}/in")
    assert "secret" not in ran.out
    shown = yaml.safe_load(ran.out)
    assert shown["source"]["path"] == "${env:DISTILBATCH_TEST_FOLDER}/in"
    assert shown["sink"]["row_group_rows"] == 131_072


def test_the_schema_is_json(call):
    assert json.loads(call("config", "schema").out)["required"] == ["source", "sink"]
