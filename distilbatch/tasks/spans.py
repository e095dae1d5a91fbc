"""From scores of tokens to labelled spans: words that agree on a label, and runs of one entity by B- and I- prefixes.

Source of the rules: the documentation of ``transformers.TokenClassificationPipeline``. Everything here runs over the
tokens of many documents at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRATEGIES = ("none", "simple", "first", "average", "max")
WORD_STRATEGIES = ("first", "average", "max")


@dataclass(frozen=True, slots=True)
class Runs:
    """Neighbouring items, put together to R runs with a class each.

    Args:
        edges: ``(R + 1,)`` int64; run r is the items ``edges[r]`` to ``edges[r + 1]``.
        classes: ``(R,)`` int64.
        scores: ``(R,)`` float32, of that class.
    """

    edges: NDArray[np.int64]
    classes: NDArray[np.int64]
    scores: NDArray[np.float32]

    @property
    def first(self) -> NDArray[np.int64]:
        """``(R,)`` first item of each run."""
        return self.edges[:-1]

    @property
    def last(self) -> NDArray[np.int64]:
        """``(R,)`` last item of each run."""
        return self.edges[1:] - 1


class Tags:
    """What labels mean: ``B-PER`` begins a PER, ``I-PER`` goes on with one, and so does a label without prefix.

    Args:
        labels: C labels.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        prefixed = [label.startswith(("B-", "I-")) for label in labels]
        tags = [label[2:] if has else label for label, has in zip(labels, prefixed, strict=True)]
        numbers = {tag: number for number, tag in enumerate(dict.fromkeys(tags))}
        self._numbers = np.array([numbers[tag] for tag in tags], dtype=np.int64)
        self._begins = np.array([label.startswith("B-") for label in labels], dtype=np.bool_)
        # A span is named without any prefix, also one that does not count as B- or I- (E-PER, S-PER).
        self.names = [label.partition("-")[2] if "-" in label else label for label in labels]

    def begin_span(self, classes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of R neighbours ``(R,)`` begins a span, the first one aside: its tag is new, or it says B-."""
        tags = self._numbers[classes]
        begins = self._begins[classes]
        begins[1:] |= tags[1:] != tags[:-1]
        return begins


def label_tokens(scores: NDArray[np.float32]) -> Runs:
    """Every token of ``(K, C)`` scores alone, with its best class."""
    return Runs(np.arange(len(scores) + 1), *_best(scores))


def label_words(scores: NDArray[np.float32], begins: NDArray[np.bool_], strategy: str) -> Runs:
    """Tokens to words, whose tokens get one class.

    Args:
        scores: ``(K, C)`` of tokens.
        begins: ``(K,)`` whether a token begins a word.
        strategy: ``first`` takes the class of the word's first token, ``max`` that of its surest token (the first of
            several), ``average`` the best class of the tokens' mean scores.
    """
    first = np.flatnonzero(begins)
    edges = np.append(first, len(scores))
    if strategy == "average":
        chosen = (np.add.reduceat(scores, first, axis=0) / np.diff(edges)[:, None]).astype(np.float32)
    elif strategy == "max":
        surest = scores.max(axis=1)
        words = np.cumsum(begins) - 1
        candidates = np.flatnonzero(surest == np.maximum.reduceat(surest, first)[words])
        chosen = scores[candidates[np.unique(words[candidates], return_index=True)[1]]]
    else:
        chosen = scores[first]
    return Runs(edges, *_best(chosen))


def group(units: Runs, begins: NDArray[np.bool_]) -> Runs:
    """Units (tokens or words) to spans.

    Args:
        units: R units.
        begins: ``(R,)`` whether a unit begins a span.

    Returns:
        Runs of units: the class of the first, and the mean of the scores.
    """
    first = np.flatnonzero(begins)
    edges = np.append(first, len(units.classes))
    scores = np.add.reduceat(units.scores, first) / np.diff(edges)
    return Runs(edges, units.classes[first], scores.astype(np.float32))


def _best(scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    classes = scores.argmax(axis=1)
    return classes, scores[np.arange(len(scores)), classes]
