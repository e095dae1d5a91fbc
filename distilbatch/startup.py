"""What shortens the start of a program: imports without the garbage collector, or none at all."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder

from typing_extensions import override


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import large libraries inside the block, a fifth faster.

    They make a million objects that stay; the collector would search these again and again, and find nothing. Where
    the collector is off, it stays off.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _NoPandas(MetaPathFinder):
    @override
    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is of no use to this program", name="pandas")


@contextmanager
def without_pandas() -> Iterator[None]:
    """Spare a program that has no use for pandas the half second that it takes to load.

    pyarrow loads it when it makes its first array, to tell a Series from other sequences. No code of a user may run
    inside the block: it could not import pandas.
    """
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
