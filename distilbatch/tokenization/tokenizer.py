"""The tokenizer of a checkpoint folder: texts to token ids laid end to end, without padding.

Truncation is ours and counted: the stored file's padding and truncation settings are switched off.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from typing_extensions import Self

from distilbatch.errors import CheckpointError
from distilbatch.records import TokenBatch

MAX_FILE_BYTES = 256 << 20
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json")
MIN_MAX_LENGTH = 3  # [CLS], one token, [SEP]


class DocumentTokenizer:
    """Tokenizes single documents to ``[CLS] tokens [SEP]``.

    Args:
        tokenizer: The loaded tokenizer; its padding and truncation are switched off here.
        max_length: Most tokens of a document, special tokens included; the rest is cut from the right.

    Raises:
        CheckpointError: ``max_length`` leaves no room for a token.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_length: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._prefix, self._suffix = _special_tokens(tokenizer)
        self._room = max_length - len(self._prefix) - len(self._suffix)
        if self._room < 1:
            raise CheckpointError(
                "max_length is too small",
                expected=f"at least {len(self._prefix) + len(self._suffix) + 1}",
                found=str(max_length),
            )

    @classmethod
    def from_folder(cls, folder: Path, *, max_length: int) -> Self:
        """Read ``tokenizer.json``, or ``vocab.txt`` with ``tokenizer_config.json``.

        Raises:
            CheckpointError: Neither file is there, or it cannot be read.
        """
        return cls(load_tokenizer(folder), max_length=max_length)

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id that can come out."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: list[str | None]) -> TokenBatch:
        """Tokenize B texts.

        Args:
            texts: B texts; None entries are skipped.

        Returns:
            TokenBatch: N <= B documents in order. A text that yields no token (control characters only)
            is left out, like None; ``rows`` says which rows are there.
        """
        rows = [row for row, text in enumerate(texts) if text is not None]
        encodings = self._tokenizer.encode_batch_fast([texts[row] for row in rows], add_special_tokens=False)
        flat: list[int] = []
        kept: list[int] = []
        ends: list[int] = [0]
        truncated: list[bool] = []
        for row, encoding in zip(rows, encodings, strict=True):
            ids = encoding.ids
            if not ids:
                continue
            kept.append(row)
            truncated.append(len(ids) > self._room)
            flat += self._prefix
            flat += ids[: self._room] if len(ids) > self._room else ids
            flat += self._suffix
            ends.append(len(flat))
        return TokenBatch(
            input_ids=np.array(flat, dtype=np.int32),
            cu_seqlens=np.array(ends, dtype=np.int64),
            rows=np.array(kept, dtype=np.int64),
            truncated=np.array(truncated, dtype=np.bool_),
        )


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer of a checkpoint folder; see :meth:`DocumentTokenizer.from_folder`."""
    if (folder / "tokenizer.json").is_file():
        return _from_json(folder / "tokenizer.json")
    if (folder / "vocab.txt").is_file():
        return _from_vocab(folder)
    raise CheckpointError(
        f"{folder}: no tokenizer",
        expected="tokenizer.json or vocab.txt",
        found="neither",
        remedy="copy the tokenizer files of the checkpoint into the folder",
    )


def _from_json(path: Path) -> Tokenizer:
    text = _read_text(path)
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the Rust binding raises plain Exception for every malformed file
        raise CheckpointError(f"{path}: not a tokenizer file", found=str(error)) from error


def _from_vocab(folder: Path) -> Tokenizer:
    """Build BERT's WordPiece tokenizer; the options are those of the Hugging Face tokenizer_config.json."""
    tokens = _read_text(folder / "vocab.txt").split("\n")
    while tokens and not tokens[-1]:
        tokens.pop()
    vocab = {token.rstrip("\r"): index for index, token in enumerate(tokens)}
    options = _read_options(folder / "tokenizer_config.json")
    special = {name: str(options.get(f"{name}_token") or f"[{name.upper()}]") for name in ("unk", "cls", "sep")}
    for token in special.values():
        if token not in vocab:
            raise CheckpointError(f"{folder / 'vocab.txt'}: a special token is missing", expected=token)
    lower = bool(options.get("do_lower_case", True))
    tokenizer = Tokenizer(WordPiece(vocab, unk_token=special["unk"]))
    tokenizer.normalizer = normalizers.BertNormalizer(
        lowercase=lower,
        strip_accents=options.get("strip_accents"),
        handle_chinese_chars=bool(options.get("tokenize_chinese_chars", True)),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        (special["sep"], vocab[special["sep"]]), (special["cls"], vocab[special["cls"]])
    )
    known = [token for token in (*special.values(), "[PAD]", "[MASK]") if token in vocab]
    tokenizer.add_special_tokens(known)
    return tokenizer


def _read_options(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        options = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not JSON", found=str(error)) from error
    if not isinstance(options, dict):
        raise CheckpointError(f"{path}: wrong content", expected="a mapping", found=type(options).__name__)
    return options


def _read_text(path: Path) -> str:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{path}: too large", expected=f"at most {MAX_FILE_BYTES} bytes", found=f"{size} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read", found=str(error)) from error


def _special_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids a single document gets in front and behind, found by asking the post-processor."""
    probe = tokenizer.encode("a", add_special_tokens=True)
    inner = len(tokenizer.encode("a", add_special_tokens=False).ids)
    lead = probe.special_tokens_mask.index(0) if 0 in probe.special_tokens_mask else len(probe.ids)
    return probe.ids[:lead], probe.ids[lead + inner :]
