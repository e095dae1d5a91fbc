"""One file a task: head output to predictions to Arrow columns, on numpy arrays."""

from distilbatch.tasks.base import Task
from distilbatch.tasks.text_classification import TextClassificationTask

__all__ = ["Task", "TextClassificationTask"]
