"""What a frozen encoder makes of texts: the state of the first token of each, computed once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from distilbatch.errors import DataError
from distilbatch.inference.packing import gather, pack
from distilbatch.model.encoder import DistilBertModel
from distilbatch.model.packed import PackedTokens
from distilbatch.tokenization import DocumentTokenizer
from distilbatch.tokenization.options import TokenizerOptions

__all__ = ["first_token_states"]

MAX_BATCH_TOKENS = 8192


def first_token_states(encoder: Path, texts: Sequence[str]) -> Tensor:
    """Encode texts with a checkpoint and keep the last-layer state of ``[CLS]``, which is what heads pool.

    Args:
        encoder: A DistilBERT folder; a head in it is not used.
        texts: N texts.

    Returns:
        ``(N, H)`` float32, in the order of ``texts``.

    Raises:
        CheckpointError: The folder is not a complete DistilBERT checkpoint with a tokenizer.
        DataError: A text has no tokens.
    """
    model = DistilBertModel.from_pretrained(encoder)
    limit = TokenizerOptions.read(encoder).most_tokens(model.config.max_position_embeddings)
    tokenizer = DocumentTokenizer.from_folder(encoder, max_length=limit)
    tokens = tokenizer.encode(list(texts))
    if len(tokens) != len(texts):
        empty = sorted(set(range(len(texts))) - set(tokens.sequences.tolist()))
        raise DataError("texts without tokens", found=f"{len(empty)}, the first in row {empty[0]}", remedy="drop them")
    states = torch.empty((len(texts), model.config.dim))
    with torch.inference_mode():
        for documents in pack(tokens.lengths, max_batch_tokens=MAX_BATCH_TOKENS):
            input_ids = torch.from_numpy(gather(tokens, documents))
            packed = PackedTokens.from_lengths(input_ids, tokens.lengths[documents].tolist())
            states[torch.from_numpy(documents)] = model.forward_packed(packed, "first")
    return states
