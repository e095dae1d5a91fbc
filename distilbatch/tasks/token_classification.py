"""Token classification: logits of tokens to labelled spans, with the semantics of the Hugging Face pipeline.

Source of the rules: the documentation of ``transformers.TokenClassificationPipeline`` (aggregation_strategy,
ignore_labels). Text windows are put together before anything is decoded, so a span may cross their borders.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from typing_extensions import override

from distilbatch import schema
from distilbatch.errors import ConfigError
from distilbatch.records import Decoded, HeadOutput, Sequences
from distilbatch.tasks.base import NOT_FINITE, Asked, Inputs, Task, failed_rows, single_texts
from distilbatch.tasks.classes import apply_function
from distilbatch.tasks.document_tokens import DocumentTokens, answered_documents, merge_windows
from distilbatch.tasks.spans import STRATEGIES, WORD_STRATEGIES, Tags, group, label_tokens, label_words

WORDS = "words"
NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class TokenClassificationOptions:
    """What a user may choose.

    Args:
        aggregation_strategy: none lists tokens; simple joins tokens to spans; first, average and max make the tokens
            of a word agree before that.
        ignore_labels: Labels (without B- and I- unless the strategy is none) that are left out.
        words: Whether texts come as lists of words; they are read with a space between words, and characters are
            counted in that text.
    """

    aggregation_strategy: str = "simple"
    ignore_labels: tuple[str, ...] = ("O",)
    words: bool = False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What the task needs of the tokenizer.

    Args:
        tokens: Tokens by id, with their continuation prefix.
        unknown_id: The token that stands for words outside the vocabulary; None where there is none.
        marks_words: Whether a token tells if it goes on with a word (WordPiece).
        join: Tokens to text.
    """

    tokens: Sequence[str]
    unknown_id: int | None
    marks_words: bool
    join: Callable[[Sequence[str]], str]


