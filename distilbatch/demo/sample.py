"""Draws the demo's documents from the package table; the file it writes ships with the project.

    python -m distilbatch.demo.sample --packages DIR --out FILE

The same table and seed give the same rows in the same order.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distilbatch.errors import DataError

__all__ = ["Quota", "draw", "main"]

logger = logging.getLogger(__name__)

# The column that tells how much a package is used, and how it is ordered from most to least used.
REGISTRIES = {"npm": ("downloads", "descending"), "pypi": ("rank", "ascending")}
ROW_GROUP_ROWS = 400  # several shards, so that a run of the demo can be stopped half way

_OTHER_SCRIPT = re.compile(
    "[\u0370-\u03ff"  # Greek
    "\u0400-\u04ff"  # Cyrillic
    "\u0590-\u06ff"  # Hebrew, Arabic
    "\u0900-\u0dff"  # scripts of India
    "\u0e00-\u0e7f"  # Thai
    "\u3040-\u9fff"  # Japanese, Chinese
    "\uac00-\ud7af]"  # Korean
)
_MAIL_ADDRESS = re.compile(r"[^\s@]+@[^\s@]+\.[a-z]{2,}")


@dataclass(frozen=True, slots=True)
class Quota:
    """Rows to draw from one registry.

    Args:
        texts: From the most used packages, whose descriptions a reader recognises.
        other_scripts: From packages described in a script other than Latin.
        nulls: From packages without a description.
        most_used: How many of the most used packages ``texts`` are drawn from.
    """

    texts: int = 1100
    other_scripts: int = 60
    nulls: int = 40
    most_used: int = 15_000


def draw(packages: Path, *, seed: int, quota: Quota) -> pa.Table:
    """Draw the same quota from every registry and shuffle the rows.

    Descriptions that hold a mail address are never drawn.

    Args:
        packages: Folder with one ``registry=NAME`` folder of Parquet files for each registry.
        seed: Seed of the draw and of the order.
        quota: Rows of each registry.

    Returns:
        Columns ``id``, ``registry``, ``text``.

    Raises:
        DataError: A registry has too few rows of a kind.
    """
    rng = np.random.default_rng(seed)
    drawn = pa.concat_tables([_draw_registry(packages, name, rng=rng, quota=quota) for name in sorted(REGISTRIES)])
    return drawn.take(pa.array(rng.permutation(drawn.num_rows)))


def _draw_registry(packages: Path, name: str, *, rng: np.random.Generator, quota: Quota) -> pa.Table:
    use, order = REGISTRIES[name]
    table = pq.read_table(packages / f"registry={name}", columns=["id", use, "text"])
    table = table.sort_by([(use, order), ("id", "ascending")])
    texts: list[str | None] = table["text"].to_pylist()
    plain, other, null = [], [], []
    for row, text in enumerate(texts):
        if text is None:
            null.append(row)
        elif _OTHER_SCRIPT.search(text):
            other.append(row)
        elif not _MAIL_ADDRESS.search(text):
            plain.append(row)
    rows = np.concatenate(
        [
            _choose(plain[: quota.most_used], quota.texts, rng=rng, what=f"{name}: texts"),
            _choose(other, quota.other_scripts, rng=rng, what=f"{name}: texts in another script"),
            _choose(null, quota.nulls, rng=rng, what=f"{name}: null texts"),
        ]
    )
    chosen = table.take(pa.array(rows))
    return pa.table(
        {"id": chosen["id"], "registry": pa.array([name] * len(rows)), "text": chosen["text"]}
    ).combine_chunks()


def _choose(rows: list[int], count: int, *, rng: np.random.Generator, what: str) -> NDArray[np.int64]:
    if len(rows) < count:
        raise DataError(f"{what}: too few rows to draw from", expected=f"{count} or more", found=str(len(rows)))
    return rng.choice(np.asarray(rows, dtype=np.int64), size=count, replace=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and write the file the arguments ask for."""
    parser = argparse.ArgumentParser(prog="python -m distilbatch.demo.sample", description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="folder with registry=npm and registry=pypi")
    parser.add_argument("--out", type=Path, required=True, help="the Parquet file to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    documents = draw(args.packages, seed=args.seed, quota=Quota())
    pq.write_table(documents, args.out, row_group_size=ROW_GROUP_ROWS, compression="zstd", compression_level=19)
    logger.info("%s: %d rows, %d bytes", args.out, documents.num_rows, args.out.stat().st_size)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
