"""Tokenizes what heads ask of a sort buffer; a row that breaks the tokenizer does not break the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distilbatch.records import Sequences, TokenBatch
from distilbatch.tokenization import DocumentTokenizer


@dataclass(frozen=True, slots=True)
class Question:
    """What some heads ask of a sort buffer, tokenized.

    Args:
        sequences: The sequences, by row.
        tokens: Their documents.
    """

    sequences: Sequences
    tokens: TokenBatch


def ask(tokenizer: DocumentTokenizer, sequences: Sequences, *, details: bool) -> tuple[Question, dict[int, str]]:
    """Tokenize; rows with a sequence that breaks the tokenizer are left out, and named with the reason.

    Args:
        tokenizer: The tokenizer.
        sequences: What to ask.
        details: Whether to say where each token comes from.
    """
    try:
        return Question(sequences, _encode(tokenizer, sequences, details)), {}
    except Exception:
        broken = _breaking(tokenizer, sequences)
        if not broken:
            raise
        keep = np.array([row not in broken for row in sequences.rows.tolist()], dtype=np.bool_)
        kept = np.flatnonzero(keep).tolist()
        second = None if sequences.second is None else [sequences.second[i] for i in kept]
        rest = Sequences([sequences.first[i] for i in kept], second, sequences.rows[keep], sequences.errors)
        return Question(rest, _encode(tokenizer, rest, details)), broken


def _encode(tokenizer: DocumentTokenizer, sequences: Sequences, details: bool) -> TokenBatch:
    return tokenizer.encode(sequences.first, sequences.second, details=details, rows=sequences.rows)


def _breaking(tokenizer: DocumentTokenizer, sequences: Sequences) -> dict[int, str]:
    broken: dict[int, str] = {}
    for index, row in enumerate(sequences.rows.tolist()):
        try:
            second = None if sequences.second is None else [sequences.second[index]]
            tokenizer.encode([sequences.first[index]], second)
        except Exception as error:
            broken[row] = f"tokenizer: {error}"
    return broken
