"""Hub ids in a job: one commit for the whole run, noted in its records, found again by whoever lacks the files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny_job
import torch
from hub_server import Hub
from huggingface_hub import constants
from safetensors.torch import load_file

from distilbatch import Annotator, plan, run
from distilbatch.engine.driver import resolve_run
from distilbatch.engine.resolution import at_hand
from distilbatch.errors import CheckpointError, ConfigError, ConflictError

TEXTS = ["red fish", "one two three", "blue"]


class Tiny:
    """``org/tiny`` on the hub with one commit, and a job that names it.

    Args:
        hub: The hub.
        folder: The working folder, with a source and the checkpoint.
    """

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.folder = folder
        self.checkpoint = tiny_job.write_checkpoint(folder / "checkpoint")
        self.repo = hub.repo("org/tiny")
        self.commit = self.repo.commit_folder(self.checkpoint, "v1")
        tiny_job.write_source(folder / "source" / "a.parquet", 50)

    def job(self, *, sink: str = "out", model: str = "org/tiny", **annotation: Any) -> dict[str, Any]:
        written = {"name": "answer", "task": "text-classification", "model": model, **annotation}
        config = tiny_job.job_config(self.folder, sink={"path": str(self.folder / sink)})
        return {**config, "annotate": [written]}

    def move(self) -> str:
        """Point ``main`` to other weights."""
        return self.repo.commit_folder(tiny_job.write_checkpoint(self.folder / "newer", seed=2))

    def labels(self, sink: str = "out") -> list[Any]:
        return pq.read_table(self.folder / sink / "data").sort_by("id").column("answer").to_pylist()

    def unfinish(self, sink: str = "out") -> None:
        """Leave the plan of a run alone, as a crash before the first shard does."""
        shutil.rmtree(self.folder / sink / "data")
        control = self.folder / sink / "_distilbatch" / "tiny" / "once"
        for path in control.iterdir():
            if path.name != "plan.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def tiny(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.chdir(tmp_path)
    return Tiny(hub, tmp_path)


def test_a_hub_id_labels_as_its_folder_does_and_the_records_say_which_commit(tiny):
    assert run(tiny.job()).num_rows == 50
    run(tiny.job(sink="other", model=str(tiny.checkpoint)))
    assert tiny.labels() == tiny.labels("other")
    source = {"answer": f"org/tiny@{tiny.commit}"}
    control = tiny.folder / "out" / "_distilbatch" / "tiny" / "once"
    assert json.loads((control / "plan.json").read_text())["model_sources"] == source
    for path in (tiny.folder / "out" / "data").iterdir():
        assert json.loads(pq.read_metadata(path).metadata[b"distilbatch.model_sources"]) == source
    assert json.loads((tiny.folder / "other" / "_distilbatch/tiny/once/plan.json").read_text())["model_sources"] == {}
    assert plan(tiny.job()).model_sources == source


def test_a_branch_that_moved_is_refused_and_the_planned_commit_goes_on(tiny):
    run(tiny.job())
    labels = tiny.labels()
    tiny.unfinish()
    newer = tiny.move()
    with pytest.raises(ConflictError) as caught:
        run(tiny.job())
    assert caught.value.exit_code == 4
    assert f"(org/tiny@{tiny.commit}), now " in caught.value.found
    assert caught.value.found.endswith(f"(org/tiny@{newer})")
    assert caught.value.remedy.startswith(f"set revision: {tiny.commit} of 'answer' to go on; ")
    assert run(tiny.job(revision=tiny.commit)).rows_this_attempt == 50
    assert tiny.labels() == labels


def test_a_branch_that_moved_to_the_same_files_is_no_change(tiny):
    run(tiny.job())
    tiny.unfinish()
    tiny.repo.commit_folder(tiny.checkpoint, **{"README.md": b"#"})
    assert run(tiny.job()).rows_this_attempt == 50


@pytest.mark.parametrize("pinned", ["commit", "tag"])
def test_a_pinned_revision_stays_whatever_main_does(tiny, pinned):
    job = tiny.job(revision=tiny.commit if pinned == "commit" else "v1")
    run(job)
    tiny.unfinish()
    tiny.move()
    assert run(job).rows_this_attempt == 50


def test_models_of_the_config_may_be_hub_ids_with_a_revision(tiny):
    tiny.move()
    job = tiny.job(model="elsewhere") | {"models": {"answer": {"model": "org/tiny", "revision": "v1"}}}
    assert resolve_run(job).model_sources == {"answer": f"org/tiny@{tiny.commit}"}
    assert resolve_run(job | {"models": {"answer": "org/tiny"}}).model_sources != resolve_run(job).model_sources


def test_a_revision_is_looked_up_once_for_all_annotations(tiny, hub):
    job = tiny.job()
    job["annotate"].append({**job["annotate"][0], "name": "again"})
    assert len(resolve_run(job).model_sources) == 2
    resolved = [request for request in hub.requests if request.path == "/org/tiny/resolve/main/config.json"]
    assert [request.method for request in resolved] == ["HEAD", "GET"]


def test_a_second_run_needs_no_hub(tiny, hub, monkeypatch):
    run(tiny.job())
    hub.paths()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert run(tiny.job(sink="again")).num_rows == 50
    assert hub.paths() == []
    with pytest.raises(CheckpointError, match="revision v1 cannot be fetched; found offline mode"):
        run(tiny.job(revision="v1"))


def test_a_pickle_stays_refused(tiny, hub):
    config = (tiny.checkpoint / "config.json").read_bytes()
    torch.save(load_file(tiny.checkpoint / "model.safetensors"), tiny.folder / "pytorch_model.bin")
    weights = (tiny.folder / "pytorch_model.bin").read_bytes()
    hub.repo("org/old").commit({"config.json": config, "pytorch_model.bin": weights})
    with pytest.raises(CheckpointError, match=r"hub model org/old: only pytorch_model\.bin"):
        run(tiny.job(model="org/old"))
    assert not any("/cdn/" in path for path in hub.paths())


# --- Workers on other machines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["everything", "vocab.txt", "model.safetensors"])
def test_a_worker_without_the_files_fetches_the_planned_commit(tiny, monkeypatch, tmp_path, lost):
    (head,) = resolve_run(tiny.job()).heads
    tiny.move()
    if lost == "everything":
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "another"))
        head = replace(head, model=Path("/another/machine") / tiny.commit)
    else:
        (head.model / lost).unlink()
    (found,) = at_hand([head])
    assert (found.model.name, found.fingerprint) == (tiny.commit, head.fingerprint)
    assert (found.model / "vocab.txt").read_bytes() == (tiny.checkpoint / "vocab.txt").read_bytes()
    assert at_hand([found]) == (found,)


def test_a_worker_whose_files_are_there_asks_nobody(tiny, hub):
    heads = resolve_run(tiny.job()).heads
    hub.paths()
    assert at_hand(heads) == heads
    assert hub.paths() == []


def test_a_worker_that_gets_other_files_does_not_label_with_them(tiny):
    (head,) = resolve_run(tiny.job()).heads
    blob = (head.model / "vocab.txt").resolve()
    blob.write_bytes(blob.read_bytes().replace(b"fish", b"bird"))
    with pytest.raises(CheckpointError, match=r"'answer': org/tiny@\w+ in .*; expected the planned files, fingerprint"):
        at_hand([head])


def test_folders_of_the_user_are_left_as_they_are(tiny):
    heads = resolve_run(tiny.job(model=str(tiny.checkpoint))).heads
    assert at_hand([replace(heads[0], fingerprint="0" * 64)])[0].model == tiny.checkpoint


# --- Annotator, and names that are no hub ids ------------------------------------------------------------------------


def test_an_annotator_takes_a_hub_id_and_a_revision(tiny):
    expected = Annotator(model=tiny.checkpoint, device="cpu")(TEXTS)
    tiny.move()
    assert Annotator(model="org/tiny", revision="v1", device="cpu")(TEXTS) == expected
    assert Annotator(model="org/tiny", device="cpu")(TEXTS) != expected


def test_a_folder_of_that_name_wins(tiny, hub):
    shutil.copytree(tiny.checkpoint, "org/tiny")
    hub.paths()
    assert resolve_run(tiny.job()).model_sources == {}
    assert hub.paths() == []
    with pytest.raises(ConfigError, match="revision v1 of org/tiny; expected a hub id; found a folder"):
        resolve_run(tiny.job(revision="v1"))


@pytest.mark.parametrize("name", ["tiny", "./org/tiny", "/org/tiny", Path("org/tiny")])
def test_a_single_word_and_a_path_are_folders(tiny, hub, name):
    with pytest.raises(CheckpointError, match=r"found no such folder; .*a hub id is org/name"):
        Annotator(model=name)
    assert hub.paths() == []


def test_an_unknown_model_and_an_unknown_revision_are_named(tiny):
    with pytest.raises(CheckpointError, match="hub model org/none: the hub has no such model"):
        run(tiny.job(model="org/none"))
    with pytest.raises(CheckpointError, match=r"org/tiny: no such revision; .*found v9"):
        run(tiny.job(revision="v9"))
