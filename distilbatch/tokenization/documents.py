"""Documents and pairs of them to token ids laid end to end, without padding; truncation is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from typing_extensions import Self

from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.records import TokenBatch
from distilbatch.tokenization.encode import (
    BatchBuilder,
    Cut,
    cut_pair,
    cut_question,
    cut_single,
    longest_stride,
    most_beside,
)
from distilbatch.tokenization.options import TokenizerOptions
from distilbatch.tokenization.tokenizer import Template, load_tokenizer


class DocumentTokenizer:
    """Tokenizes documents to ``[CLS] text [SEP]``, and pairs to ``[CLS] first [SEP] second [SEP]``.

    Args:
        tokenizer: The loaded tokenizer; its padding and truncation are switched off here.
        max_length: Most tokens of a document, special tokens included.
        stride: Tokens that neighbouring text windows share; None reads the beginning of a long text only.
        max_first: Most tokens of the first text of a pair, a question, whose second text is then the main one: the
            one that windows go over. Without it the first text is the main one.
        whole_second: Whether the second text of a pair is never cut; see :meth:`check_beside`.
        side: Which end of a text is cut off: right or left.

    Raises:
        CheckpointError: ``max_length`` leaves no room for a token.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        stride: int | None = None,
        max_first: int | None = None,
        whole_second: bool = False,
        side: str = "right",
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.max_length = max_length
        self._stride = stride
        self._max_first = max_first
        self._whole_second = whole_second
        self._side = side
        self._frames = {pair: Template.of(tokenizer, pair=pair) for pair in (False, True)}
        if max_length < self._frames[False].num_tokens + 1:
            raise CheckpointError(
                "max_length is too small",
                expected=f"at least {self._frames[False].num_tokens + 1}",
                found=str(max_length),
            )

    @classmethod
    def from_folder(
        cls,
        folder: Path,
        *,
        max_length: int,
        stride: int | None = None,
        max_first: int | None = None,
        whole_second: bool = False,
    ) -> Self:
        """Read the tokenizer of a checkpoint folder, see ``load_tokenizer``, and which end of texts it cuts off.

        Raises:
            CheckpointError: There is none, or it cannot be read.
        """
        options = TokenizerOptions.read(folder)
        return cls(
            load_tokenizer(folder, options=options),
            max_length=max_length,
            stride=stride,
            max_first=max_first,
            whole_second=whole_second,
            side=options.truncation_side,
        )

    def check_room(self, *, pairs: bool) -> None:
        """Refuse settings that cannot work, whatever the texts.

        Args:
            pairs: Whether pairs are going to be encoded, or single texts.

        Raises:
            ConfigError: ``max_length`` leaves no token to each text, or ``stride`` lets windows not get on.
        """
        least = self._frames[pairs].num_tokens + (2 if pairs else 1)
        if self.max_length < least:
            raise ConfigError(
                "max_length is too small", expected=f"at least {least} for two texts", found=str(self.max_length)
            )
        self._check_stride(pairs)

    def check_beside(self, texts: Sequence[str]) -> None:
        """Refuse second texts that are never cut and leave no room for the first, whatever that is.

        Raises:
            ConfigError: One of ``texts`` does.
        """
        most = most_beside(self.max_length - self._frames[True].num_tokens, self._stride)
        for text, encoding in self._encodings(texts, details=False).items():
            if len(encoding) > most:
                raise ConfigError(
                    f"{text[:60]!r} leaves no room for the text beside it",
                    expected=f"at most {most} tokens for a max_length of {self.max_length}",
                    found=str(len(encoding)),
                    remedy="shorten it, lower the stride or raise max_length",
                )

    def _check_stride(self, pairs: bool) -> None:
        room = self.max_length - self._frames[pairs].num_tokens
        longest = longest_stride(room) if pairs else room - 1
        if self._stride is not None and self._stride > longest:
            raise ConfigError(
                "the stride of text windows is too large",
                expected=f"at most {longest} for a max_length of {self.max_length}" if longest >= 0 else "none",
                found=str(self._stride),
                remedy="lower the stride or raise max_length",
            )

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id that can come out."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def token_to_id(self, token: str) -> int | None:
        """The id of a token; None when the vocabulary has no such token."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def id_to_token(self, token_id: int) -> str:
        """The token of an id, with its continuation prefix; empty for an unknown id."""
        return self._tokenizer.id_to_token(token_id) or ""

    def continuations(self) -> NDArray[np.bool_]:
        """``(V,)``, which tokens go on with the word of the token before, such as ``##ing``."""
        prefix = getattr(self._tokenizer.model, "continuing_subword_prefix", None)
        table = np.zeros(self.vocab_size, dtype=np.bool_)
        if prefix:
            vocabulary = self._tokenizer.get_vocab(with_added_tokens=False)
            table[[index for token, index in vocabulary.items() if token.startswith(prefix)]] = True
        return table

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special tokens left out."""
        text: str = self._tokenizer.decode(list(ids))
        return text

    @property
    def unknown_id(self) -> int | None:
        """The token that stands for words outside the vocabulary; None when there is none."""
        token: str | None = getattr(self._tokenizer.model, "unk_token", None)
        return None if token is None else self.token_to_id(token)

    @property
    def marks_words(self) -> bool:
        """Whether a token that goes on with a word says so by a prefix, as in WordPiece."""
        return bool(getattr(self._tokenizer.model, "continuing_subword_prefix", None))

    def join_tokens(self, tokens: Sequence[str]) -> str:
        """The text of tokens given as strings, special or unknown ones too."""
        decoder = self._tokenizer.decoder
        text: str = " ".join(tokens) if decoder is None else decoder.decode(list(tokens))
        return text

    def encode(
        self,
        first: Sequence[str],
        second: Sequence[str] | None = None,
        *,
        details: bool = False,
        rows: NDArray[np.int64] | None = None,
    ) -> TokenBatch:
        """Tokenize M texts, or M pairs.

        Args:
            first: M texts.
            second: M second texts; None for single texts.
            details: Whether to say where each token comes from; costs about as much as tokenizing.
            rows: ``(M,)``, rising: pairs of a row have the same first text, and are read in the same windows of it.
                None where every pair is a row.

        Returns:
            TokenBatch: One document for each text, or as many text windows as it needs. A text that yields no
            token (control characters only) is left out, as is a pair whose main text or second text is such a one;
            ``sequences`` says which are there.

        Raises:
            ConfigError: The stride is too large; :meth:`check_room` tells beforehand.
            RowError: A second text that is never cut leaves no room; :meth:`check_beside` tells beforehand.
        """
        pairs = second is not None
        self._check_stride(pairs)
        room = self.max_length - self._frames[pairs].num_tokens
        encodings = self._encodings([*first, *(second or ())], details)
        builder = BatchBuilder(self._frames[pairs], details=details)
        if second is None:
            for sequence, text in enumerate(first):
                if length := len(encodings[text]):
                    builder.add(sequence, [encodings[text]], cut_single(length, room, self._stride, side=self._side))
                else:
                    builder.leave_out(sequence)
            return builder.build()
        longest = _longest_of_rows([len(encodings[text]) for text in second], rows)
        for sequence, pair in enumerate(zip(first, second, strict=True)):
            texts = [encodings[text] for text in pair]
            if not len(texts[0 if self._max_first is None else 1]):
                builder.leave_out(sequence)
            elif len(texts[1]):
                builder.add(sequence, texts, self._cuts(len(texts[0]), len(texts[1]), room, longest[sequence]))
        return builder.build()

    def _cuts(self, first: int, second: int, room: int, longest: int) -> Iterator[Cut]:
        if self._max_first is not None:
            return cut_question(first, second, room, self._stride, max_question=self._max_first, side=self._side)
        whole = self._whole_second
        return cut_pair(first, second, room, self._stride, longest=longest, side=self._side, whole_second=whole)

    def _encodings(self, texts: Sequence[str], details: bool) -> dict[str, Encoding]:
        """Each distinct text, tokenized once: pairs repeat theirs."""
        distinct = list(dict.fromkeys(texts))
        # The fast form leaves offsets out.
        encode = self._tokenizer.encode_batch if details else self._tokenizer.encode_batch_fast
        return dict(zip(distinct, encode(distinct, add_special_tokens=False), strict=True))


def _longest_of_rows(lengths: Sequence[int], rows: NDArray[np.int64] | None) -> list[int]:
    """For each of M lengths the longest of its row."""
    if rows is None or not len(lengths):
        return list(lengths)
    _, first, owners = np.unique(rows, return_index=True, return_inverse=True)
    longest: list[int] = np.maximum.reduceat(np.array(lengths), first)[owners].tolist()
    return longest
