"""``DistilBertConfig``: every field and default of the reference, read from and written to ``config.json``.

Sizes are checked here, before anybody allocates by them. Nothing in this file needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model.files import read_json

CONFIG_FILE = "config.json"
MODEL_TYPE = "distilbert"

# fmt: off
ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu", "relu",
    "relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh",
)
# fmt: on
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")

_ALIASES = {"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}
_BOUNDS = {  # inclusive
    "vocab_size": (1, 5_000_000),
    "max_position_embeddings": (1, 1_000_000),
    "n_layers": (1, 128),
    "n_heads": (1, 1024),
    "dim": (1, 16_384),
    "hidden_dim": (1, 131_072),
    "num_labels": (1, 1_000_000),
}
_PROBABILITIES = ("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout")
_FLAGS = (
    "sinusoidal_pos_embds",
    "tie_word_embeddings",
    "output_hidden_states",
    "output_attentions",
    "return_dict",
)


@dataclass(frozen=True)
class DistilBertConfig:
    """Sizes, regularisation and labels of a DistilBERT model.

    ``hidden_size``, ``num_attention_heads`` and ``num_hidden_layers`` are other names of ``dim``, ``n_heads`` and
    ``n_layers``: as properties, and as keys of ``from_dict``.

    Args:
        vocab_size: Rows of the word embedding.
        max_position_embeddings: Rows of the position embedding; the longest document in tokens.
        sinusoidal_pos_embds: Fixed sine and cosine positions in place of learned ones.
        n_layers: Transformer blocks.
        n_heads: Attention heads; divides ``dim``.
        dim: H.
        hidden_dim: Width of the feed-forward layer.
        dropout: Probability after the embeddings and the feed-forward layers, in training.
        attention_dropout: Probability on the attention weights, in training.
        activation: Name out of ``ACTIVATIONS``, or a function from tensor to tensor (which cannot be saved).
        initializer_range: Standard deviation of fresh weights.
        qa_dropout: Probability before the question-answering head.
        seq_classif_dropout: Probability before the classifiers that pool ``[CLS]``.
        pad_token_id: Row of the word embedding that stays zero; None for none.
        eos_token_id: Kept for other readers of the file.
        bos_token_id: Kept for other readers of the file.
        tie_word_embeddings: The masked-LM decoder shares the word embedding.
        num_labels: C. 0 takes it from ``id2label``, or 2 where there is none. ``id2label`` wins over it.
        id2label: Label of each class, keys 0 to C-1.
        label2id: The inverse, as the file has it.
        problem_type: One of ``PROBLEM_TYPES``; None infers it from the labels given to the loss.
        output_hidden_states: Default of the argument of ``forward``.
        output_attentions: Default of the argument of ``forward``.
        return_dict: Default of the argument of ``forward``.
        architectures: Class names the checkpoint was saved from.
        extra: Keys of the file this class has no field for; written back by ``to_dict``.

    Raises:
        ConfigError: A value is of the wrong type or out of bounds.
    """

    vocab_size: int = 30522
    max_position_embeddings: int = 512
    sinusoidal_pos_embds: bool = False
    n_layers: int = 6
    n_heads: int = 12
    dim: int = 768
    hidden_dim: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation: str | Callable[[Any], Any] = "gelu"
    initializer_range: float = 0.02
    qa_dropout: float = 0.1
    seq_classif_dropout: float = 0.2
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = None
    bos_token_id: int | None = None
    tie_word_embeddings: bool = True
    num_labels: int = 0
    id2label: Mapping[int, str] = field(default_factory=dict)
    label2id: Mapping[str, int] = field(default_factory=dict)
    problem_type: str | None = None
    output_hidden_states: bool = False
    output_attentions: bool = False
    return_dict: bool = True
    architectures: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        set_ = object.__setattr__  # frozen: only here, while the value is being made
        if self.id2label:
            set_(self, "id2label", _read_labels(self.id2label))
            set_(self, "num_labels", len(self.id2label))
        else:
            set_(self, "num_labels", self.num_labels if self.num_labels != 0 else 2)
            _check_bounds(self, "num_labels")
            set_(self, "id2label", {i: f"LABEL_{i}" for i in range(self.num_labels)})
        if not self.label2id:
            set_(self, "label2id", {label: i for i, label in self.id2label.items()})
        set_(self, "architectures", tuple(self.architectures or ()))
        _check(self)

    @property
    def hidden_size(self) -> int:
        """``dim``."""
        return self.dim

    @property
    def num_attention_heads(self) -> int:
        """``n_heads``."""
        return self.n_heads

    @property
    def num_hidden_layers(self) -> int:
        """``n_layers``."""
        return self.n_layers

    @property
    def labels(self) -> tuple[str, ...]:
        """The C labels in order of their ids."""
        return tuple(self.id2label[i] for i in range(self.num_labels))

    def with_labels(self, labels: tuple[str, ...]) -> DistilBertConfig:
        """Return a copy whose C classes are named ``labels``."""
        return replace(self, id2label=dict(enumerate(labels)), label2id={})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DistilBertConfig:
        """Read the content of a ``config.json``; unknown keys are kept in ``extra``.

        Raises:
            ConfigError: A value is wrong; the message names its key.
        """
        names = {f.name for f in fields(cls)} - {"extra"}
        known: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for key, value in values.items():
            name = _ALIASES.get(key, key)
            if name not in names:
                extra[key] = value
            elif name in known and known[name] != value:
                raise ConfigError(
                    f"{key} and {name} name the same size",
                    expected="one value",
                    remedy="drop one",
                    found=f"{known[name]!r} and {value!r}",
                )
            else:
                known[name] = value
        for name in ("id2label", "label2id", "architectures", "num_labels", *_FLAGS):
            if name in known and known[name] is None:  # written by older releases for "not set"
                del known[name]
        if isinstance(one := known.get("architectures"), str):
            known["architectures"] = (one,)
        extra.pop("model_type", None)
        return cls(**known, extra=extra)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a ``config.json`` that ``from_dict`` and the reference read back.

        Raises:
            ConfigError: ``activation`` is a function.
        """
        if not isinstance(self.activation, str):
            raise ConfigError(
                "activation is a function and cannot be saved", remedy=f"name one of {_listed(ACTIVATIONS)}"
            )
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        extra = values.pop("extra")
        del values["num_labels"]
        values["id2label"] = {str(i): label for i, label in self.id2label.items()}
        values["label2id"] = dict(self.label2id)
        values["architectures"] = list(self.architectures)
        return {**extra, **values, "model_type": MODEL_TYPE}

    @classmethod
    def from_file(cls, path: Path) -> DistilBertConfig:
        """Read a ``config.json``.

        Raises:
            CheckpointError: The file is missing, unreadable, of another model type, or has a wrong value.
        """
        values = read_json(path)
        found = values.get("model_type")
        if found != MODEL_TYPE:
            remedy = (
                "turn it into DistilBERT with `distilbatch convert`"
                if found == "bert"
                else ("point at the folder of a DistilBERT checkpoint")
            )
            raise CheckpointError(f"{path}: model_type", expected=MODEL_TYPE, found=str(found), remedy=remedy)
        try:
            return cls.from_dict(values)
        except ConfigError as exc:
            raise CheckpointError(
                f"{path}: {exc.what}",
                expected=exc.expected,
                found=exc.found,
                remedy=exc.remedy or "correct the file or fetch the checkpoint again",
            ) from exc

    def save(self, path: Path) -> None:
        """Write ``to_dict()`` to ``path`` as JSON with sorted keys."""
        path.write_text(
            json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def _check(config: DistilBertConfig) -> None:
    for name in _BOUNDS:
        _check_bounds(config, name)
    for name in _PROBABILITIES:
        _check_number(name, getattr(config, name), high=1.0)
    _check_number("initializer_range", config.initializer_range, high=1e3)
    for name in _FLAGS:
        if not isinstance(getattr(config, name), bool):
            raise ConfigError(name, expected="true or false", found=repr(getattr(config, name)))
    if config.dim % config.n_heads:
        raise ConfigError("n_heads", expected=f"a divisor of dim {config.dim}", found=str(config.n_heads))
    if config.activation not in ACTIVATIONS and (isinstance(config.activation, str) or not callable(config.activation)):
        raise ConfigError("activation", expected=f"one of {_listed(ACTIVATIONS)}", found=repr(config.activation))
    pad = config.pad_token_id
    if pad is not None and (not _is_int(pad) or not -config.vocab_size <= pad < config.vocab_size):
        raise ConfigError("pad_token_id", expected=f"an id below vocab_size {config.vocab_size}", found=repr(pad))
    if config.problem_type is not None and config.problem_type not in PROBLEM_TYPES:
        raise ConfigError("problem_type", expected=f"one of {_listed(PROBLEM_TYPES)}", found=repr(config.problem_type))
    if config.problem_type == "single_label_classification" and config.num_labels == 1:
        raise ConfigError(
            "problem_type",
            expected="two labels or more",
            found="single_label_classification with one label",
            remedy="use regression for a head with one output",
        )


def _check_bounds(config: DistilBertConfig, name: str) -> None:
    low, high = _BOUNDS[name]
    value = getattr(config, name)
    if not _is_int(value) or not low <= value <= high:
        raise ConfigError(name, expected=f"an integer in [{low}, {high}]", found=repr(value))


def _check_number(name: str, value: object, *, high: float) -> None:
    if (
        isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= high
    ):  # NaN fails the comparison
        raise ConfigError(name, expected=f"a number in [0, {high:g}]", found=repr(value))


def _read_labels(value: object) -> dict[int, str]:
    # JSON object keys are text, so ids arrive as "0", "1", ...
    if not isinstance(value, Mapping):
        raise ConfigError("id2label", expected="a mapping of class ids to labels", found=type(value).__name__)
    try:
        labels = {int(key): label for key, label in value.items()}
    except (TypeError, ValueError) as exc:
        raise ConfigError("id2label", expected="integer keys", found=str(exc)) from exc
    if sorted(labels) != list(range(len(value))):
        raise ConfigError("id2label", expected=f"the keys 0 to {len(value) - 1}", found=f"{sorted(labels)[:10]}")
    return {i: str(labels[i]) for i in range(len(labels))}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)
