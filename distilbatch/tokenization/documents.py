"""Documents and pairs of them to token ids laid end to end, without padding; truncation is counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from typing_extensions import Self

from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.records import TokenBatch
from distilbatch.tokenization.encode import BatchBuilder, cut_pair, cut_single, longest_stride
from distilbatch.tokenization.tokenizer import Template, load_tokenizer


class DocumentTokenizer:
    """Tokenizes documents to ``[CLS] text [SEP]``, and pairs to ``[CLS] first [SEP] second [SEP]``.

    Args:
        tokenizer: The loaded tokenizer; its padding and truncation are switched off here.
        max_length: Most tokens of a document, special tokens included.
        stride: Tokens that neighbouring text windows share; None reads the beginning of a long text only.
        max_first: Most tokens of the first text of a pair; None sets no limit of its own.

    Raises:
        CheckpointError: ``max_length`` leaves no room for a token of each text.
        ConfigError: ``stride`` leaves a first text with a limit no room.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, max_length: int, stride: int | None = None, max_first: int | None = None
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.max_length = max_length
        self._stride = stride
        self._max_first = max_first
        self._frames = {pair: Template.of(tokenizer, pair=pair) for pair in (False, True)}
        if max_length < self._frames[False].num_tokens + 1:
            raise CheckpointError(
                "max_length is too small",
                expected=f"at least {self._frames[False].num_tokens + 1}",
                found=str(max_length),
            )
        longest = longest_stride(max_length - self._frames[True].num_tokens)
        if stride is not None and max_first is not None and stride > longest:
            raise ConfigError(
                "the stride of text windows is too large",
                expected=f"at most {longest} for a max_length of {max_length}" if longest >= 0 else "none",
                found=str(stride),
                remedy="lower the stride or raise max_length",
            )

    @classmethod
    def from_folder(
        cls, folder: Path, *, max_length: int, stride: int | None = None, max_first: int | None = None
    ) -> Self:
        """Read the tokenizer of a checkpoint folder; see ``load_tokenizer``.

        Raises:
            CheckpointError: There is none, or it cannot be read.
        """
        return cls(load_tokenizer(folder), max_length=max_length, stride=stride, max_first=max_first)

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

    def encode(self, first: Sequence[str], second: Sequence[str] | None = None, *, details: bool = False) -> TokenBatch:
        """Tokenize M texts, or M pairs.

        Args:
            first: M texts.
            second: M second texts; None for single texts.
            details: Whether to say where each token comes from; costs about as much as tokenizing.

        Returns:
            TokenBatch: One document for each text, or as many text windows as it needs. A text that yields no
            token (control characters only) is left out; ``sequences`` says which are there.
        """
        room = self.max_length - self._frames[second is not None].num_tokens
        firsts, seconds = self._encodings(first, details), self._encodings(second, details)
        builder = BatchBuilder(self._frames[second is not None], details=details)
        for sequence, encoding in enumerate(firsts):
            length = len(encoding)
            if second is None:
                if length:
                    builder.add(sequence, [encoding], cut_single(length, room, self._stride))
            elif len(seconds[sequence]):
                cuts = cut_pair(length, len(seconds[sequence]), room, self._stride, max_first=self._max_first)
                builder.add(sequence, [encoding, seconds[sequence]], cuts)
        return builder.build()

    def _encodings(self, texts: Sequence[str] | None, details: bool) -> list[Encoding]:
        if texts is None:
            return []
        # The fast form leaves offsets out.
        encode = self._tokenizer.encode_batch if details else self._tokenizer.encode_batch_fast
        encodings: list[Encoding] = encode(list(texts), add_special_tokens=False)
        return encodings
