"""Fill-mask: the likeliest tokens for each mask of a text, with the semantics of the Hugging Face pipeline.

Source of the rules: the documentation of ``transformers.FillMaskPipeline`` (top_k, targets). The choice among the
vocabulary is made on the device (:class:`distilbatch.inference.readouts.MaskScores`); only its result arrives here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from typing_extensions import override

from distilbatch import schema
from distilbatch.records import Decoded, HeadOutput, Sequences
from distilbatch.tasks.base import NOT_FINITE, OUT_OF_MEMORY, Asked, Inputs, Task, single_texts
from distilbatch.tasks.document_tokens import merge_windows


@dataclass(frozen=True, slots=True)
class FillMaskOptions:
    """What a user may choose.

    Args:
        top_k: How many tokens for each mask.
        targets: The only tokens to choose among; None for the whole vocabulary.
    """

    top_k: int = 5
    targets: Sequence[str] | None = None


class FillMaskTask(Task):
    """``list<list<struct<token_str, token, score>>>``: for each mask of a text its tokens by falling score.

    A mask that several text windows hold is filled in the one where it has the most context.

    Args:
        token_text: A token's text, of its id.
        mask_token: How a mask is written, for messages.
        mask_token_id: Its id.
        stride: Tokens that neighbouring text windows share; None where long texts are cut.
    """

    def __init__(
        self, *, token_text: Callable[[int], str], mask_token: str, mask_token_id: int, stride: int | None = None
    ) -> None:
        self._token_text = token_text
        self._mask_token = mask_token
        self._mask_token_id = mask_token_id
        self._stride = stride

    @property
    @override
    def type(self) -> pa.DataType:
        return schema.mask_type()

    @property
    @override
    def sharing_key(self) -> Hashable:
        return ("text",)

    @override
    def sequences(self, inputs: Inputs) -> Sequences:
        return single_texts(inputs)

    @override
    def decode(self, output: HeadOutput, asked: Asked) -> Decoded:
        errors = self._failed(output, asked)
        if output.ids is None or not len(output.positions):
            return Decoded(pa.nulls(asked.num_rows, self.type), errors)
        chosen = self._once(output, asked)  # of the P masks, each of a text once, in reading order
        documents = np.searchsorted(asked.tokens.cu_seqlens, output.positions[chosen], side="right") - 1
        rows = asked.document_rows[documents]
        finite = np.isfinite(output.values[chosen]).all(axis=1)
        errors = dict.fromkeys(rows[~finite].tolist(), NOT_FINITE) | errors
        good = ~np.isin(rows, list(errors))
        chosen, rows = chosen[good], rows[good]
        ids, scores = output.ids[chosen], output.values[chosen]
        num_masks, num_scores = ids.shape
        items = pa.StructArray.from_arrays(
            [self._texts(ids.reshape(-1)), pa.array(ids.reshape(-1), pa.int32()), pa.array(scores.reshape(-1))],
            fields=list(self.type.value_type.value_type),
        )
        edges = pa.array(np.arange(num_masks + 1) * num_scores, pa.int32())
        masks = pa.ListArray.from_arrays(edges, items, type=self.type.value_type)
        counts = np.bincount(rows, minlength=asked.num_rows)
        edges = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        return Decoded(pa.ListArray.from_arrays(edges, masks, type=self.type, mask=pa.array(counts == 0)), errors)

    def _failed(self, output: HeadOutput, asked: Asked) -> dict[int, str]:
        """Rows without a mask, and rows with masks that the head gave nothing for."""
        tokens, rows = asked.tokens, asked.document_rows
        if not len(tokens):
            return {}
        wanted = np.add.reduceat((tokens.input_ids == self._mask_token_id).astype(np.int64), tokens.cu_seqlens[:-1])
        documents = np.searchsorted(tokens.cu_seqlens, output.positions, side="right") - 1
        lacking = np.bincount(documents, minlength=len(tokens)) < wanted
        without = np.setdiff1d(rows, rows[wanted > 0])
        message = f"no {self._mask_token} token in the part of the text that was read"
        return dict.fromkeys(without.tolist(), message) | dict.fromkeys(rows[lacking].tolist(), OUT_OF_MEMORY)

    def _once(self, output: HeadOutput, asked: Asked) -> NDArray[np.int64]:
        places = np.arange(len(output.positions))
        if self._stride is None:
            return places
        numbered = HeadOutput(output.positions, places.astype(np.float32)[:, None])  # exact below 2**24 masks
        return merge_windows(numbered, asked, stride=self._stride).values[:, 0].astype(np.int64)

    def _texts(self, ids: NDArray[np.int64]) -> pa.Array:
        distinct, places = np.unique(ids, return_inverse=True)
        return pa.array([self._token_text(token) for token in distinct.tolist()], pa.string()).take(pa.array(places))
