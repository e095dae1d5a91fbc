"""The token classification pipeline of ``transformers`` on a checkpoint, and texts to compare it on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

WORDS = (
    "the Anna Berlin unaffable tokenization micro-soft e-mail don't 3.14 U.S.A. naïve "
    "Ünïcödé İstanbul Straße ﬁne 東京 機械学習 東京タワー 서울특별시 한국어 Москва приветствие Ελλάδα αθήνα "
    "עברית العربية हिन्दी ภาษาไทย ₹500 x² Å é̀ ñ 🙂 👩‍👩‍👧 ☃ [SEP] [MASK] [UNK] ##ing # @user "
    "http://example.org/a?b=c qwrtzpsdfg \u200bzero \ufeffbom a\u0301 ... !? ( )"
)
GAPS = (" ", " ", " ", "", "  ", "\t", "\n", "\u00a0", "\u3000", "\x00", "-", ",")


def random_texts(count: int, *, seed: int, most_words: int = 14) -> list[str]:
    """Texts of several scripts, punctuation, marks, unknown characters and special tokens."""
    rng, words = random.Random(seed), WORDS.split()
    return [
        "".join(rng.choice(words) + rng.choice(GAPS) for _ in range(rng.randint(1, most_words))) for _ in range(count)
    ]


class Reference:
    """The pipeline.

    Args:
        folder: The checkpoint.
        max_length: Most tokens of a document.
    """

    def __init__(self, folder: Path, *, max_length: int) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, model_max_length=max_length)
        self.model = transformers.DistilBertForTokenClassification.from_pretrained(folder).eval()
        self.pipeline = transformers.TokenClassificationPipeline(
            model=self.model, tokenizer=self.tokenizer, device=torch.device("cpu")
        )

    def __call__(self, text: str | list[str], **options: Any) -> list[dict[str, Any]]:
        """What it says of a text, or of a list of words."""
        if isinstance(text, list):
            options["is_split_into_words"] = True
        return plain(self.pipeline([text] if isinstance(text, list) else text, **options))

    def decode(self, text: str, logits: np.ndarray, *, strategy: str, ignore: Sequence[str]) -> list[dict[str, Any]]:
        """What it makes of given logits ``(S, C)`` of a text's tokens, special tokens included."""
        encoded = self.tokenizer(
            text, truncation=True, return_tensors="pt", return_special_tokens_mask=True, return_offsets_mapping=True
        )
        output = {
            "logits": torch.from_numpy(logits)[None],
            "sentence": text,
            "input_ids": encoded["input_ids"],
            "offset_mapping": encoded["offset_mapping"],
            "special_tokens_mask": encoded["special_tokens_mask"],
        }
        chosen = transformers.pipelines.token_classification.AggregationStrategy(strategy)
        return plain(self.pipeline.postprocess([output], aggregation_strategy=chosen, ignore_labels=list(ignore)))


def plain(entities: Any) -> list[dict[str, Any]]:
    """Entities of one text, with Python's own numbers."""
    found = entities[0] if entities and isinstance(entities[0], list) else entities
    return [
        {name: value.item() if isinstance(value, np.generic) else value for name, value in entity.items()}
        for entity in found
    ]


def assert_same(ours: list[dict[str, Any]] | None, reference: list[dict[str, Any]], about: object = "") -> None:
    """Everything is equal, scores within 1e-4."""
    scores = [entity.pop("score") for entity in ours or []]
    expected = [entity.pop("score") for entity in reference]
    assert ours == reference, about
    np.testing.assert_allclose(scores, expected, atol=1e-4)
