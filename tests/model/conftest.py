"""A tiny checkpoint of every kind, and a hub on this machine, for the tests of the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import Hub

from distilbatch.model import hub, modeling
from distilbatch.model.configuration import DistilBertConfig

TINY = DistilBertConfig(
    vocab_size=40,
    max_position_embeddings=16,
    n_layers=2,
    n_heads=2,
    dim=8,
    hidden_dim=12,
    initializer_range=0.3,
    id2label={0: "no", 1: "yes", 2: "maybe"},
)


@pytest.fixture
def tiny_config() -> DistilBertConfig:
    return TINY


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Callable[[str], Path]:
    """Write a checkpoint of a class by its short name (``SequenceClassification``, ``Model``, ...)."""

    def write(kind: str = "ForSequenceClassification") -> Path:
        torch.manual_seed(3)
        model = getattr(modeling, f"DistilBert{kind}")(TINY)
        folder = tmp_path / kind
        model.save_pretrained(folder)
        return folder

    return write


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of our own; with no token, no proxy, no waiting between attempts and no connection left open."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with Hub() as server:
        yield server
    getattr(huggingface_hub, "close_session", lambda: None)()  # the oldest release that is supported has none


@pytest.fixture
def fetch(server: Hub, tmp_path: Path) -> Callable[..., hub.Source]:
    """``hub.fetch`` from the server into a cache of the test's own."""
    return partial(hub.fetch, endpoint=server.url, cache_dir=tmp_path / "cache")
