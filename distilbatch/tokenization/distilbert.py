"""``DistilBertTokenizer``: texts and pairs to model inputs and back, with the reference's rules.

For notebooks and for tasks that need pairs or offsets; whole tables of single texts go through ``DocumentTokenizer``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from typing_extensions import Self

from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.tokenization.arguments import Texts, as_groups, chosen
from distilbatch.tokenization.encoding import Encoding, Tokens, assemble
from distilbatch.tokenization.options import TokenizerOptions
from distilbatch.tokenization.tokenizer import Template, load_tokenizer, save_tokenizer
from distilbatch.tokenization.windows import SIDES, STRATEGIES, kept_lengths, text_windows

PADDINGS = ("longest", "max_length")

# What decoding closes up when asked to clean up, in this order.
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class DistilBertTokenizer:
    """The WordPiece tokenizer of a DistilBERT checkpoint. Threads may share it.

    Args:
        tokenizer: As ``load_tokenizer`` gives it.
        options: Those of its folder.

    Attributes:
        unk_token_id, cls_token_id, sep_token_id: Ids of special tokens.
        pad_token_id, mask_token_id: Ids of those that a vocabulary may lack; then None.
        max_length: Most tokens of an encoding, if the checkpoint says so (``model_max_length``).

    Raises:
        CheckpointError: The tokenizer lacks [UNK], [CLS] or [SEP].
    """

    def __init__(self, tokenizer: Tokenizer, options: TokenizerOptions) -> None:
        self._tokenizer = tokenizer
        self._options = options
        self._templates = {1: Template.of(tokenizer, pair=False), 2: Template.of(tokenizer, pair=True)}
        self.unk_token_id = self._required("unk")
        self.cls_token_id = self._required("cls")
        self.sep_token_id = self._required("sep")
        self.pad_token_id = self._special_id("pad")
        self.mask_token_id = self._special_id("mask")
        self.max_length = options.max_length

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Self:
        """Read the tokenizer of a checkpoint folder.

        Args:
            folder: Has ``tokenizer.json``, or ``vocab.txt`` with or without ``tokenizer_config.json``.

        Raises:
            CheckpointError: There is none, or a file is damaged.
        """
        options = TokenizerOptions.read(Path(folder))
        return cls(load_tokenizer(Path(folder), options=options), options)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write ``tokenizer.json`` and ``tokenizer_config.json``, which this class and ``transformers`` read.

        Raises:
            StopError: The folder cannot be written.
        """
        save_tokenizer(self._tokenizer, Path(folder), options=self._options)

    @overload
    def __call__(
        self,
        text: str,
        text_pair: str | None = None,
        *,
        truncation: bool | str = False,
        truncation_side: str | None = None,
        max_length: int | None = None,
        padding: bool | str = False,
        return_offsets: bool = False,
    ) -> Encoding: ...

    @overload
    def __call__(
        self,
        text: Texts,
        text_pair: Texts | None = None,
        *,
        truncation: bool | str = False,
        truncation_side: str | None = None,
        max_length: int | None = None,
        padding: bool | str = False,
        return_offsets: bool = False,
    ) -> list[Encoding]: ...

    def __call__(
        self,
        text: str | Texts,
        text_pair: str | Texts | None = None,
        *,
        truncation: bool | str = False,
        truncation_side: str | None = None,
        max_length: int | None = None,
        padding: bool | str = False,
        return_offsets: bool = False,
    ) -> Encoding | list[Encoding]:
        """Encode a text or a pair as ``[CLS] text [SEP]`` or ``[CLS] text [SEP] pair [SEP]``, or many of them.

        Args:
            text: One text, or B texts.
            text_pair: What stands behind it, as many as there are texts.
            truncation: False, or how to cut what is longer than ``max_length``: True or ``longest_first``,
                ``only_first``, ``only_second``.
            truncation_side: Which end is cut off, right or left; the checkpoint's without it.
            max_length: Most tokens, special tokens included; the checkpoint's ``model_max_length`` without it.
            padding: False, True or ``longest`` of the call, or ``max_length``.
            return_offsets: Whether to return where each token stands in its text.

        Returns:
            One encoding, or B in the order of the texts.

        Raises:
            ConfigError: The options do not fit together.
            RowError: ``only_first`` or ``only_second`` would leave nothing of the text that it cuts.
        """
        groups = as_groups(text, text_pair)
        strategy = chosen(truncation, STRATEGIES, "truncation")
        _check_second(strategy, groups)
        side = chosen(truncation_side or self._options.truncation_side, SIDES, "truncation_side")
        room = self._room(max_length, len(groups)) if strategy else None
        encodings = []
        for index, tokens in enumerate(self._tokenize(groups, with_offsets=return_offsets)):
            lengths = [len(part.ids) for part in tokens]
            keep = lengths if room is None else kept_lengths(lengths, room=room, strategy=strategy, text=index)
            parts = [part.kept(length, side=side) for part, length in zip(tokens, keep, strict=True)]
            encodings.append(assemble(self._templates[len(groups)], parts, text=index, truncated=keep != lengths))
        encodings = self._padded(encodings, chosen(padding, PADDINGS, "padding"), max_length)
        return encodings[0] if isinstance(text, str) else encodings

    def windows(
        self,
        texts: Texts,
        text_pairs: Texts | None = None,
        *,
        max_length: int | None = None,
        stride: int = 0,
        truncation: str = "only_first",
        truncation_side: str | None = None,
        return_offsets: bool = False,
    ) -> list[list[Encoding]]:
        """Encode B long texts as overlapping text windows, none of their tokens left out.

        Args:
            texts: B texts.
            text_pairs: B second texts.
            max_length: Most tokens of a window, special tokens included.
            stride: Tokens of the text that a window shares with the one before it.
            truncation: Which text is cut into windows, ``only_first`` or ``only_second``; the other is whole in
                each of them.
            truncation_side: Towards which end the windows go, right or left; the checkpoint's without it.
            return_offsets: Whether to return where each token stands in its text.

        Returns:
            For each text its windows, at least one; exactly one where all of it fits.

        Raises:
            ConfigError: The options do not fit together, or ``stride`` leaves a window nothing of its own.
            RowError: The text that stays whole leaves no room for the other.
        """
        groups = as_groups(texts, text_pairs)
        _check_second(chosen(truncation, STRATEGIES[1:], "truncation of windows"), groups)
        cut = STRATEGIES[1:].index(truncation)
        side = chosen(truncation_side or self._options.truncation_side, SIDES, "truncation_side")
        room = self._room(max_length, len(groups))
        found = []
        for index, tokens in enumerate(self._tokenize(groups, with_offsets=return_offsets)):
            lengths = [len(part.ids) for part in tokens]
            keep = kept_lengths(lengths, room=room, strategy=truncation, text=index)[cut]
            ranges = text_windows(lengths[cut], room=keep, stride=stride, side=side)
            pieces = [
                [part.part(*span) if number == cut else part for number, part in enumerate(tokens)] for span in ranges
            ]
            template, others = self._templates[len(groups)], len(ranges) > 1
            found.append([assemble(template, piece, text=index, truncated=others) for piece in pieces])
        return found

    def decode(
        self,
        ids: Sequence[int] | NDArray[np.integer],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """Turn token ids back into a text.

        Args:
            ids: Token ids.
            skip_special_tokens: Whether to leave out special tokens.
            clean_up_tokenization_spaces: Whether to take out the blanks that the decoder left before punctuation;
                as the checkpoint says without it.
        """
        text: str = self._tokenizer.decode([int(index) for index in ids], skip_special_tokens=skip_special_tokens)
        wanted = self._options.clean_up_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        for blank in _CLEAN_UP if wanted else ():
            text = text.replace(blank, blank.strip())
        return text

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text, without special tokens around it."""
        tokens: list[str] = self._tokenizer.encode(text, add_special_tokens=False).tokens
        return tokens

    def convert_ids_to_tokens(self, ids: Sequence[int] | NDArray[np.integer]) -> list[str | None]:
        """Return the token of each id; None where there is none."""
        return [self._tokenizer.id_to_token(int(index)) for index in ids]

    def convert_tokens_to_ids(self, tokens: Sequence[str]) -> list[int]:
        """Return the id of each token; that of [UNK] where it is not in the vocabulary."""
        found = [self._tokenizer.token_to_id(token) for token in tokens]
        return [self.unk_token_id if index is None else index for index in found]

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

    def _tokenize(self, groups: list[list[str]], *, with_offsets: bool) -> Iterator[list[Tokens]]:
        """Yield the tokens of a text, or of the two texts of a pair."""
        encode = self._tokenizer.encode_batch if with_offsets else self._tokenizer.encode_batch_fast
        columns = [encode(texts, add_special_tokens=False) for texts in groups]
        for row in zip(*columns, strict=True):
            yield [
                Tokens(
                    np.array(encoded.ids, dtype=np.int64),
                    np.array(encoded.offsets, dtype=np.int64).reshape(-1, 2) if with_offsets else None,
                )
                for encoded in row
            ]

    def _padded(self, encodings: list[Encoding], padding: str, max_length: int | None) -> list[Encoding]:
        if not padding:
            return encodings
        if self.pad_token_id is None:
            raise ConfigError("padding", expected="a [PAD] token in the vocabulary", found="none")
        if padding == "longest":
            length = max((len(encoding) for encoding in encodings), default=0)
        else:
            length = self._limit(max_length)
        side = self._options.padding_side
        return [encoding.padded(length, pad_token_id=self.pad_token_id, side=side) for encoding in encodings]

    def _room(self, max_length: int | None, num_texts: int) -> int:
        """Tokens of the texts themselves."""
        limit, around = self._limit(max_length), self._templates[num_texts].num_tokens
        if limit <= around:
            raise ConfigError("max_length is too small", expected=f"at least {around + 1}", found=str(limit))
        return limit - around

    def _limit(self, max_length: int | None) -> int:
        limit = max_length or self.max_length
        if limit is None:
            raise ConfigError("max_length", expected="a number: the checkpoint has no model_max_length", found="none")
        return limit


def _check_second(strategy: str, groups: list[list[str]]) -> None:
    if strategy == "only_second" and len(groups) == 1:
        raise ConfigError("truncation only_second", expected="text pairs", found="single texts")
