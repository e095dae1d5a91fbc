"""``DistilBertTokenizer``: texts and pairs to model inputs and back, with the reference's rules.

For notebooks and for tasks that need pairs or offsets; whole tables of single texts go through ``DocumentTokenizer``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import overload

import numpy as np
from tokenizers import Tokenizer
from typing_extensions import Self

from distilbatch.errors import ConfigError
from distilbatch.tokenization.arguments import Pairs, Texts, as_groups, chosen
from distilbatch.tokenization.encoding import Encoding, Tokens, assemble
from distilbatch.tokenization.options import TokenizerOptions
from distilbatch.tokenization.tokenizer import Template, load_tokenizer, save_tokenizer
from distilbatch.tokenization.vocabulary import VocabularyLookup
from distilbatch.tokenization.windows import SIDES, STRATEGIES, kept_lengths, text_windows

PADDINGS = ("longest", "max_length")


class DistilBertTokenizer(VocabularyLookup):
    """The WordPiece tokenizer of a DistilBERT checkpoint. Threads may share it.

    Args:
        tokenizer: As ``load_tokenizer`` gives it.
        options: Those of its folder.

    Attributes:
        max_length: Most tokens of an encoding, if the checkpoint says so (``model_max_length``).

    Raises:
        CheckpointError: The tokenizer lacks [UNK], [CLS] or [SEP].
    """

    def __init__(self, tokenizer: Tokenizer, options: TokenizerOptions) -> None:
        super().__init__(tokenizer, options)
        self._templates = {1: Template.of(tokenizer, pair=False), 2: Template.of(tokenizer, pair=True)}
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
        text: Texts | Pairs,
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
        text: str | Texts | Pairs,
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
            text: One text, B texts, or B pairs of them.
            text_pair: What stands behind it, as many as there are texts; None for pairs.
            truncation: False or ``do_not_truncate``, or how to cut what is longer than ``max_length``: True or
                ``longest_first``, ``only_first``, ``only_second``.
            truncation_side: Which end is cut off, right or left; the checkpoint's without it.
            max_length: Most tokens, special tokens included; the checkpoint's ``model_max_length`` without it.
                Nothing is cut unless ``truncation`` says so; the reference cuts, with a warning, when it is given
                ``max_length`` alone.
            padding: False or ``do_not_pad``, True or ``longest`` of the call, or ``max_length``.
            return_offsets: Whether to return where each token stands in its text.

        Returns:
            One encoding, or B in the order of the texts.

        Raises:
            ConfigError: The options do not fit together, or a text is neither a string nor a pair of them.
            RowError: ``only_first`` or ``only_second`` would leave nothing of the text that it cuts.
        """
        groups = as_groups(text, text_pair)
        strategy = chosen(truncation, STRATEGIES, "truncation", none="do_not_truncate")
        _check_second(strategy, groups)
        side = chosen(truncation_side or self._options.truncation_side, SIDES, "truncation_side")
        room = self._room(max_length, len(groups)) if strategy else None
        encodings = []
        for index, tokens in enumerate(self._tokenize(groups, with_offsets=return_offsets)):
            lengths = [len(part.ids) for part in tokens]
            keep = lengths if room is None else kept_lengths(lengths, room=room, strategy=strategy, text=index)
            parts = [part.kept(length, side=side) for part, length in zip(tokens, keep, strict=True)]
            encodings.append(assemble(self._templates[len(groups)], parts, text=index, truncated=keep != lengths))
        encodings = self._padded(encodings, chosen(padding, PADDINGS, "padding", none="do_not_pad"), max_length)
        return encodings[0] if isinstance(text, str) else encodings

    def windows(
        self,
        texts: Texts | Pairs,
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
            texts: B texts, or B pairs of them.
            text_pairs: B second texts; None for pairs.
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
