"""Texts and pairs of texts to token batches: truncation, text windows, and where each token comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from distilbatch.errors import ConfigError
from distilbatch.records import TokenBatch, TokenDetails
from distilbatch.tokenization.tokenizer import Template
from distilbatch.tokenization.windows import kept_lengths

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Cut:
    """Which tokens of a sequence one document holds; ranges are half-open.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second text; None for single texts.
        truncated: Whether tokens of the sequence are in no document.
    """

    first: Range
    second: Range | None
    truncated: bool


def cut_single(length: int, room: int, stride: int | None) -> Iterator[Cut]:
    """Cut a text of ``length`` tokens to ``room``: its beginning, or windows that overlap by ``stride`` tokens."""
    if length <= room or stride is None:
        yield Cut((0, min(length, room)), None, length > room)
        return
    for window in _windows(length, room, stride):
        yield Cut(window, None, False)


def cut_pair(first: int, second: int, room: int, stride: int | None, *, max_first: int | None = None) -> Iterator[Cut]:
    """Cut a pair to ``room`` tokens: the longer text loses tokens first, or the second is read in windows.

    With windows the first text is cut so that a window always gets on: it keeps at most half of the room, or, with
    ``max_first``, what lets windows get on by an eighth of the room.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second text.
        room: Most tokens of both in a document.
        stride: Tokens that windows share; None reads the beginning only.
        max_first: Most tokens of the first text that are read; None sets no limit of its own.
    """
    kept = first if max_first is None else min(first, max_first)
    if kept + second <= room:
        yield Cut((0, kept), (0, second), kept < first)
        return
    if stride is None:
        kept, kept_second = kept_lengths((kept, second), room=room, strategy="longest_first")
        yield Cut((0, kept), (0, kept_second), True)
        return
    kept = min(kept, room // 2 if max_first is None else longest_stride(room) + 1 - stride)
    for window in _windows(second, room - kept, stride):
        yield Cut((0, kept), window, kept < first)


def longest_stride(room: int) -> int:
    """The largest stride for pairs of ``room`` tokens that leaves a token to a first text with a limit of its own."""
    return room - max(1, room // 8) - 1


def _windows(length: int, room: int, stride: int) -> Iterator[Range]:
    if stride >= room:
        raise ConfigError(
            "stride is too large",
            expected=f"less than the {room} tokens a text window has room for",
            found=str(stride),
            remedy="lower stride or raise max_length",
        )
    start = 0
    while True:
        stop = min(start + room, length)
        yield start, stop
        if stop == length:
            return
        start = stop - stride


class BatchBuilder:
    """Collects documents and lays them end to end.

    Args:
        template: The special tokens around texts.
        details: Whether to keep where each token comes from.
    """

    def __init__(self, template: Template, *, details: bool) -> None:
        self._before, self._between = template.before.tolist(), template.between.tolist()
        self._after = template.after.tolist()
        self._details = details
        self._ids: list[int] = []
        self._ends: list[int] = [0]
        self._sequences: list[int] = []
        self._windows: list[int] = []
        self._truncated: list[bool] = []
        self._offsets: list[Range] = []
        self._parts: list[int] = []

    def add(self, sequence: int, texts: Sequence[Encoding], cuts: Iterator[Cut]) -> None:
        """Add every document that ``cuts`` makes of a sequence."""
        for window, cut in enumerate(cuts):
            self._special(self._before)
            self._text(texts[0], cut.first, 1)
            if cut.second is not None:
                self._special(self._between)
                self._text(texts[1], cut.second, 2)
            self._special(self._after)
            self._ends.append(len(self._ids))
            self._sequences.append(sequence)
            self._windows.append(window)
            self._truncated.append(cut.truncated)

    def build(self) -> TokenBatch:
        """The batch of everything added."""
        details = None
        if self._details:
            offsets: NDArray[np.int32] = np.array(self._offsets, dtype=np.int32).reshape(-1, 2)
            details = TokenDetails(offsets, np.array(self._parts, dtype=np.int8))
        return TokenBatch(
            input_ids=np.array(self._ids, dtype=np.int32),
            cu_seqlens=np.array(self._ends, dtype=np.int64),
            sequences=np.array(self._sequences, dtype=np.int64),
            windows=np.array(self._windows, dtype=np.int32),
            truncated=np.array(self._truncated, dtype=np.bool_),
            details=details,
        )

    def _special(self, ids: Sequence[int]) -> None:
        self._ids += ids
        if self._details:
            self._offsets += [(0, 0)] * len(ids)
            self._parts += [0] * len(ids)

    def _text(self, encoding: Encoding, span: Range, part: int) -> None:
        start, stop = span
        self._ids += encoding.ids[start:stop]
        if self._details:
            self._offsets += encoding.offsets[start:stop]
            self._parts += [part] * (stop - start)
