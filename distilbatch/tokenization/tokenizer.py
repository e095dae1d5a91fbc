"""Read the tokenizer of a checkpoint folder: ``tokenizer.json``, or ``vocab.txt`` with its options.

Padding and truncation are ours: the stored file's settings are switched off. Options that the small files beside it
spell out win over those stored in ``tokenizer.json``, unless the class that they name is a generic one, as in the
reference.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from typing_extensions import Self

from distilbatch.errors import CheckpointError
from distilbatch.oserrors import storing
from distilbatch.tokenization.options import (
    ADDED_TOKENS_FILE,
    CONFIG_FILE,
    NORMALIZER_OPTIONS,
    REQUIRED,
    SPECIAL_TOKENS_FILE,
    TokenizerOptions,
    read_text,
)

TOKENIZER_FILE = "tokenizer.json"
VOCAB_FILE = "vocab.txt"
TOKENIZER_FILES = (TOKENIZER_FILE, VOCAB_FILE, CONFIG_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE)
"""All files that decide which ids come out."""
MIN_MAX_LENGTH = 3  # [CLS], one token, [SEP]

# Classes for which the reference takes the pipeline in tokenizer.json as it is, whatever options stand beside it.
_GENERIC_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")
_STORED_ELSEWHERE = ("added_tokens_decoder", "name_or_path", "tokenizer_file", "vocab_file")


def load_tokenizer(folder: Path, *, options: TokenizerOptions | None = None) -> Tokenizer:
    """Read the tokenizer of a checkpoint folder.

    Args:
        folder: Has ``tokenizer.json``, which is preferred, or ``vocab.txt``.
        options: Those of the folder, where they have been read already.

    Raises:
        CheckpointError: Neither file is there, it is damaged, or it lacks a special token.
    """
    options = options or TokenizerOptions.read(folder)
    if (folder / TOKENIZER_FILE).is_file():
        path = folder / TOKENIZER_FILE
        tokenizer = _from_json(path)
    elif (folder / VOCAB_FILE).is_file():
        path = folder / VOCAB_FILE
        tokenizer = _from_vocab(path, options)
    else:
        raise CheckpointError(
            f"{folder}: no tokenizer",
            expected=f"{TOKENIZER_FILE} or {VOCAB_FILE}",
            found="neither",
            remedy="copy the tokenizer files of the checkpoint into the folder",
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    _apply(options, tokenizer, path)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, options: TokenizerOptions) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``, from which ``load_tokenizer`` makes the same tokenizer.

    Raises:
        StopError: The folder cannot be written.
    """
    config = {key: value for key, value in options.raw.items() if key not in _STORED_ELSEWHERE}
    config |= {f"{role}_token": token.content for role, token in options.special.items()}
    normalizer = tokenizer.normalizer
    if isinstance(normalizer, normalizers.BertNormalizer):
        config |= {key: getattr(normalizer, setting) for key, setting in NORMALIZER_OPTIONS.items()}
    config["tokenizer_class"] = "DistilBertTokenizer"
    text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    with storing("write a tokenizer to", folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / TOKENIZER_FILE).write_text(tokenizer.to_str(), encoding="utf-8")
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True, eq=False)
class Template:
    """The special tokens around a text, or around and between two.

    Args:
        before: ``(K,)`` int64 ids in front of the first text.
        between: Ids between the two; empty for a single text.
        after: Ids behind the last text.
    """

    before: NDArray[np.int64]
    between: NDArray[np.int64]
    after: NDArray[np.int64]

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, pair: bool) -> Self:
        """Find them by asking the tokenizer for an example.

        Raises:
            CheckpointError: The tokenizer cannot even encode a letter.
        """
        try:
            probe = tokenizer.encode("a", "a") if pair else tokenizer.encode("a")
        except Exception as error:
            raise CheckpointError("the tokenizer does not work", found=str(error)) from error
        last = 1 if pair else 0
        where = [-1 if text is None else text for text in probe.sequence_ids]
        if 0 not in where or last not in where:
            raise CheckpointError("the tokenizer does not work", expected="a token for a letter", found="none")
        first_stop, last_start = len(where) - where[::-1].index(0), where.index(last)
        ids = np.array(probe.ids, dtype=np.int64)
        between = ids[first_stop:last_start] if pair else ids[:0]
        return cls(ids[: where.index(0)], between, ids[len(where) - where[::-1].index(last) :])

    @property
    def num_tokens(self) -> int:
        """How many tokens they are."""
        return len(self.before) + len(self.between) + len(self.after)


