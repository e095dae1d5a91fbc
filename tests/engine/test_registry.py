"""What a checkpoint's tokenizer says about lengths, ends and masks is heard by every task, as by the pipelines."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tiny_models import PIECES, POSITIONS, load_annotator, write_model

from distilbatch.engine.registry import load_head
from distilbatch.engine.spec import HeadSpec
from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model import modeling

NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "text-classification": ("ForSequenceClassification", {"num_labels": 3}),
    "token-classification": ("ForTokenClassification", {"num_labels": 3}),
    "fill-mask": ("ForMaskedLM", {}),
    "feature-extraction": ("Model", {}),
    "zero-shot-classification": ("ForSequenceClassification", {"id2label": NLI}),
}
SETTINGS = {
    "left": {"truncation_side": "left", "model_max_length": POSITIONS},
    "short": {"model_max_length": 16},
    "short and left": {"truncation_side": "left", "model_max_length": 16},
}


@pytest.fixture(scope="module", params=SETTINGS)
def model_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Checkpoints by task, their tokenizers with one of the settings."""

    def write(task: str) -> Path:
        kind, options = KINDS[task]
        folder = tmp_path_factory.mktemp("settings") / task
        return with_settings(
            write_model(getattr(modeling, f"DistilBert{kind}"), folder, seed=5, **options), **SETTINGS[request.param]
        )

    return write


