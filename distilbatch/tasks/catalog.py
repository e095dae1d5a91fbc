"""Which head each task needs; light, so that a config can be checked before anything is loaded."""

from __future__ import annotations

SEQUENCE = "DistilBertForSequenceClassification"
TOKEN = "DistilBertForTokenClassification"
SPAN = "DistilBertForQuestionAnswering"
MASKED = "DistilBertForMaskedLM"
CHOICE = "DistilBertForMultipleChoice"
ENCODER = "DistilBertModel"

TASK_HEADS = {
    "text-classification": SEQUENCE,
    "token-classification": TOKEN,
    "question-answering": SPAN,
    "fill-mask": MASKED,
    "multiple-choice": CHOICE,
    "feature-extraction": ENCODER,
    "zero-shot-classification": SEQUENCE,
}


def tasks_of(architecture: str) -> list[str]:
    """The tasks that a checkpoint of this architecture can do; any checkpoint has an encoder."""
    return [task for task, head in TASK_HEADS.items() if head in {architecture, ENCODER}]