class TokenClassificationTask(Task):
    """``list<struct<entity_group, score, word, start, end>>``, or of tokens with ``entity`` and ``index``.

    Args:
        labels: C class names in the order of the logits.
        options: The user's choices.
        vocabulary: Of the model.
        stride: Tokens that neighbouring text windows share; None where long texts are cut.

    Raises:
        ConfigError: The strategy is unknown, or needs words that the vocabulary does not mark.
    """

    def __init__(
        self,
        labels: Sequence[str],
        options: TokenClassificationOptions,
        *,
        vocabulary: Vocabulary,
        stride: int | None = None,
    ) -> None:
        strategy = options.aggregation_strategy
        if strategy not in STRATEGIES:
            raise ConfigError("aggregation_strategy is unknown", expected=" or ".join(STRATEGIES), found=repr(strategy))
        if strategy in WORD_STRATEGIES and not vocabulary.marks_words:
            raise ConfigError(
                f"aggregation_strategy {strategy!r}",
                expected="a WordPiece tokenizer, which tells where words begin",
                found="another tokenizer",
                remedy="choose none or simple",
            )
        self._strategy = strategy
        self._tags = Tags(labels)
        names = list(labels) if strategy == "none" else self._tags.names
        self._names = pa.array(names, pa.string())
        self._ignored = np.array([name in options.ignore_labels for name in names], dtype=np.bool_)
        self._words = options.words
        self._join = vocabulary.join
        self._tokens = np.array(vocabulary.tokens, dtype=np.object_)
        self._unknown_id = NO_TOKEN if vocabulary.unknown_id is None else vocabulary.unknown_id
        self._token_lengths = np.array([len(token) for token in vocabulary.tokens], dtype=np.int64)
        self._stride = stride

    @property
    @override
    def type(self) -> pa.DataType:
        return schema.labelled_tokens_type() if self._strategy == "none" else schema.labelled_spans_type()

    @property
    @override
    def sharing_key(self) -> Hashable:
        return (WORDS,) if self._words else ("text",)

    @override
    def sequences(self, inputs: Inputs) -> Sequences:
        return joined_words(inputs) if self._words else single_texts(inputs)

    @override
    def decode(self, output: HeadOutput, asked: Asked) -> Decoded:
        errors = failed_rows(answered_documents(output, asked), asked)
        valid = np.zeros(asked.num_rows, dtype=np.bool_)
        valid[asked.document_rows] = True
        valid[list(errors)] = False
        tokens = merge_windows(output, asked, stride=self._stride)
        rows = asked.sequences.rows[tokens.sequences]
        broken = np.unique(rows[~np.isfinite(tokens.values).all(axis=1)])
        valid[broken] = False
        errors = dict.fromkeys(broken.tolist(), NOT_FINITE) | errors
        tokens = tokens.choose(valid[rows])
        if not len(tokens):
            return Decoded(pa.nulls(asked.num_rows, self.type), errors)
        read = self._read_tokens if self._strategy == "none" else self._read_spans
        rows, columns = read(tokens, asked.sequences)
        items = pa.StructArray.from_arrays(columns, fields=list(self.type.value_type))
        edges = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=asked.num_rows))])
        column = pa.ListArray.from_arrays(pa.array(edges, pa.int32()), items, type=self.type, mask=pa.array(~valid))
        return Decoded(column, errors)

    def _read_tokens(self, tokens: DocumentTokens, asked: Sequences) -> tuple[NDArray[np.int64], list[pa.Array]]:
        """Rows and columns of the tokens with labels that are not ignored."""
        labelled = label_tokens(apply_function(tokens.values, "softmax"))
        kept = np.flatnonzero(~self._ignored[labelled.classes])
        tokens = tokens.choose(kept)
        return asked.rows[tokens.sequences], [
            self._names.take(pa.array(labelled.classes[kept])),
            pa.array(labelled.scores[kept], pa.float32()),
            pa.array(tokens.index, pa.int32()),
            pa.array(self._token_words(tokens, asked), pa.string()),
            pa.array(tokens.offsets[:, 0], pa.int32()),
            pa.array(tokens.offsets[:, 1], pa.int32()),
        ]

    def _read_spans(self, tokens: DocumentTokens, asked: Sequences) -> tuple[NDArray[np.int64], list[pa.Array]]:
        """Rows and columns of the spans with labels that are not ignored."""
        scores = apply_function(tokens.values, "softmax")
        starts_text = np.diff(tokens.sequences, prepend=-1) != 0
        if self._strategy == "simple":
            units = label_tokens(scores)
        else:
            units = label_words(scores, starts_text | self._begins_word(tokens), self._strategy)
        spans = group(units, starts_text[units.first] | self._tags.begin_span(units.classes))
        kept = np.flatnonzero(~self._ignored[spans.classes])
        first, last = units.first[spans.first[kept]], units.last[spans.last[kept]]
        token_words = self._token_words(tokens, asked)
        words = [
            self._span_word(token_words, units.edges[start : stop + 1].tolist())
            for start, stop in zip(spans.first[kept].tolist(), spans.edges[1:][kept].tolist(), strict=True)
        ]
        return asked.rows[tokens.sequences[first]], [
            self._names.take(pa.array(spans.classes[kept])),
            pa.array(spans.scores[kept], pa.float32()),
            pa.array(words, pa.string()),
            pa.array(tokens.offsets[first, 0], pa.int32()),
            pa.array(tokens.offsets[last, 1], pa.int32()),
        ]

    def _begins_word(self, tokens: DocumentTokens) -> NDArray[np.bool_]:
        """Whether a token is as long as its text: a continuation has its prefix on top. Unknown words are words."""
        lengths = tokens.offsets[:, 1] - tokens.offsets[:, 0]
        begins: NDArray[np.bool_] = (self._token_lengths[tokens.ids] == lengths) | (tokens.ids == self._unknown_id)
        return begins

    def _token_words(self, tokens: DocumentTokens, asked: Sequences) -> NDArray[np.object_]:
        """``(K,)`` each token as it is in the vocabulary; an unknown one as it is in the text."""
        words = self._tokens[tokens.ids]
        for place in np.flatnonzero(tokens.ids == self._unknown_id).tolist():
            start, end = tokens.offsets[place].tolist()
            words[place] = asked.first[int(tokens.sequences[place])][start:end]
        return words

    def _span_word(self, token_words: NDArray[np.object_], edges: list[int]) -> str:
        """The text of a span of units that begin at ``edges``, the last of which is its end."""
        join = self._join
        if self._strategy == "simple":
            return join(token_words[edges[0] : edges[-1]].tolist())
        return join([join(token_words[start:stop].tolist()) for start, stop in pairwise(edges)])


def joined_words(inputs: Inputs) -> Sequences:
    """One text for each row that has a list of words; a row with anything else in it is an error."""
    first: list[str] = []
    rows: list[int] = []
    errors: dict[int, str] = {}
    for row, words in enumerate(inputs[WORDS]):
        if words is None:
            continue
        if isinstance(words, str):
            errors[row] = "expected a list of words, found a text"
        elif None in words:
            errors[row] = f"word {list(words).index(None)} is missing or blank"
        else:
            first.append(" ".join(str(word) for word in words))
            rows.append(row)
    return Sequences(first=first, second=None, rows=np.array(rows, dtype=np.int64), errors=errors)
