"""Trains a DistilBERT classification head on a frozen encoder, from Parquet tables of texts and labels.

    python -m distilbatch.train.frozen_head --encoder DIR --train FILE --dev FILE --text text --label section --out DIR

Writes ``head.safetensors`` (the four head tensors of a checkpoint) and ``head.json`` (labels, scores, origin).
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from distilbatch.errors import DataError, DistilbatchError
from distilbatch.fingerprint import sha256_file
from distilbatch.model.checkpoint import save_tensors
from distilbatch.model.weight_files import WEIGHTS_FILE
from distilbatch.tokenization import read_texts
from distilbatch.train.features import first_token_states
from distilbatch.train.fitting import FitOptions, FittedHead, fit_head

__all__ = ["INFO_FILE", "TENSORS_FILE", "main", "read_labelled", "train_head"]

TENSORS_FILE = "head.safetensors"
INFO_FILE = "head.json"

_TEXT_TYPES = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())

logger = logging.getLogger(__name__)


def read_labelled(path: Path, *, text: str, label: str, leave_out: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Read the texts and labels of a Parquet file.

    Args:
        path: The file.
        text: Column of the texts: strings or bytes, read by the rules of ``read_texts``.
        label: Column of the labels: anything that can be written as a string, which it becomes.
        leave_out: Labels whose rows are dropped, as strings.

    Raises:
        DataError: The file cannot be read, lacks a column, has nulls in one or no texts or labels, or has no rows.
    """
    try:
        names = pq.read_schema(path).names
        missing = [name for name in (text, label) if name not in names]
        if missing:
            raise DataError(f"{path}: no column {missing[0]!r}", found=", ".join(names))
        table = pq.read_table(path, columns=[text, label], partitioning=None)
    except (OSError, pa.ArrowInvalid) as exc:
        raise DataError(f"{path}: cannot be read as Parquet", found=str(exc)) from exc
    for name in (text, label):
        if table[name].null_count:
            raise DataError(f"{path}: column {name!r}", expected="no nulls", found=f"{table[name].null_count} nulls")
    labels = _as_strings(table[label], f"{path}: column {label!r}")
    keep = pc.invert(pc.is_in(labels, pa.array(leave_out, pa.string())))
    texts, labels = _decoded(table[text]).filter(keep), labels.filter(keep)
    if not len(labels):
        raise DataError(f"{path}: no rows to read")
    if texts.type not in _TEXT_TYPES:
        raise DataError(f"{path}: column {text!r}", expected="texts", found=str(texts.type))
    return [found or "" for found in read_texts(texts).texts], labels.to_pylist()


def _decoded(column: pa.ChunkedArray) -> pa.Array:
    # pandas writes categories as dictionaries.
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    return pa.concat_arrays(column.cast(kind).chunks) if column.num_chunks else pa.array([], kind)


def _as_strings(column: pa.ChunkedArray, where: str) -> pa.Array:
    try:
        strings = _decoded(column).cast(pa.string())
        strings.validate(full=True)  # Arrow does not check the UTF-8 of strings that it reads from Parquet
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
        raise DataError(where, expected="labels that can be written as a string", found=str(exc)) from exc
    return strings


def train_head(
    encoder: Path,
    train: tuple[Sequence[str], Sequence[str]],
    *,
    dev: tuple[Sequence[str], Sequence[str]],
    options: FitOptions,
) -> tuple[FittedHead, list[str]]:
    """Encode texts once and fit the head.

    Args:
        encoder: A DistilBERT folder.
        train: Texts and their labels.
        dev: The same for the rows that choose the epoch.
        options: How the head is fitted.

    Returns:
        The head, and its C labels in order of their ids.

    Raises:
        CheckpointError: The encoder cannot be loaded.
        DataError: A dev label is not in the training rows, or a text has no tokens.
    """
    labels = sorted(set(train[1]))
    if unknown := sorted(set(dev[1]) - set(labels)):
        raise DataError("dev labels", expected="labels of the training rows", found=", ".join(unknown))
    ids = {name: index for index, name in enumerate(labels)}
    rows = [
        (first_token_states(encoder, texts), torch.tensor([ids[name] for name in names]))
        for texts, names in (train, dev)
    ]
    head = fit_head(rows[0], rows[1], num_labels=len(labels), options=options)
    return head, labels


def main(argv: Sequence[str] | None = None) -> None:
    """Train and write the head that the arguments ask for; exits like ``distilbatch`` on a known error."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        options = FitOptions(**{name: getattr(args, name) for name in asdict(FitOptions())})
        tables = [
            read_labelled(path, text=args.text, label=args.label, leave_out=args.leave_out)
            for path in (args.train, args.dev)
        ]
        head, labels = train_head(args.encoder, tables[0], dev=tables[1], options=options)
        args.out.mkdir(parents=True, exist_ok=True)
        save_tensors(args.out / TENSORS_FILE, head.tensors)
        origin: dict[str, Any] = {
            "command": f"python -m distilbatch.train.frozen_head {shlex.join(arguments)}",
            "encoder_sha256": sha256_file(args.encoder / WEIGHTS_FILE),
            "train": {"file": args.train.name, "sha256": sha256_file(args.train), "rows": len(tables[0][0])},
            "dev": {"file": args.dev.name, "sha256": sha256_file(args.dev), "rows": len(tables[1][0])},
        }
    except DistilbatchError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    scores = {name: round(value, 4) for name, value in asdict(head.dev).items()}
    info = {"labels": labels, "pooling": "cls", "dev_scores": scores, "epoch": head.epoch}
    written = json.dumps({**info, "options": asdict(options), **origin}, indent=2, ensure_ascii=False)
    (args.out / INFO_FILE).write_text(written + "\n", encoding="utf-8")
    logger.info(
        "%s: accuracy %.4f, macro-F1 %.4f, majority class %.4f on %d dev rows; epoch %d",
        args.out, head.dev.accuracy, head.dev.macro_f1, head.dev.majority_share, head.dev.rows, head.epoch,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m distilbatch.train.frozen_head", description=__doc__)
    parser.add_argument("--encoder", type=Path, required=True, help="a DistilBERT checkpoint folder")
    parser.add_argument("--train", type=Path, required=True, help="Parquet file of training rows")
    parser.add_argument("--dev", type=Path, required=True, help="Parquet file of the rows that choose the epoch")
    parser.add_argument("--text", default="text", help="column of the texts")
    parser.add_argument("--label", default="label", help="column of the labels")
    parser.add_argument("--leave-out", action="append", default=[], help="a label whose rows are dropped; repeatable")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    for name, default in asdict(FitOptions()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