def _from_json(path: Path) -> Tokenizer:
    text = read_text(path)
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the Rust binding raises plain Exception for every malformed file
        raise CheckpointError(f"{path}: not a tokenizer file", found=str(error)) from error


def _from_vocab(path: Path, options: TokenizerOptions) -> Tokenizer:
    """Build BERT's WordPiece tokenizer; a token's id is the number of its line."""
    tokens = read_text(path).split("\n")
    while tokens and not tokens[-1].rstrip():
        tokens.pop()
    vocab = {token.rstrip(): index for index, token in enumerate(tokens)}
    for role in REQUIRED:
        if options.special[role].content not in vocab:
            raise CheckpointError(
                f"{path}: a special token is missing",
                expected=options.special[role].content,
                remedy=f"name the right one in {CONFIG_FILE} as {role}_token, or fetch the file again",
            )
    tokenizer = Tokenizer(WordPiece(vocab, unk_token=options.special["unk"].content))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _apply(options: TokenizerOptions, tokenizer: Tokenizer, path: Path) -> None:
    normalizer = tokenizer.normalizer
    as_stored = path.name == TOKENIZER_FILE and options.raw.get("tokenizer_class") in _GENERIC_CLASSES
    if options.normalizer and not as_stored and isinstance(normalizer, normalizers.BertNormalizer):
        settings: dict[str, Any] = {
            "handle_chinese_chars": normalizer.handle_chinese_chars,
            "strip_accents": normalizer.strip_accents,
            "lowercase": normalizer.lowercase,
        }
        tokenizer.normalizer = normalizers.BertNormalizer(
            clean_text=normalizer.clean_text, **settings | dict(options.normalizer)
        )
    _add_tokens(options, tokenizer, path)
    model = tokenizer.model
    if isinstance(model, WordPiece) and tokenizer.token_to_id(model.unk_token) is None:
        raise CheckpointError(f"{path}: the token for unknown words is missing", expected=model.unk_token)
    if tokenizer.decoder is None:
        tokenizer.decoder = decoders.WordPiece()
    if tokenizer.post_processor is None:
        cls, sep = (options.special[role].content for role in ("cls", "sep"))
        cls_id, sep_id = tokenizer.token_to_id(cls), tokenizer.token_to_id(sep)
        if cls_id is not None and sep_id is not None:
            tokenizer.post_processor = processors.BertProcessing((sep, sep_id), (cls, cls_id))


def _add_tokens(options: TokenizerOptions, tokenizer: Tokenizer, path: Path) -> None:
    # Tokens that are found in a text before it is cut into words.
    registered = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    for index, token in sorted(options.added.items()):
        if registered.get(token.content) != token:
            tokenizer.add_tokens([token])
            registered[token.content] = token
        found = tokenizer.token_to_id(token.content)
        if found != index:
            raise CheckpointError(
                f"{path}: added token {token.content!r} does not belong to this vocabulary",
                expected=f"id {index}, as stated beside it",
                found=f"id {found}",
                remedy="fetch all tokenizer files of the checkpoint again",
            )
    in_use = [
        token
        for role, token in options.special.items()
        if role in options.named or tokenizer.token_to_id(token.content) is not None
    ]
    tokenizer.add_special_tokens([token for token in (*in_use, *options.extra) if token.content not in registered])
