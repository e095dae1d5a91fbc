"""Who takes part: ourselves in every precision, and the peers with what they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from distilbatch.bench.workload import FEATURE_EXTRACTION, TEXT_CLASSIFICATION
from distilbatch.errors import ConfigError

OURS, PEER, SIDE = "ours", "peer", "side"
_MODEL_AND_JOB = 2.0
_FILE_ORDER = 2.5  # rows of a batch padded to its longest
INSTALL = "pip install 'distilbatch[bench]'"


@dataclass(frozen=True, slots=True)
class Entrant:
    """Someone who may be measured.

    Args:
        name: Family and precision, joined by a hyphen.
        kind: ``ours``, ``peer``, or ``side``: ourselves in a race beside the main one.
        precision: The number format of its matrix products.
        factory: ``module:callable`` that makes its competitor.
        options: Keyword arguments of that callable.
        requires: Modules it imports beyond our own requirements.
        tasks: Tasks it is compared on; empty for all.
        side: Which race, of kind ``side``.
        cost: About how much a round of it computes, in passes over the documents without padding.
    """

    name: str
    kind: str
    precision: str
    factory: str
    options: dict[str, Any] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    side: str = ""
    cost: float = 1.1

    def missing(self) -> list[str]:
        """Required modules that are not installed. They are looked for, not imported."""
        return [module for module in self.requires if find_spec(module) is None]


def ourselves(precision: str) -> Entrant:
    """Ourselves in one precision."""
    name = f"ours-{precision}"
    options = {"precision": precision, "name": name}
    return Entrant(name, OURS, precision, "distilbatch.bench.ourselves:Ourselves", options, cost=_MODEL_AND_JOB)


def peers(device: str) -> tuple[Entrant, ...]:
    """Every peer, whether it is installed or not.

    Args:
        device: ``cpu`` or a CUDA device; libraries that are measured on CPUs only are left out there.
    """
    both = (TEXT_CLASSIFICATION, FEATURE_EXTRACTION)
    hub, onnx = ("transformers",), ("transformers", "onnx", "onnxscript", "onnxruntime")
    pipeline, ray = "huggingface:HuggingFacePipeline", "ray_data:RayDataPeer"
    sentences = "sentence_transformers:SentenceTransformersPeer"
    # A card without bfloat16, as the T4, is used in float16 by its best user; on CPUs that is emulated.
    formats = ("float32", "bfloat16") if device == "cpu" else ("float32", "bfloat16", "float16")
    found = [
        _fixed("huggingface-pipeline", pipeline, hub, TEXT_CLASSIFICATION),
        *_family("huggingface", "huggingface:sorted_model", hub, both, formats),
        _fixed("ray-data", ray, hub, TEXT_CLASSIFICATION),
        _fixed("sentence-transformers", sentences, ("sentence_transformers",), FEATURE_EXTRACTION),
    ]
    if device != "cpu":
        return tuple(found)
    return (
        *found,
        *_family("onnxruntime", "onnx_runtime:load", onnx, both, ("float32", "int8")),
        *_family("openvino", "openvino:load", ("transformers", "openvino"), both, ("float32", "bfloat16")),
        *_family("openvino", "openvino:load", ("transformers", "openvino", "nncf"), both, ("int8",)),
        *_family("ctranslate2", "ctranslate2:load", ("transformers", "ctranslate2"), both, ("float32", "int8")),
    )


def choose(entrants: Sequence[Entrant], only: Sequence[str]) -> tuple[Entrant, ...]:
    """The entrants named, by name or family; all of them when nobody is.

    Raises:
        ConfigError: Nobody has such a name.
    """
    for word in only:
        if not any(_named(entrant, word) for entrant in entrants):
            known = ", ".join(entrant.name for entrant in entrants)
            raise ConfigError("--only", expected=f"names or families out of: {known}", found=repr(word))
    return tuple(entrant for entrant in entrants if not only or any(_named(entrant, word) for word in only))


def _named(entrant: Entrant, word: str) -> bool:
    return entrant.name == word or entrant.name.startswith(f"{word}-")


def _family(
    name: str, factory: str, requires: tuple[str, ...], tasks: tuple[str, ...], precisions: tuple[str, ...]
) -> list[Entrant]:
    """A library in several precisions."""
    place = f"distilbatch.bench.peers.{factory}"
    return [Entrant(f"{name}-{p}", PEER, p, place, {"precision": p}, requires, tasks) for p in precisions]


def _fixed(name: str, factory: str, requires: tuple[str, ...], task: str) -> Entrant:
    """A library that takes texts, in float32."""
    place = f"distilbatch.bench.peers.{factory}"
    return Entrant(name, PEER, "float32", place, {}, requires, (task,), cost=_FILE_ORDER)
