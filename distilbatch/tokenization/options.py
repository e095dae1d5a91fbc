"""What the small files beside a vocabulary say, as Hugging Face writes them.

``tokenizer_config.json``, ``special_tokens_map.json`` and ``added_tokens.json``. Nothing in them is executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from typing_extensions import Self

from distilbatch.errors import CheckpointError
from distilbatch.tokenization.windows import SIDES

CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
MAX_FILE_BYTES = 256 << 20

SPECIAL_TOKENS = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_MORE_ROLES = ("bos", "eos")  # of no use to the model, but kept whole in a text and left out of decoded ones
REQUIRED = ("unk", "sep", "cls")
NORMALIZER_OPTIONS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""Keys of tokenizer_config.json and the settings of BERT's normalizer that they are."""

_UNLIMITED = 1_000_000_000  # Hugging Face writes 1e30 where there is no limit
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class TokenizerOptions:
    """The options of a checkpoint's tokenizer.

    Args:
        raw: ``tokenizer_config.json`` with ``special_tokens_map.json`` merged in.
        normalizer: Settings of BERT's normalizer that are spelled out; the others are those of the tokenizer's file.
        special: Special tokens by role: unk, sep, pad, cls, mask. A role that the files set to null is left out.
        named: The roles that the files name, which have a token even where the vocabulary lacks it.
        added: Tokens beside the vocabulary, by id.
        extra: More special tokens: of roles that the model does not know, and without a role.
        max_length: Most tokens of an encoding, special tokens included; None where there is no limit.
        truncation_side: Which end of a text is cut off: right or left.
        padding_side: At which end padding is added: right or left.
        clean_up_spaces: Whether decoding takes out the blanks before punctuation.
    """

    raw: Mapping[str, Any]
    normalizer: Mapping[str, bool | None]
    special: Mapping[str, AddedToken]
    named: frozenset[str]
    added: Mapping[int, AddedToken]
    extra: tuple[AddedToken, ...]
    max_length: int | None
    truncation_side: str
    padding_side: str
    clean_up_spaces: bool

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the options of a checkpoint folder; every file may be missing.

        Raises:
            CheckpointError: A file cannot be read, or an entry is of the wrong kind.
        """
        raw = _read_object(folder / CONFIG_FILE)
        if "added_tokens_decoder" in raw:  # then the two older files repeat what is in it
            numbered = _object(raw["added_tokens_decoder"], f"{folder / CONFIG_FILE}: added_tokens_decoder")
        else:
            raw |= _read_object(folder / SPECIAL_TOKENS_FILE)
            tokens = _read_object(folder / ADDED_TOKENS_FILE)
            specials = {_content(value) for key, value in raw.items() if key.endswith("_token")}
            numbered = {index: {"content": token, "special": token in specials} for token, index in tokens.items()}
        return cls.parse(raw, numbered, where=str(folder / CONFIG_FILE))

    @classmethod
    def parse(cls, raw: dict[str, Any], numbered: Mapping[Any, Any], *, where: str) -> Self:
        """Check the merged options.

        Args:
            raw: As ``tokenizer_config.json`` has them.
            numbered: Tokens by id, each a mapping with the token's ``content``.
            where: The file that an error names.
        """
        added = {_index(index, where): _token(token, f"{where}: token {index}") for index, token in numbered.items()}
        known = {token.content: token for token in added.values()}
        roles = {role: raw.get(f"{role}_token") for role in SPECIAL_TOKENS}
        special: dict[str, AddedToken] = {}
        for role, default in SPECIAL_TOKENS.items():
            if roles[role] is None and f"{role}_token" in raw and role not in REQUIRED:
                continue
            token = _token(roles[role] or default, f"{where}: {role}_token")
            special[role] = known.get(token.content, token)
        more = raw.get("additional_special_tokens") or raw.get("extra_special_tokens") or []
        listed = list(more.values()) if isinstance(more, dict) else more
        if not isinstance(listed, list):
            raise CheckpointError(f"{where}: additional_special_tokens", expected="a list", found=type(more).__name__)
        limit = raw.get("model_max_length")
        return cls(
            raw=raw,
            normalizer={
                setting: _flag(raw[key], f"{where}: {key}", optional=key == "strip_accents")
                for key, setting in NORMALIZER_OPTIONS.items()
                if key in raw and (raw[key] is not None or key == "strip_accents")
            },
            special=special,
            named=frozenset(role for role, value in roles.items() if value is not None),
            added=added,
            extra=(
                *(_token(raw[key], f"{where}: {key}") for role in _MORE_ROLES if raw.get(key := f"{role}_token")),
                *(_token(token, f"{where}: additional_special_tokens") for token in listed),
            ),
            max_length=int(limit) if isinstance(limit, (int, float)) and 0 < limit < _UNLIMITED else None,
            truncation_side=_side(raw.get("truncation_side"), f"{where}: truncation_side"),
            padding_side=_side(raw.get("padding_side"), f"{where}: padding_side"),
            clean_up_spaces=bool(raw.get("clean_up_tokenization_spaces")),
        )

    def most_tokens(self, *limits: int) -> int:
        """The least of the limits and of the checkpoint's own, where it has one."""
        return min(limits) if self.max_length is None else min(*limits, self.max_length)


def read_text(path: Path) -> str:
    """Read a UTF-8 file of a checkpoint folder, line ends as they are.

    Raises:
        CheckpointError: It is too large, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise CheckpointError(
                f"{path}: too large", expected=f"at most {MAX_FILE_BYTES} bytes", found=f"{size} bytes"
            )
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: cannot be read", found=str(error)) from error


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON", found=str(error)) from error
    return _object(value, str(path))


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: wrong content", expected="a mapping", found=type(value).__name__)
    return value


def _content(value: object) -> object:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _token(value: object, where: str) -> AddedToken:
    """Read a token, which is special unless it says that it is not."""
    given: dict[str, Any] = value if isinstance(value, dict) else {"content": value}
    content = given.get("content")
    if not isinstance(content, str) or not content:
        raise CheckpointError(f"{where}: wrong content", expected="a token's text", found=repr(value))
    flags = {key: given[key] for key in _FLAGS if isinstance(given.get(key), bool)}
    return AddedToken(content, **{"special": True} | flags)


def _index(value: object, where: str) -> int:
    if isinstance(value, int) or (isinstance(value, str) and value.isascii() and value.isdigit()):
        return int(value)
    raise CheckpointError(f"{where}: wrong id of an added token", expected="a number", found=repr(value))


def _flag(value: object, where: str, *, optional: bool) -> bool | None:
    if isinstance(value, bool) or (value is None and optional):
        return value
    raise CheckpointError(f"{where}: wrong content", expected="true or false", found=repr(value))


def _side(value: object, where: str) -> str:
    if value is None:
        return SIDES[0]
    if value not in SIDES:
        raise CheckpointError(f"{where}: wrong content", expected=" or ".join(SIDES), found=repr(value))
    return str(value)
