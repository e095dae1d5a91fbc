"""Puts an untrained head of any task on the converted MiniLM: enough to run that task's config, not to believe it.

python tests/random_head.py fill-mask out/fill_mask/model
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import torch

from distilbatch.demo.weights import minilm_folder
from distilbatch.model.auto import ARCHITECTURES
from distilbatch.model.configuration import CONFIG_FILE, DistilBertConfig
from distilbatch.model.convert import convert_bert
from distilbatch.tasks.catalog import TASK_HEADS

LABELS = {
    "zero-shot-classification": ("contradiction", "neutral", "entailment"),
}


def write(task: str, folder: Path) -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        encoder = Path(place) / "encoder"
        convert_bert(minilm_folder(), encoder)
        config = DistilBertConfig.from_file(encoder / CONFIG_FILE)
        if task in LABELS:
            config.with_labels(LABELS[task]).save(encoder / CONFIG_FILE)
        model = ARCHITECTURES[TASK_HEADS[task]].from_pretrained(encoder, new_head=True)
        model.save_pretrained(folder)
        for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json"):
            if (encoder / name).is_file():
                shutil.copyfile(encoder / name, folder / name)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]))
