"""The public names: sorted, complete, and each one there when asked for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import distilbatch


def test_all_is_sorted_and_is_what_dir_shows():
    assert distilbatch.__all__ == sorted(distilbatch.__all__)
    assert dir(distilbatch) == distilbatch.__all__


@pytest.mark.parametrize("name", distilbatch.__all__)
def test_every_public_name_resolves(name):
    assert getattr(distilbatch, name) is not None


def test_type_checkers_see_the_names_that_are_loaded_on_first_use():
    tree = ast.parse(Path(distilbatch.__file__).read_text("utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    homes = {alias.name: node.module for node in guarded.body for alias in node.names}
    assert sorted(homes) == [name for name in distilbatch.__all__ if not name.startswith("__")]
    for name, module in homes.items():
        value = getattr(distilbatch, name)
        assert value is getattr(__import__(module, fromlist=[name]), name)


def test_public_names_are_documented():
    bare = [
        name for name in distilbatch.__all__ if not name.startswith("__") and not getattr(distilbatch, name).__doc__
    ]
    assert bare == []


def test_an_unknown_name_is_an_attribute_error_that_names_it():
    with pytest.raises(AttributeError, match="module 'distilbatch' has no attribute 'runn'"):
        distilbatch.runn  # noqa: B018 - the access is what is tested
