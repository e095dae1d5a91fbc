"""First-token states: those of the model, in the order of the texts."""

from __future__ import annotations

import pytest
import tiny_job
import torch

from distilbatch.errors import DataError
from distilbatch.model.encoder import DistilBertModel
from distilbatch.train import features
from distilbatch.train.features import first_token_states

TEXTS = ["red", "one two three fish", "blue bird", "green", "fish " * 30]


@pytest.mark.parametrize("max_batch_tokens", [5, 8192])
def test_states_are_those_of_the_padded_model_in_the_order_of_the_texts(tmp_path, monkeypatch, max_batch_tokens):
    monkeypatch.setattr(features, "MAX_BATCH_TOKENS", max_batch_tokens)
    folder = tiny_job.write_checkpoint(tmp_path / "model")
    found = first_token_states(folder, TEXTS)
    model = DistilBertModel.from_pretrained(folder)
    for text, state in zip(TEXTS, found, strict=True):
        words = [tiny_job.VOCABULARY.index(word) for word in text.split()][: tiny_job.MAX_TOKENS - 2]
        ids = torch.tensor([[2, *words, 3]])  # [CLS] ... [SEP]
        with torch.no_grad():
            expected = model(ids).last_hidden_state[0, 0]
        torch.testing.assert_close(state, expected, atol=1e-5, rtol=1e-5)


def test_a_text_without_tokens_is_named(tmp_path):
    folder = tiny_job.write_checkpoint(tmp_path / "model")
    with pytest.raises(DataError, match="texts without tokens; found 1, the first in row 1; drop them"):
        first_token_states(folder, ["red", " \t", "blue"])
