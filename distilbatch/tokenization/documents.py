"""Documents to token ids laid end to end, without padding; truncation is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from typing_extensions import Self

from distilbatch.errors import CheckpointError
from distilbatch.records import TokenBatch
from distilbatch.tokenization.tokenizer import Template, load_tokenizer


class DocumentTokenizer:
    """Tokenizes single documents to ``[CLS] tokens [SEP]``.

    Args:
        tokenizer: The loaded tokenizer; its padding and truncation are switched off here.
        max_length: Most tokens of a document, special tokens included; the rest is cut from the right.

    Raises:
        CheckpointError: ``max_length`` leaves no room for a token.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        template = Template.of(tokenizer, pair=False)
        self._prefix, self._suffix = template.before.tolist(), template.after.tolist()
        self._room = max_length - template.num_tokens
        if self._room < 1:
            raise CheckpointError(
                "max_length is too small",
                expected=f"at least {template.num_tokens + 1}",
                found=str(max_length),
            )

    @classmethod
    def from_folder(cls, folder: Path, *, max_length: int) -> Self:
        """Read the tokenizer of a checkpoint folder; see ``load_tokenizer``.

        Raises:
            CheckpointError: There is none, or it cannot be read.
        """
        return cls(load_tokenizer(folder), max_length=max_length)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id that can come out."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: list[str | None]) -> TokenBatch:
        """Tokenize B texts.

        Args:
            texts: B texts; None entries are skipped.

        Returns:
            TokenBatch: N <= B documents in order. A text that yields no token (control characters only)
            is left out, like None; ``rows`` says which rows are there.
        """
        rows = [row for row, text in enumerate(texts) if text is not None]
        encodings = self._tokenizer.encode_batch_fast([texts[row] for row in rows], add_special_tokens=False)
        flat: list[int] = []
        kept: list[int] = []
        ends: list[int] = [0]
        truncated: list[bool] = []
        for row, encoding in zip(rows, encodings, strict=True):
            ids = encoding.ids
            if not ids:
                continue
            kept.append(row)
            truncated.append(len(ids) > self._room)
            flat += self._prefix
            flat += ids[: self._room] if len(ids) > self._room else ids
            flat += self._suffix
            ends.append(len(flat))
        return TokenBatch(
            input_ids=np.array(flat, dtype=np.int32),
            cu_seqlens=np.array(ends, dtype=np.int64),
            rows=np.array(kept, dtype=np.int64),
            truncated=np.array(truncated, dtype=np.bool_),
        )
