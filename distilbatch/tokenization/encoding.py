"""One tokenized text or pair, as the model takes it, and how it is put together and padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distilbatch.tokenization.tokenizer import Template

NO_TEXT = -1


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """S tokens of a text or pair. DistilBERT has no token types, so there are none.

    Args:
        input_ids: ``(S,)`` int64.
        attention_mask: ``(S,)`` int64, 0 for padding.
        special_tokens_mask: ``(S,)`` int64, 1 for padding and for the special tokens around the texts.
        sequence_ids: ``(S,)`` int64, 0 for tokens of the first text, 1 for the second, -1 for all others.
        offsets: ``(S, 2)`` int64, ``[start, stop)`` of each token in characters of its text, (0, 0) for all
            others; None unless asked for.
        text: Index of the text in the call.
        truncated: Whether tokens of the text are missing here.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    special_tokens_mask: NDArray[np.int64]
    sequence_ids: NDArray[np.int64]
    offsets: NDArray[np.int64] | None = None
    text: int = 0
    truncated: bool = False

    def __len__(self) -> int:
        """S."""
        return len(self.input_ids)

    def padded(self, length: int, *, pad_token_id: int, side: str = "right") -> Encoding:
        """Return an encoding of at least ``length`` tokens.

        Args:
            length: Tokens wanted; a longer encoding stays as it is.
            pad_token_id: What is added.
            side: Where: right or left.
        """
        missing = length - len(self)
        if missing <= 0:
            return self
        ends = (0, missing) if side == "right" else (missing, 0)
        return Encoding(
            input_ids=np.pad(self.input_ids, ends, constant_values=pad_token_id),
            attention_mask=np.pad(self.attention_mask, ends),
            special_tokens_mask=np.pad(self.special_tokens_mask, ends, constant_values=1),
            sequence_ids=np.pad(self.sequence_ids, ends, constant_values=NO_TEXT),
            offsets=None if self.offsets is None else np.pad(self.offsets, (ends, (0, 0))),
            text=self.text,
            truncated=self.truncated,
        )


class Tokens(NamedTuple):
    """The tokens of one text, without special tokens: ``(S,)`` ids, and ``(S, 2)`` offsets where asked for."""

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64] | None

    def part(self, start: int, stop: int) -> Tokens:
        """The tokens ``[start, stop)``."""
        return Tokens(self.ids[start:stop], None if self.offsets is None else self.offsets[start:stop])

    def kept(self, length: int, *, side: str) -> Tokens:
        """What is left of ``length`` tokens when the others are cut off on a side, right or left."""
        start = 0 if side == "right" else len(self.ids) - length
        return self.part(start, start + length)


def assemble(template: Template, parts: Sequence[Tokens], *, text: int, truncated: bool) -> Encoding:
    """Put special tokens around one text or two."""
    between = [template.before, *([template.between] if len(parts) == 2 else []), template.after]
    ids, where = [between[0]], [np.full(len(between[0]), NO_TEXT)]
    for number, (part, special) in enumerate(zip(parts, between[1:], strict=True)):
        ids += [part.ids, special]
        where += [np.full(len(part.ids), number), np.full(len(special), NO_TEXT)]
    input_ids, sequence_ids = np.concatenate(ids), np.concatenate(where)
    special_tokens_mask = (sequence_ids == NO_TEXT).astype(np.int64)
    offsets = None
    if all(part.offsets is not None for part in parts):
        offsets = np.zeros((len(input_ids), 2), dtype=np.int64)
        offsets[special_tokens_mask == 0] = np.concatenate([part.offsets for part in parts])
    return Encoding(
        input_ids=input_ids,
        attention_mask=np.ones_like(input_ids),
        special_tokens_mask=special_tokens_mask,
        sequence_ids=sequence_ids,
        offsets=offsets,
        text=text,
        truncated=truncated,
    )
