"""Annotate tables of documents with DistilBERT, exactly once, on a laptop or a Ray cluster.

The public names are loaded on first use, so that importing the package loads neither torch nor ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distilbatch.config import (
        FeatureExtraction,
        FillMask,
        MultipleChoice,
        QuestionAnswering,
        TextClassification,
        TokenClassification,
        ZeroShotClassification,
        load_config,
    )
    from distilbatch.engine.annotator import Annotator
    from distilbatch.engine.driver import run
    from distilbatch.engine.forecast import plan
    from distilbatch.errors import DistilbatchError
    from distilbatch.pipeline import Pipeline
    from distilbatch.report.verify import verify

__version__ = "0.1.0"

__all__ = [
    "Annotator",
    "DistilbatchError",
    "FeatureExtraction",
    "FillMask",
    "MultipleChoice",
    "Pipeline",
    "QuestionAnswering",
    "TextClassification",
    "TokenClassification",
    "ZeroShotClassification",
    "__version__",
    "load_config",
    "plan",
    "run",
    "verify",
]

_HOMES = {
    "Annotator": "distilbatch.engine.annotator",
    "DistilbatchError": "distilbatch.errors",
    "Pipeline": "distilbatch.pipeline",
    "FeatureExtraction": "distilbatch.config",
    "FillMask": "distilbatch.config",
    "MultipleChoice": "distilbatch.config",
    "QuestionAnswering": "distilbatch.config",
    "TextClassification": "distilbatch.config",
    "TokenClassification": "distilbatch.config",
    "ZeroShotClassification": "distilbatch.config",
    "load_config": "distilbatch.config",
    "plan": "distilbatch.engine.forecast",
    "run": "distilbatch.engine.driver",
    "verify": "distilbatch.report.verify",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'distilbatch' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
