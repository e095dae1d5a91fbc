"""Folders that several tests of tokenization read, and the real texts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tokenizer_folders import SENTENCES, copy_minilm, vocabulary_of, write_vocab


@pytest.fixture(scope="session")
def real_texts(shared_data: Path) -> list[str]:
    """20,000 real texts: half of them beyond ASCII, in a dozen scripts; the first ones are long."""
    articles = json.loads((shared_data / "xquad" / "en.json").read_text("utf-8"))["data"]
    texts = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    for name in ("registry=npm/part-00.parquet", "registry=pypi/part-05.parquet"):
        column = pq.ParquetFile(shared_data / "packages" / name).read(columns=["text"])["text"].drop_null()
        ascii_only = pc.string_is_ascii(column)
        texts += column.filter(pc.invert(ascii_only)).to_pylist()
        texts += column.filter(ascii_only)[: 4600 if "pypi" in name else 4200].to_pylist()
    assert len(texts) >= 20_000
    return texts[:20_000]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints as they are found: by file and by option."""
    root = tmp_path_factory.mktemp("tokenizers")
    tokens = vocabulary_of([*SENTENCES, *(sentence.lower() for sentence in SENTENCES)])
    minilm = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
    return {
        "uncased json": copy_minilm(root / "json", *minilm),
        "uncased vocab": copy_minilm(root / "vocab", *minilm[1:]),
        "vocab alone": copy_minilm(root / "alone", "vocab.txt"),
        "cased": write_vocab(root / "cased", tokens, do_lower_case=False, model_max_length=512),
        "accents kept": write_vocab(root / "accents", tokens, do_lower_case=True, strip_accents=False),
        "accents stripped": write_vocab(root / "stripped", tokens, do_lower_case=False, strip_accents=True),
        "no chinese": write_vocab(root / "chinese", tokens, do_lower_case=False, tokenize_chinese_chars=False),
    }
