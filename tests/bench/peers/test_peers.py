"""Peers with their real libraries, where these are installed: each computes what the plain model computes."""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from importlib import import_module

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_models import write_model

from distilbatch.bench.inputs import tokenize
from distilbatch.bench.reference import Reference
from distilbatch.bench.roster import peers
from distilbatch.bench.workload import Workload
from distilbatch.errors import SetupError
from distilbatch.model.modeling import DistilBertForSequenceClassification, DistilBertModel

TEXTS = ["the river", "Anna and the naïve river of Москва " * 3, "red", "a " * 100, "see “quoted” red 1,000"]
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.3, "int8": 1.0}
KINDS = {"text-classification": DistilBertForSequenceClassification, "feature-extraction": DistilBertModel}
# The Ray Data recipe starts a cluster, and has a test of its own.
CASES = [(entrant, task) for entrant in peers("cpu") for task in entrant.tasks if entrant.name != "ray-data"]


@pytest.fixture(scope="module")
def workloads(tmp_path_factory):
    """One for each task; what peers export is shared."""
    made = {}
    for task, kind in KINDS.items():
        folder = tmp_path_factory.mktemp(task)
        model = write_model(kind, folder / "model", n_heads=4, dim=64, hidden_dim=128, initializer_range=0.1)
        pq.write_table(pa.table({"text": TEXTS}), folder / "documents.parquet")
        pooling = "mean" if task == "feature-extraction" else ""
        sizes = {"max_length": 32, "max_batch_tokens": 64, "threads": 1, "device": "cpu", "scratch": folder}
        made[task] = Workload({}, folder / "documents.parquet", "text", len(TEXTS), model, task, pooling, **sizes)
    return made


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """One thread, and whatever libraries do to logging and threads undone."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    threads, level = torch.get_num_threads(), logging.getLogger().level
    yield
    torch.set_num_threads(threads)
    logging.getLogger().setLevel(level)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("entrant", "task"), CASES, ids=lambda value: getattr(value, "name", value))
def test_a_peer_computes_what_the_plain_model_computes(entrant, task, workloads):
    for module in entrant.requires:
        pytest.importorskip(module, exc_type=ImportError)
    module, _, name = entrant.factory.partition(":")
    try:
        peer = getattr(import_module(module), name)(workload=workloads[task], **entrant.options)
    except SetupError as error:
        pytest.skip(str(error))
    wanted = Reference(workloads[task]).outputs()
    found = peer.outputs()
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < TOLERANCE[entrant.precision]
    peer.probe()
    (scope,) = peer.scopes
    sizes = tokenize(workloads[task]).lengths
    assert sizes.sum() <= peer.run(scope)["tokens_computed"] <= len(sizes) * sizes.max()


def of_lengths(workload, folder, words):
    """The workload over documents of so many words, each a token; two more stand around them."""
    pq.write_table(pa.table({"text": ["red " * count for count in words]}), folder / "of-lengths.parquet")
    return replace(workload, documents=folder / "of-lengths.parquet", num_documents=len(words))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "module", "task", "sorts"),
    [
        ("huggingface-pipeline", "transformers", "text-classification", False),
        ("sentence-transformers", "sentence_transformers", "feature-extraction", True),
    ],
)
def test_recipes_that_take_texts_report_what_their_batches_of_32_are_padded_to(
    name, module, task, sorts, workloads, tmp_path
):
    pytest.importorskip(module, exc_type=ImportError)
    words = random.Random(0).sample(range(1, 71), 70)
    module, _, factory = next(entrant.factory for entrant in peers("cpu") if entrant.name == name).partition(":")
    peer = getattr(import_module(module), factory)(workload=of_lengths(workloads[task], tmp_path, words))
    sizes = [min(count + 2, 32) for count in (sorted(words, reverse=True) if sorts else words)]  # cut at max_length
    batches = [sizes[start : start + 32] for start in range(0, 70, 32)]
    wanted = sum(len(batch) * max(batch) for batch in batches)
    assert sum(sizes) < wanted
    peer.outputs()  # these count for nobody's run
    peer.probe()
    assert [peer.run("text")["tokens_computed"] for _ in range(2)] == [wanted] * 2


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_the_ray_data_recipe_computes_it_too_and_its_actors_report_their_padding(workloads, tmp_path):
    pytest.importorskip("transformers")
    ray = pytest.importorskip("ray")
    from distilbatch.bench.peers.ray_data import RayDataPeer

    # However the rows are cut into blocks and batches, each batch holds a long one.
    workload = of_lengths(workloads["text-classification"], tmp_path, [28, 1] * 20)
    try:
        peer = RayDataPeer(workload)
        assert np.abs(peer.outputs() - Reference(workload).outputs()).max() < TOLERANCE["float32"]
        facts = peer.run("job")
        assert 0 < facts["seconds"] < facts["with_start_s"]
        assert facts["tokens_computed"] == 40 * 30
    finally:
        ray.shutdown()
