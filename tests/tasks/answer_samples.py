"""A small vocabulary of several scripts, and scores of tokens without a model: what golden answers are made of."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

LETTERS = "abcdefghijklmnopqrstuvwxyzабвгдежиклмнопрстуя0123456789"
WORDS = (
    "the",
    "a",
    "river",
    "town",
    "house",
    "who",
    "where",
    "lives",
    "anna",
    "bob",
    "in",
    "of",
    "play",
    "москва",
    "год",
)
VOCABULARY = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *WORDS,
    *("##s", "##ing", "##er", "##ville", "##ский"),
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    *".,?!'-()",
    *"東京大学日本語",
)


def write_vocabulary(folder: Path) -> Path:
    """Write ``vocab.txt`` of an uncased tokenizer."""
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder


def token_scores(input_ids: NDArray[np.integer]) -> NDArray[np.float32]:
    """Start and end scores ``(S, 2)`` between -6 and 6 of one document; a token's place in it matters."""
    keys = [(place, int(token_id)) for place, token_id in enumerate(input_ids)]
    hashes = [[zlib.crc32(f"{side} {place} {token}".encode()) for side in "se"] for place, token in keys]
    return (np.array(hashes, dtype=np.float64) / 2**32 * 12 - 6).astype(np.float32)