def with_settings(folder: Path, **settings: Any) -> Path:
    """The folder, with keys of its ``tokenizer_config.json`` changed."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | settings), "utf-8")
    return folder


def long_text(seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(PIECES) for _ in range(100))


TEXTS = [long_text(seed) for seed in range(4)]


def test_text_classification_reads_what_the_pipeline_reads(model_of):
    folder = model_of("text-classification")
    pipeline = transformers.pipeline("text-classification", model=str(folder), device="cpu", truncation=True)
    for text, found in zip(TEXTS, load_annotator("text-classification", folder)(TEXTS), strict=True):
        (expected,) = pipeline(text)
        assert (found["label"], found["score"]) == (expected["label"], pytest.approx(expected["score"], abs=1e-4))


def test_token_classification_finds_what_the_pipeline_finds_where_it_finds_it(model_of):
    folder = model_of("token-classification")
    options = {"aggregation_strategy": "simple", "ignore_labels": []}
    pipeline = transformers.pipeline("token-classification", model=str(folder), device="cpu", **options)
    for text, found in zip(TEXTS, load_annotator("token-classification", folder, **options)(TEXTS), strict=True):
        expected = pipeline(text)
        keys = ("entity_group", "word", "start", "end")
        assert [[item[key] for key in keys] for item in found] == [[item[key] for key in keys] for item in expected]


def test_fill_mask_fills_what_the_pipeline_fills(model_of):
    folder = model_of("fill-mask")
    pipeline = transformers.pipeline(
        "fill-mask", model=str(folder), device="cpu", tokenizer_kwargs={"truncation": True}
    )
    texts = [f"red [MASK] {text} anna [MASK]" for text in TEXTS]
    for text, found in zip(texts, load_annotator("fill-mask", folder)(texts), strict=True):
        expected = pipeline(text)
        assert len(found) == 1  # the other mask was cut off
        assert [item["token"] for item in found[0]] == [item["token"] for item in expected]
        assert [item["score"] for item in found[0]] == pytest.approx([item["score"] for item in expected], abs=1e-4)


def test_feature_extraction_reads_what_the_pipeline_reads(model_of):
    folder = model_of("feature-extraction")
    pipeline = transformers.pipeline("feature-extraction", model=str(folder), device="cpu", truncation=True)
    for text, found in zip(TEXTS, load_annotator("feature-extraction", folder, pooling="cls")(TEXTS), strict=True):
        assert found == pytest.approx(pipeline(text)[0][0], abs=1e-4)


@pytest.mark.parametrize("multi_label", [False, True], ids=["each other", "one by one"])
def test_zero_shot_cuts_the_text_and_never_a_hypothesis(model_of, multi_label):
    folder = model_of("zero-shot-classification")
    # Longer than half of the room, with the label at its end.
    options = {"candidate_labels": ["red", "Anna", "the river"], "hypothesis_template": "of and the of it's red is {}"}
    options["multi_label"] = multi_label
    pipeline = transformers.pipeline("zero-shot-classification", model=str(folder), device="cpu")
    for text, found in zip(TEXTS, load_annotator("zero-shot-classification", folder, **options)(TEXTS), strict=True):
        expected = pipeline(text, **options)
        scores = {item["label"]: item["score"] for item in found["scores"]}
        assert scores == pytest.approx(dict(zip(expected["labels"], expected["scores"], strict=True)), abs=1e-4)
        assert len(set(scores.values())) == 3


def spec(task: str, folder: Path, **arguments: Any) -> HeadSpec:
    return HeadSpec("found", task, folder, (("text", "text"),), **arguments)


@pytest.mark.parametrize(("stride", "most"), [(None, 20), (0, 19), (5, 14)])
def test_a_hypothesis_that_leaves_no_room_is_refused_when_the_head_is_loaded(tmp_path, stride, most):
    folder = write_model(modeling.DistilBertForSequenceClassification, tmp_path / "m", id2label=NLI)
    arguments = {"max_length": 24, "stride": stride}
    for length in (most, most + 1):
        options = {"candidate_labels": ["red", "red " * length], "hypothesis_template": "{}"}
        head = spec("zero-shot-classification", folder, **arguments, options=options)
        if length == most:
            tokenizer = load_head(head).tokenizer
            tokens = tokenizer.encode(["anna " * 40], ["red " * length])
            assert not tokens.truncated.any() or stride is None
            continue
        with pytest.raises(ConfigError) as caught:
            load_head(head)
        assert str(caught.value) == (
            f"annotation 'found': {options['candidate_labels'][1][:60]!r} leaves no room for the text beside it; "
            f"expected at most {most} tokens for a max_length of 24; found {length}; "
            "shorten it, lower the stride or raise max_length"
        )


@pytest.mark.parametrize(("limit", "asked", "expected"), [(16, None, 16), (1000, None, 64), (16, 40, 40), (16, 64, 64)])
def test_the_users_length_wins_over_the_tokenizers(tmp_path, limit, asked, expected):
    folder = write_model(modeling.DistilBertForSequenceClassification, tmp_path / "m")
    head = load_head(spec("text-classification", with_settings(folder, model_max_length=limit), max_length=asked))
    assert head.tokenizer.max_length == expected


@pytest.mark.parametrize("token", ["<mask>", "[unused5]"])
def test_the_mask_is_the_token_that_the_checkpoint_names(tmp_path, token):
    folder = write_model(modeling.DistilBertForMaskedLM, tmp_path / "m")
    if token == "<mask>":
        for name in ("tokenizer.json", "vocab.txt"):
            path = folder / name
            path.write_text(path.read_text("utf-8").replace("[MASK]", token), "utf-8")
    (folder / "special_tokens_map.json").unlink()
    with_settings(folder, mask_token=token)
    pipeline = transformers.pipeline("fill-mask", model=str(folder), device="cpu")
    annotate = load_annotator("fill-mask", folder)
    (found,) = annotate([f"the {token} river"])[0]
    expected = pipeline(f"the {token} river")
    assert [item["token"] for item in found] == [item["token"] for item in expected]
    assert annotate(["the [MASK] river"]) == [None]


def test_a_checkpoint_without_a_mask_is_named(tmp_path):
    folder = write_model(modeling.DistilBertForMaskedLM, tmp_path / "m")
    (folder / "special_tokens_map.json").unlink()
    with pytest.raises(CheckpointError, match="vocabulary; expected a mask token; found none"):
        load_head(spec("fill-mask", with_settings(folder, mask_token=None)))
