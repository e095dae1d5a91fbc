"""What a package is about: one topic for each line of package metadata. Used by configs/packages_pipeline.yaml."""

from __future__ import annotations

from distilbatch import Pipeline, TextClassification

PIPELINE = Pipeline(annotate=[TextClassification(name="topic", top_k=3)])
