"""The races beside the main one: the same documents on MiniLM, and documents of 128 tokens each on the same model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from bench_fakes import scripted, timed

from distilbatch.bench.inputs import tokenize
from distilbatch.bench.options import BenchOptions
from distilbatch.bench.prepare import prepare
from distilbatch.bench.ratios import compare_models
from distilbatch.bench.roster import ourselves
from distilbatch.bench.sides import FIXED, MINILM, make_side, side_entrants
from distilbatch.config import load_config
from distilbatch.demo.weights import minilm_folder
from distilbatch.model.convert import convert_bert
from distilbatch.model.modeling import DistilBertForSequenceClassification, DistilBertModel


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A benchmark of the mix, on the smaller of the two models."""
    return prepare(BenchOptions(model="minilm", device="cpu"), tmp_path_factory.mktemp("bench"), threads=1)


@pytest.fixture(scope="module")
def main(prepared):
    lengths = prepared.write_documents(20)
    return prepared.workload(len(lengths)), lengths


def test_minilm_races_over_the_documents_of_the_main_race(prepared, main):
    workload, lengths = main
    side = make_side(MINILM, prepared, workload, lengths)
    assert side.lengths is lengths
    assert side.workload.documents == workload.documents
    assert side.workload.model != workload.model
    assert load_config(side.workload.config).annotate[0].model == str(side.workload.model)
    assert (side.model_config.n_layers, side.model_config.dim) == (6, 384)


def test_minilm_is_the_converted_encoder_under_a_classifier(prepared, main, tmp_path):
    convert_bert(minilm_folder(), tmp_path / "encoder")
    wanted = DistilBertModel.from_pretrained(tmp_path / "encoder").state_dict()
    found = DistilBertForSequenceClassification.from_pretrained(main[0].model).distilbert.state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_every_document_of_the_other_race_has_128_tokens_and_all_have_about_those_of_the_main_race(prepared, main):
    workload, _ = main
    side = make_side(FIXED, prepared, workload, np.array([6400]))
    assert side.lengths.tolist() == [128] * 50
    tokens = tokenize(side.workload)
    assert tokens.lengths.tolist() == [128] * 50
    assert len({row.tobytes() for row in tokens.input_ids.reshape(50, 128)}) == 50  # no repeats for us to skip
    config = load_config(side.workload.config)
    assert (config.source.path, config.annotate[0].max_length) == (str(side.workload.documents), 128)
    assert side.workload.model == workload.model


def test_there_is_minilm_beside_the_base_model_and_one_length_beside_the_mix_on_a_gpu(prepared):
    def names(options, device, *, mixed=True):
        found = side_entrants(options, replace(prepared, device=device, mixed=mixed), ["float32", "int8"])
        return [entrant.name for entrant in found]

    base, other = BenchOptions(model="base"), BenchOptions(model="elsewhere")
    assert names(base, "cpu") == names(BenchOptions(), "cpu") == ["minilm-float32", "minilm-int8"]
    assert names(other, "cpu") == []
    assert names(other, "cuda:0") == ["fixed128-float32", "fixed128-int8"]
    assert names(base, "cuda:0", mixed=False) == ["minilm-float32", "minilm-int8"]


def test_minilm_is_compared_with_the_base_model_in_each_precision():
    small = replace(scripted("minilm-int8", precision="int8"), side=MINILM)
    other = replace(scripted("fixed128-int8", precision="int8"), side=FIXED)
    found = compare_models(
        [
            timed(ourselves("float32"), model=[9.0, 9.0]),
            timed(ourselves("int8"), model=[4.0, 6.0], job=[9.0, 9.0]),
            timed(small, model=[1.0, 1.0]),
            timed(other, model=[5.0, 5.0]),
        ]
    )
    ratio = {"median": 5.0, "min": 4.0, "max": 6.0}
    assert found == [{"name": "minilm-int8", "base": "ours-int8", "ratio": ratio, "shown": True}]
