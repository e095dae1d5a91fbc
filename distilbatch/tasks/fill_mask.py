"""Fill-mask: the likeliest tokens for each mask of a text, with the semantics of the Hugging Face pipeline.

Source of the rules: the documentation of ``transformers.FillMaskPipeline`` (top_k, targets). The choice among the
vocabulary is made on the device (:class:`distilbatch.inference.readouts.MaskScores`); only its result arrives here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from typing_extensions import override

from distilbatch import schema
from distilbatch.records import Decoded, HeadOutput, Sequences
from distilbatch.tasks.base import NOT_FINITE, Asked, Inputs, Task, scatter, single_texts

MAX_TOP_K = 1000


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

    Args:
        decode: Token ids to text.
        mask_token: How a mask is written, for messages.
    """

    def __init__(self, *, decode: Callable[[Sequence[int]], str], mask_token: str) -> None:
        self._decode = decode
        self._mask_token = mask_token

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
        tokens = asked.tokens
        documents = np.searchsorted(tokens.cu_seqlens, output.positions, side="right") - 1  # (M,)
        masks_of = np.bincount(documents, minlength=len(tokens))
        owners = asked.document_rows
        errors = dict.fromkeys(
            owners[masks_of == 0].tolist(), f"no {self._mask_token} token in the part of the text that was read"
        )
        if output.ids is None or not len(output.positions):
            return Decoded(pa.nulls(asked.num_rows, self.type), errors)
        finite = np.isfinite(output.values).all(axis=1)
        broken = np.unique(owners[documents[~finite]])
        errors |= dict.fromkeys(broken.tolist(), NOT_FINITE)
        num_masks, num_scores = output.ids.shape
        items = pa.StructArray.from_arrays(
            [
                self._texts(output.ids.reshape(-1)),
                pa.array(output.ids.reshape(-1), pa.int32()),
                pa.array(output.values.reshape(-1), pa.float32()),
            ],
            fields=list(self.type.value_type.value_type),
        )
        inner = pa.ListArray.from_arrays(pa.array(np.arange(num_masks + 1) * num_scores, pa.int32()), items)
        having = np.flatnonzero(masks_of)
        ends = np.cumsum(masks_of[having])
        lists = pa.ListArray.from_arrays(pa.array([0, *ends.tolist()], pa.int32()), inner).cast(self.type)
        good = ~np.isin(owners[having], broken)
        column = scatter(lists.filter(pa.array(good)), owners[having][good], num_rows=asked.num_rows)
        return Decoded(column, errors)

    def _texts(self, ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> pa.Array:
        distinct, places = np.unique(ids, return_inverse=True)
        words = pa.array([self._decode([token]) for token in distinct.tolist()], pa.string())
        return words.take(pa.array(places))
