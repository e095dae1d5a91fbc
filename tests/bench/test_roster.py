"""Who takes part, and who is chosen by name."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import distilbatch.bench
from distilbatch.bench.roster import choose, ourselves, peers
from distilbatch.errors import ConfigError

BENCH = Path(distilbatch.bench.__file__).parent


def test_a_family_or_a_name_chooses_and_nobody_named_chooses_all():
    everybody = (ourselves("int8"), *peers("cpu"))
    assert [entrant.name for entrant in choose(everybody, ["openvino", "ours-int8"])] == [
        "ours-int8",
        "openvino-float32",
        "openvino-bfloat16",
        "openvino-int8",
    ]
    assert choose(everybody, []) == everybody


def test_a_gpu_without_bfloat16_has_a_peer_in_float16_too():
    names = {device: {entrant.name for entrant in peers(device)} for device in ("cpu", "cuda:0")}
    assert {"huggingface-float32", "huggingface-bfloat16", "huggingface-float16"} <= names["cuda:0"]
    assert "huggingface-float16" not in names["cpu"]


def test_a_name_that_nobody_has_is_an_error_that_lists_those_there_are():
    with pytest.raises(ConfigError, match=r"expected names or families out of: ours-int8; found 'ours-int'"):
        choose((ourselves("int8"),), ["ours-int"])


@pytest.mark.parametrize("entrant", [ourselves("int8"), *peers("cpu")], ids=lambda entrant: entrant.name)
def test_every_factory_is_there_and_needs_what_its_file_imports(entrant):
    module, _, name = entrant.factory.partition(":")
    tree = ast.parse((BENCH / Path(*module.split(".")[2:]).with_suffix(".py")).read_text("utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    libraries = {"transformers", "onnxruntime", "openvino", "ctranslate2", "sentence_transformers"}
    assert imported & libraries <= set(entrant.requires)
