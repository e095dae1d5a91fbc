"""Texts and pairs of texts to token batches: truncation, text windows, and where each token comes from."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from distilbatch.records import TokenBatch, TokenDetails
from distilbatch.tokenization.tokenizer import Template
from distilbatch.tokenization.windows import kept_lengths, text_windows

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


def cut_single(length: int, room: int, stride: int | None, *, side: str = "right") -> Iterator[Cut]:
    """Cut a text of ``length`` tokens to ``room``: one end of it, or windows that overlap by ``stride`` tokens.

    Args:
        length: Tokens of the text.
        room: Most tokens of it in a document.
        stride: Tokens that windows share; None reads one end only.
        side: Which end is cut off, right or left. Windows are in reading order, and where they do not come out even
            the one at that end is short.
    """
    if stride is None:
        yield Cut(_kept(length, min(length, room), side), None, length > room)
        return
    for window in _in_order(length, room=room, stride=stride, side=side):
        yield Cut(window, None, False)


def cut_pair(
    first: int,
    second: int,
    room: int,
    stride: int | None,
    *,
    longest: int = 0,
    side: str = "right",
    whole_second: bool = False,
) -> Iterator[Cut]:
    """Cut a pair to ``room`` tokens: the longer text loses tokens first, or the first is read in windows.

    Every window has the same part of the second text beside it: all of it where it leaves the first enough room,
    else half of the room, and less only where windows would then not get on by an eighth of the room.

    Args:
        first: Tokens of the first text.
        second: Tokens of the second text.
        room: Most tokens of both in a document.
        stride: Tokens that windows share, at most :func:`longest_stride`; None reads the beginning only.
        longest: Tokens of the longest text that stands beside the same first text; its windows are the same in all
            these pairs, so that what is said of a window can be compared.
        side: Which end of a text is cut off; see :func:`cut_single`.
        whole_second: Whether the second text is never cut; :func:`most_beside` says how long it may be then.

    Raises:
        RowError: A second text that is never cut leaves no room for the first.
        ConfigError: It leaves none for windows that get on.
    """
    if stride is None:
        strategy = "only_first" if whole_second else "longest_first"
        kept = kept_lengths((first, second), room=room, strategy=strategy)
        spans = _kept(first, kept[0], side), _kept(second, kept[1], side)
        yield Cut(*spans, kept != [first, second])
        return
    most = max(min(room // 2, most_beside(room, stride)), room - first)
    beside = max(second, longest)
    kept_second, taken = (second, beside) if whole_second else (min(second, most), min(beside, most))
    for window in _in_order(first, room=room - taken, stride=stride, side=side):
        yield Cut(window, _kept(second, kept_second, side), kept_second < second)


def cut_question(
    question: int, context: int, room: int, stride: int | None, *, max_question: int, side: str = "right"
) -> Iterator[Cut]:
    """Cut a question and its context to ``room`` tokens: the longer loses tokens first, or windows of the context.

    Args:
        question: Tokens of the question.
        context: Tokens of the context.
        room: Most tokens of both in a document.
        stride: Tokens that windows share, at most :func:`longest_stride`; None reads the beginning only.
        max_question: Most tokens of the question that are read; fewer where windows would then not get on by an
            eighth of the room.
        side: Which end of a text is cut off; see :func:`cut_single`.
    """
    kept = min(question, max_question)
    if stride is None or kept + context <= room:
        kept, kept_context = kept_lengths((kept, context), room=room, strategy="longest_first")
        spans = _kept(question, kept, side), _kept(context, kept_context, side)
        yield Cut(*spans, (kept, kept_context) != (question, context))
        return
    kept = min(kept, most_beside(room, stride))
    for window in _in_order(context, room=room - kept, stride=stride, side=side):
        yield Cut(_kept(question, kept, side), window, kept < question)


def longest_stride(room: int) -> int:
    """The largest stride for pairs of ``room`` tokens that leaves a token to the text beside the windows."""
    return room - max(1, room // 8) - 1


def most_beside(room: int, stride: int | None) -> int:
    """The longest text that leaves the one beside it a token, or windows of it that get on by an eighth of the room."""
    return room - 1 if stride is None else longest_stride(room) + 1 - stride


def _kept(length: int, kept: int, side: str) -> Range:
    return (0, kept) if side == "right" else (length - kept, length)


def _in_order(length: int, *, room: int, stride: int, side: str) -> list[Range]:
    # In reading order wherever windows begin, because tasks put them together again.
    return sorted(text_windows(length, room=room, stride=stride, side=side))


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
        self._ids = array("i")  # 4 bytes a token: windows beside several labels or choices repeat a long text
        self._ends: list[int] = [0]
        self._sequences: list[int] = []
        self._windows: list[int] = []
        self._truncated: list[bool] = []
        self._blank: list[int] = []
        self._offsets: list[Range] = []
        self._parts: list[int] = []

    def add(self, sequence: int, texts: Sequence[Encoding], cuts: Iterator[Cut]) -> None:
        """Add every document that ``cuts`` makes of a sequence."""
        # Copied out of the tokenizer once, not for each window.
        ids = [encoding.ids for encoding in texts]
        offsets = [encoding.offsets if self._details else [] for encoding in texts]
        for window, cut in enumerate(cuts):
            self._special(self._before)
            self._text(ids[0], offsets[0], cut.first, 1)
            if cut.second is not None:
                self._special(self._between)
                self._text(ids[1], offsets[1], cut.second, 2)
            self._special(self._after)
            self._ends.append(len(self._ids))
            self._sequences.append(sequence)
            self._windows.append(window)
            self._truncated.append(cut.truncated)

    def leave_out(self, sequence: int) -> None:
        """Note a sequence whose main text has no tokens."""
        self._blank.append(sequence)

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
            blank=np.array(self._blank, dtype=np.int64),
        )

    def _special(self, ids: Sequence[int]) -> None:
        self._ids.extend(ids)
        if self._details:
            self._offsets += [(0, 0)] * len(ids)
            self._parts += [0] * len(ids)

    def _text(self, ids: list[int], offsets: list[Range], span: Range, part: int) -> None:
        start, stop = span
        self._ids.extend(ids[start:stop])
        if self._details:
            self._offsets += offsets[start:stop]
            self._parts += [part] * (stop - start)
