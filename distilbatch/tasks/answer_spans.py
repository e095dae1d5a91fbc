"""The likeliest spans of contexts, from start and end scores of tokens; many text windows at once.

Source of the rules: the documentation of ``transformers.QuestionAnsweringPipeline``, version 4.57: the probability of
a span is that of its first token as a start times that of its last token as an end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_CELLS = 1 << 20  # of one working array

_MASKED = -10_000.0  # the score of tokens that are neither context nor [CLS]


@dataclass(frozen=True, slots=True)
class Contexts:
    """The context tokens of D windows laid end to end, K in all.

    Args:
        tokens: ``(K,)`` int64, where each is among all tokens of the windows.
        lengths: ``(D,)`` int64, context tokens of each window, at least 1.
        probabilities: ``(K, 2)`` float64, of being the start and the end of the answer.
        no_answer: ``(D,)`` float64, the probability that both start and end are ``[CLS]``.
    """

    tokens: NDArray[np.int64]
    lengths: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    no_answer: NDArray[np.float64]

    @property
    def begins(self) -> NDArray[np.int64]:
        """``(D,)`` first context token of each window."""
        begins: NDArray[np.int64] = np.cumsum(self.lengths) - self.lengths
        return begins


@dataclass(frozen=True, slots=True)
class Spans:
    """R spans, those of a window together, by falling score.

    Args:
        windows: ``(R,)`` int64, rising.
        first: ``(R,)`` int64, their first tokens among the K context tokens.
        last: ``(R,)`` int64, their last tokens.
        scores: ``(R,)`` float64, above 0.
    """

    windows: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    scores: NDArray[np.float64]


def read_contexts(logits: NDArray[np.float32], is_context: NDArray[np.bool_], lengths: NDArray[np.int64]) -> Contexts:
    """Turn scores into probabilities over the context and the first token of each window.

    Args:
        logits: ``(P, 2)`` start and end scores of all tokens of D windows laid end to end.
        is_context: ``(P,)`` which of them are context.
        lengths: ``(D,)`` tokens of each window.
    """
    begins = np.cumsum(lengths) - lengths
    owners = np.repeat(np.arange(len(lengths)), lengths)
    answerable = is_context.copy()
    answerable[begins] = True
    values = np.where(answerable[:, None], logits.astype(np.float64), _MASKED)
    values -= np.maximum.reduceat(values, begins, axis=0)[owners]
    np.exp(values, out=values)
    values /= np.add.reduceat(values, begins, axis=0)[owners]
    tokens = np.flatnonzero(is_context)
    return Contexts(
        tokens=tokens,
        lengths=np.bincount(owners[tokens], minlength=len(lengths)),
        probabilities=values[tokens],
        no_answer=values[begins].prod(axis=1),
    )


def best_spans(contexts: Contexts, *, count: int, max_tokens: int) -> Spans:
    """Find the ``count`` likeliest spans of at most ``max_tokens`` tokens in each of at least one window."""
    parts = [
        _search(contexts, windows, count=count, max_tokens=max_tokens)
        for windows in _groups(contexts.lengths, count=count, max_tokens=max_tokens)
    ]
    owners = np.concatenate([part.windows for part in parts])
    order = np.argsort(owners, kind="stable")
    return Spans(
        windows=owners[order],
        first=np.concatenate([part.first for part in parts])[order],
        last=np.concatenate([part.last for part in parts])[order],
        scores=np.concatenate([part.scores for part in parts])[order],
    )


def _groups(lengths: NDArray[np.int64], *, count: int, max_tokens: int) -> Iterator[NDArray[np.int64]]:
    """Windows of similar length, as many as :data:`MAX_CELLS` allows."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = int(lengths[order[start]])
        cells = max(2 * longest, min(count, longest) * min(max_tokens, longest))
        stop = start + max(1, MAX_CELLS // cells)
        yield order[start:stop]
        start = stop


def _search(contexts: Contexts, windows: NDArray[np.int64], *, count: int, max_tokens: int) -> Spans:
    """The best spans of G windows, padded to S tokens."""
    begins = contexts.begins[windows]
    lengths = contexts.lengths[windows]
    size = int(lengths.max())
    width = min(max_tokens, size)
    places = np.arange(size + width - 1)
    inside = places < lengths[:, None]
    index = np.where(inside, begins[:, None] + places, 0)
    padded = np.where(inside[:, :, None], contexts.probabilities[index], 0.0)
    starts, ends = padded[:, :size, 0], padded[:, :, 1]  # (G, S), (G, S + width - 1)
    # Each of the best spans begins at one of the ``count`` tokens whose own best spans are best.
    promising = _best(starts * _ahead(ends, width)[:, :size], count)  # (G, k)
    chosen = np.take_along_axis(starts, promising, axis=1)
    reached = promising[:, :, None] + np.arange(width)  # (G, k, width)
    scores = chosen[:, :, None] * ends[np.arange(len(windows))[:, None, None], reached]
    scores = scores.reshape(len(windows), -1)
    best = _best(scores, count)
    scores = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-scores, axis=1, kind="stable")
    best, scores = np.take_along_axis(best, order, axis=1), np.take_along_axis(scores, order, axis=1)
    first = np.take_along_axis(promising, best // width, axis=1)
    keep = scores > 0  # spans into the padding have probability 0
    offset = begins[:, None]
    return Spans(
        windows=np.broadcast_to(windows[:, None], keep.shape)[keep],
        first=(offset + first)[keep],
        last=(offset + first + best % width)[keep],
        scores=scores[keep],
    )


def _ahead(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The greatest of each value and the ``width - 1`` after it in its row; by doubling, so in few passes."""
    greatest: NDArray[np.float64] = values.copy()
    seen = 1
    while seen < width:
        step = min(seen, width - seen)
        np.maximum(greatest[:, :-step], greatest[:, step:].copy(), out=greatest[:, :-step])
        seen += step
    return greatest


def _best(values: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Places of the ``count`` greatest values of each row, or of all, from left to right."""
    if count >= values.shape[1]:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    chosen: NDArray[np.int64] = np.argpartition(-values, count - 1, axis=1)[:, :count]
    chosen.sort(axis=1)
    return chosen
