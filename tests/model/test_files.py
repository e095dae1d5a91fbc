"""Folders of a checkpoint appear whole or not at all."""

from __future__ import annotations

import pytest

from distilbatch.errors import ConfigError
from distilbatch.model.files import new_folder


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "model"

    def fail():
        with new_folder(target) as folder:
            (folder / "a").write_text("half")
            raise KeyError("in the middle")

    with pytest.raises(KeyError, match="in the middle"):
        fail()
    assert list(target.parent.iterdir()) == []
    with new_folder(target) as folder:
        (folder / "a").write_text("whole")
        assert not target.exists()
    assert (target / "a").read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(ConfigError, match="model; expected a new or empty folder; found files in it; name another"):
        new_folder(target).__enter__()
    assert (target / "a").read_text() == "whole"


def test_an_empty_folder_may_become_the_checkpoint(tmp_path):
    with new_folder(tmp_path / "x") as folder:
        (folder / "a").touch()
    (tmp_path / "y").mkdir()
    with new_folder(tmp_path / "y") as folder:
        (folder / "a").touch()
    assert [p.name for p in (tmp_path / "y").iterdir()] == ["a"]
