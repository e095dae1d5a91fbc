"""Tokens, their ids and their text: what a tokenizer of a checkpoint can be asked without encoding anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from distilbatch.errors import CheckpointError
from distilbatch.tokenization.options import TokenizerOptions

Ids = Sequence[int] | NDArray[np.integer]

# What decoding closes up when asked to clean up, in this order.
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class VocabularyLookup:
    """The vocabulary of a loaded tokenizer, its special tokens, and the way back from ids to text.

    Args:
        tokenizer: As ``load_tokenizer`` gives it.
        options: Those of its folder.

    Attributes:
        unk_token_id, cls_token_id, sep_token_id: Ids of special tokens.
        pad_token_id, mask_token_id: Ids of those that a vocabulary may lack; then None.

    Raises:
        CheckpointError: The tokenizer lacks [UNK], [CLS] or [SEP].
    """

    def __init__(self, tokenizer: Tokenizer, options: TokenizerOptions) -> None:
        self._tokenizer = tokenizer
        self._options = options
        self.unk_token_id = self._required("unk")
        self.cls_token_id = self._required("cls")
        self.sep_token_id = self._required("sep")
        self.pad_token_id = self._special_id("pad")
        self.mask_token_id = self._special_id("mask")

    def decode(
        self,
        ids: int | Ids,
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """Turn token ids back into a text.

        Args:
            ids: Token ids, or one.
            skip_special_tokens: Whether to leave out special tokens.
            clean_up_tokenization_spaces: Whether to take out the blanks that the decoder left before punctuation;
                as the checkpoint says without it.
        """
        text: str = self._tokenizer.decode(_listed(ids), skip_special_tokens=skip_special_tokens)
        wanted = self._options.clean_up_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        for blank in _CLEAN_UP if wanted else ():
            text = text.replace(blank, blank.strip())
        return text

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text, without special tokens around it."""
        tokens: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return tokens

    @overload
    def convert_ids_to_tokens(self, ids: int) -> str | None: ...

    @overload
    def convert_ids_to_tokens(self, ids: Ids) -> list[str | None]: ...

    def convert_ids_to_tokens(self, ids: int | Ids) -> str | list[str | None] | None:
        """Return the token of an id, or of each of them; None where there is none."""
        tokens: list[str | None] = [self._tokenizer.id_to_token(index) for index in _listed(ids)]
        return tokens[0] if isinstance(ids, (int, np.integer)) else tokens

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...

    @overload
    def convert_tokens_to_ids(self, tokens: list[str] | tuple[str, ...]) -> list[int]: ...

    def convert_tokens_to_ids(self, tokens: str | list[str] | tuple[str, ...]) -> int | list[int]:
        """Return the id of a token, or of each of them; that of [UNK] where it is not in the vocabulary."""
        found = [self._tokenizer.token_to_id(token) for token in ([tokens] if isinstance(tokens, str) else tokens)]
        ids = [self.unk_token_id if index is None else index for index in found]
        return ids[0] if isinstance(tokens, str) else ids

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, without added tokens."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=False)
        return size

    def __len__(self) -> int:
        """Entries of the vocabulary and added tokens."""
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token, added tokens included."""
        vocab: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocab

    def _special_id(self, role: str) -> int | None:
        token = self._options.special.get(role)
        return None if token is None else self._tokenizer.token_to_id(token.content)

    def _required(self, role: str) -> int:
        found = self._special_id(role)
        if found is None:
            raise CheckpointError("the tokenizer lacks a token", expected=self._options.special[role].content)
        return found


def _listed(ids: int | Ids) -> list[int]:
    return [int(ids)] if isinstance(ids, (int, np.integer)) else [int(index) for index in ids]
