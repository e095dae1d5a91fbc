"""What a job will take, from footers and sizes alone; and on what."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import ray
import tiny_job

from distilbatch.config import Engine
from distilbatch.engine.capacity import Capacity, capacity_here, capacity_of_workers, cores_here, forward_work
from distilbatch.engine.driver import resolve_run
from distilbatch.engine.planning import build_plan, list_source
from distilbatch.errors import SetupError
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.flops import forward_flops
from distilbatch.shards.planner import text_bytes_of

HERE = Capacity("cpu", 2)


@pytest.fixture
def folder(tmp_path):
    tiny_job.write_checkpoint(tmp_path / "model")
    return tmp_path


def work_of(folder, *, rows: int, words: int, **sections) -> float:
    tiny_job.write_source(folder / "source" / "a.parquet", rows, words=words)
    job = resolve_run(tiny_job.job_config(folder, **sections))
    return forward_work(job, build_plan(job, list_source(job), ()))


def full_forwards(folder, rows: int) -> float:
    """FLOPs of documents as long as the model takes them."""
    config = DistilBertConfig.from_file(folder / "model" / "config.json")
    return rows * sum(forward_flops(config, np.array([tiny_job.MAX_TOKENS]), first_only=False).values())


def test_work_is_rows_times_what_their_mean_length_takes(folder):
    assert work_of(folder, rows=20, words=1000) == full_forwards(folder, 20)
    few_words = work_of(folder, rows=20, words=2)
    assert 0 < few_words < full_forwards(folder, 20)
    # Dictionaries are stored once, so that the same few texts again are hardly more bytes, and yet more rows.
    assert work_of(folder, rows=40, words=2) > few_words


@pytest.mark.parametrize(("max_doc_bytes", "tokens"), [(1 << 20, None), (1024, 1024 / 4 + 2)], ids=str)
def test_windows_of_a_long_text_are_all_counted_as_far_as_it_is_read(folder, max_doc_bytes, tokens):
    tiny_job.write_source(folder / "source" / "a.parquet", 20, words=4000)
    config = tiny_job.job_config(folder, source={"max_doc_bytes": max_doc_bytes})
    config["annotate"][0]["stride"] = 4
    job = resolve_run(config)
    plan = build_plan(job, list_source(job), ())
    (shard,) = plan.shards
    whole = text_bytes_of(plan.fragments[0], shard) / 20 / 4 + 2
    assert whole > 1024 / 4 + 2
    expected = full_forwards(folder, 20) * (tokens or whole) / tiny_job.MAX_TOKENS
    assert forward_work(job, plan) == pytest.approx(expected)


def test_heads_with_one_checkpoint_share_a_forward_and_others_do_not(folder):
    tiny_job.write_checkpoint(folder / "other", seed=2)

    def work(*models: str) -> float:
        tiny_job.write_source(folder / "source" / "a.parquet", 20, words=1000)
        heads = [
            {"name": f"n{place}", "task": "text-classification", "model": str(folder / model)}
            for place, model in enumerate(models)
        ]
        job = resolve_run(tiny_job.job_config(folder) | {"annotate": heads})
        return forward_work(job, build_plan(job, list_source(job), ()))

    assert work("model", "model") == work("model") == full_forwards(folder, 20)
    assert work("model", "other") == 2 * work("model")


def test_a_least_time_grows_with_work_and_shrinks_with_what_computes():
    assert Capacity("cpu", 4).seconds(8e11) == pytest.approx(2.0)
    assert Capacity("cpu", 8).seconds(8e11) == pytest.approx(1.0)
    assert Capacity("cuda", 1).seconds(8e11) < 0.1


def test_this_machine_has_its_cores_or_the_threads_of_the_config():
    assert cores_here(Engine(threads=3)) == capacity_here(Engine(device="cpu", threads=3)) == Capacity("cpu", 3)
    assert cores_here(Engine()).units >= 1
    with pytest.raises(SetupError, match="cuda:99"):
        capacity_here(Engine(device="cuda:99"))


@pytest.fixture
def cluster(monkeypatch):
    """A cluster that this process is connected to, with a GPU in one of its two nodes."""
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0}},
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}},
        {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}},
    ]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: nodes)


@pytest.mark.parametrize(
    ("device", "expected"),
    [("auto", Capacity("cuda", 2)), ("cuda", Capacity("cuda", 2)), ("cpu", Capacity("cpu", 24))],
)
def test_workers_of_a_cluster_have_what_it_has_and_not_what_the_driver_has(cluster, device, expected):
    assert capacity_of_workers(Engine(type="ray", device=device), HERE) == expected


def test_a_cluster_without_the_gpus_that_were_asked_for_is_refused_before_a_trial(cluster, monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 4.0}}])
    with pytest.raises(SetupError, match=r"engine\.device cuda; expected a cluster with GPUs; found 4 CPUs"):
        capacity_of_workers(Engine(type="ray", device="cuda"), HERE)
    assert capacity_of_workers(Engine(type="ray", device="auto"), HERE) == Capacity("cpu", 4)


def test_workers_without_a_cluster_to_join_have_what_this_machine_has(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    assert capacity_of_workers(Engine(type="ray"), HERE) == HERE
    monkeypatch.setitem(sys.modules, "distilbatch.engine.actors", None)  # not even imported
    assert capacity_of_workers(Engine(), HERE) == HERE


def test_a_cluster_that_cannot_be_reached_is_said_so():
    with pytest.raises(SetupError, match=r"Ray cluster 127\.0\.0\.1:1; expected a cluster to work on"):
        capacity_of_workers(Engine(type="ray", address="127.0.0.1:1"), HERE)
