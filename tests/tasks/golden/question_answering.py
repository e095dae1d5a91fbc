"""Writes question_answering.json, what the question-answering pipeline of transformers 4.57 answers; run by hand.

    pip install --target /tmp/old 'transformers==4.57.*' && PYTHONPATH=/tmp/old python question_answering.py

Left out: answers of score 0. The pipeline fills up with them, spans that end before they begin among them, when a
context has too few real ones. Questions are short: it cuts long ones only with slow tokenizers, against its manual.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import DistilBertConfig, DistilBertForQuestionAnswering, DistilBertTokenizerFast
from transformers.modeling_outputs import QuestionAnsweringModelOutput
from transformers.pipelines import QuestionAnsweringPipeline

sys.path.insert(0, str(Path(__file__).parents[1]))
from answer_samples import LETTERS, VOCABULARY, WORDS, token_scores, write_vocabulary

CASES = 80
ODDITIES = (
    "東京大学",
    "Élan",
    "Río",
    "e\u0301te",
    "🙂",
    "zero\u200bwidth",
    "[SEP]",
    "tab\there",
    "x\u0000y",
    "\n\n",
    "…",
)


class Scorer(DistilBertForQuestionAnswering):
    """Gives the scores of the samples in place of a network's."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> QuestionAnsweringModelOutput:
        scores = torch.from_numpy(token_scores(input_ids[0].numpy()))[None]
        return QuestionAnsweringModelOutput(start_logits=scores[:, :, 0], end_logits=scores[:, :, 1])


def draw_text(rng: random.Random, words: int) -> str:
    """Known words, words of pieces, unknown ones, punctuation and oddities; in upper and lower case."""
    parts = []
    for _ in range(words):
        word = rng.choice(WORDS)
        kind = rng.random()
        if kind < 0.3:
            word += rng.choice(["s", "ing", "er", "ville", "ский", "xyz", "9"])
        elif kind < 0.4:
            word = "".join(rng.choices(LETTERS, k=rng.randint(1, 6)))
        elif kind < 0.5:
            word = rng.choice(ODDITIES)
        if rng.random() < 0.3:
            word = rng.choice([str.upper, str.title])(word)
        parts.append(word + rng.choice(["", "", "", ",", ".", "'s", " -", "?!"]))
    return rng.choice([" ", " ", "  "]).join(parts)


def draw_case(rng: random.Random) -> dict[str, Any]:
    """A question, a context and options of the pipeline."""
    max_length = rng.choice([24, 40, 64, 384])
    return {
        "question": draw_text(rng, rng.randint(1, 3)),
        "context": draw_text(rng, rng.choice([1, 2, 5, 20, 60])),
        "max_length": max_length,
        "doc_stride": rng.choice([0, 1, max_length // 8, max_length // 4]),
        "options": {
            "top_k": rng.choice([1, 1, 2, 5, 30]),
            "max_answer_len": rng.choice([1, 2, 5, 15, 100]),
            "handle_impossible_answer": rng.random() < 0.5,
            "align_to_words": rng.random() < 0.8,
        },
    }


def main() -> None:
    """Draw cases, answer them, write the file."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        write_vocabulary(Path(folder))
        tokenizer = DistilBertTokenizerFast(str(Path(folder) / "vocab.txt"), do_lower_case=True)
    config = DistilBertConfig(vocab_size=len(VOCABULARY), n_layers=1, n_heads=1, dim=8, hidden_dim=8)
    pipeline = QuestionAnsweringPipeline(model=Scorer(config), tokenizer=tokenizer, device="cpu")
    cases = []
    while len(cases) < CASES:
        case = draw_case(rng)
        words = len(tokenizer(case["question"], add_special_tokens=False)["input_ids"])
        if not 0 < words <= case["max_length"] // 3:
            continue
        answers = pipeline(
            question=case["question"],
            context=case["context"],
            max_seq_len=case["max_length"],
            doc_stride=case["doc_stride"],
            **case["options"],
        )
        answers = [answers] if isinstance(answers, dict) else answers
        case["answers"] = [answer for answer in answers if answer["score"] > 0]
        cases.append(case)
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    content = f'{{"transformers": "{transformers.__version__}", "cases": [\n{lines}\n]}}\n'
    Path(__file__).with_suffix(".json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
