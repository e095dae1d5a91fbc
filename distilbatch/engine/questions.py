"""Tokenizes what heads ask of a sort buffer; a row that breaks the tokenizer does not break the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distilbatch.inference.duplicates import Distinct, find_distinct
from distilbatch.records import Sequences, TokenBatch
from distilbatch.tokenization import DocumentTokenizer


@dataclass(frozen=True, slots=True)
class Question:
    """What some heads ask of a sort buffer, tokenized.

    Args:
        sequences: The sequences, by row.
        tokens: Their documents.
        distinct: Those of them that have to be computed.
    """

    sequences: Sequences
    tokens: TokenBatch
    distinct: Distinct


def ask(tokenizer: DocumentTokenizer, sequences: Sequences, *, details: bool) -> tuple[Question, dict[int, str]]:
    """Tokenize; rows with a sequence that breaks the tokenizer are left out, and named with the reason.

    Args:
        tokenizer: The tokenizer.
        sequences: What to ask.
        details: Whether to say where each token comes from.
    """
    try:
        return _question(tokenizer, sequences, details=details), {}
    except Exception:
        broken = _breaking(tokenizer, sequences)
        if not broken:
            raise
        keep = np.array([row not in broken for row in sequences.rows.tolist()], dtype=np.bool_)
        kept = np.flatnonzero(keep).tolist()
        second = None if sequences.second is None else [sequences.second[i] for i in kept]
        rest = Sequences([sequences.first[i] for i in kept], second, sequences.rows[keep], sequences.errors)
        return _question(tokenizer, rest, details=details), broken


def _question(tokenizer: DocumentTokenizer, sequences: Sequences, *, details: bool) -> Question:
    tokens = tokenizer.encode(sequences.first, sequences.second, details=details, rows=sequences.rows)
    return Question(sequences, tokens, find_distinct(tokens))


def _breaking(tokenizer: DocumentTokenizer, sequences: Sequences) -> dict[int, str]:
    broken: dict[int, str] = {}
    for index, row in enumerate(sequences.rows.tolist()):
        try:
            second = None if sequences.second is None else [sequences.second[index]]
            tokenizer.encode([sequences.first[index]], second)
        except Exception as error:
            broken[row] = f"tokenizer: {error}"
    return broken
