"""Strict configs: YAML files, environment and overrides to one checked, immutable ``Config``."""

from __future__ import annotations

from distilbatch.config.annotation_base import AnnotationSection
from distilbatch.config.annotations import (
    Annotation,
    FeatureExtraction,
    FillMask,
    MultipleChoice,
    QuestionAnswering,
    TextClassification,
    TokenClassification,
    ZeroShotClassification,
)
from distilbatch.config.engines import Engine
from distilbatch.config.load import load_config, load_config_files, show_config
from distilbatch.config.models import Config, Job
from distilbatch.config.tables import Columns, ParquetSink, ParquetSource, Sink, Source
from distilbatch.config.templates import render, resolve_date, today_in

__all__ = [
    "Annotation",
    "AnnotationSection",
    "Columns",
    "Config",
    "Engine",
    "FeatureExtraction",
    "FillMask",
    "Job",
    "MultipleChoice",
    "ParquetSink",
    "ParquetSource",
    "QuestionAnswering",
    "Sink",
    "Source",
    "TextClassification",
    "TokenClassification",
    "ZeroShotClassification",
    "load_config",
    "load_config_files",
    "render",
    "resolve_date",
    "show_config",
    "today_in",
]
