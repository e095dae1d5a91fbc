"""The loaded heads of a job and what happens to one sort buffer: tokenize, predict, decode.

Heads with the same tokenizer and length share one tokenization.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distilbatch import schema
from distilbatch.engine.spec import DeviceSpec, HeadSpec
from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.fingerprint import fingerprint, sha256_file
from distilbatch.inference.precision import resolve_batch_tokens, resolve_device, resolve_precision, set_threads
from distilbatch.inference.predictor import BatchObserver, Predictor
from distilbatch.model.modeling import DistilBertForSequenceClassification
from distilbatch.records import Documents, HeadOutput, RowStatus, TokenBatch
from distilbatch.tasks import Task, TextClassificationTask
from distilbatch.tokenization import DocumentTokenizer, read_texts
from distilbatch.tokenization.tokenizer import MIN_MAX_LENGTH, TOKENIZER_FILES

DEFAULT_MAX_LENGTH = 512


@dataclass(frozen=True, slots=True)
class TokenizedBuffer:
    """A sort buffer between tokenization and the model.

    Args:
        documents: B texts with their statuses.
        tokens: One token batch a head; heads that share a tokenization share the object.
    """

    documents: Documents
    tokens: tuple[TokenBatch, ...]


@dataclass(frozen=True, slots=True)
class AnnotatedBuffer:
    """The output columns of a sort buffer.

    Args:
        columns: One column of B values a head.
        statuses: B final statuses.
        errors: B messages; None where there is none.
        num_tokens: ``(B,)`` tokens the model read.
        truncated: ``(B,)`` whether text was cut off.
    """

    columns: tuple[pa.Array, ...]
    statuses: list[RowStatus]
    errors: list[str | None]
    num_tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]


class Heads:
    """The heads of a job, resident on one device.

    Args:
        specs: The annotations.
        device: Where and how to compute.
        max_doc_bytes: Longer documents are cut before tokenization.

    Raises:
        CheckpointError: A checkpoint is missing, damaged or not a DistilBERT sequence classifier.
        SetupError: The device or the precision is not usable here.
    """

    def __init__(self, specs: Sequence[HeadSpec], *, device: DeviceSpec, max_doc_bytes: int) -> None:
        if device.threads is not None:
            set_threads(device.threads)
        self.specs = tuple(specs)
        self.device = resolve_device(device.device)
        self.dtype = resolve_precision(device.precision, self.device)
        self._max_doc_bytes = max_doc_bytes
        self._tokenizers: dict[str, DocumentTokenizer] = {}
        self._tokenizer_keys: list[str] = []
        self._predictors: list[Predictor] = []
        self._tasks: list[Task] = []
        budget = resolve_batch_tokens(device.max_batch_tokens, self.device)
        for spec in self.specs:
            self._load(spec, budget)

    @property
    def fields(self) -> list[pa.Field]:
        """The output columns, in order."""
        return [pa.field(spec.name, task.type) for spec, task in zip(self.specs, self._tasks, strict=True)]

    def tokenize(self, column: pa.Array) -> TokenizedBuffer:
        """Apply the text policy to B texts and tokenize them once for each distinct tokenizer."""
        documents = read_texts(column, max_doc_bytes=self._max_doc_bytes)
        encoded = {key: _encode(tokenizer, documents.texts) for key, tokenizer in self._tokenizers.items()}
        broken = {row: message for _, errors in encoded.values() for row, message in errors.items()}
        tokens = tuple(encoded[key][0] for key in self._tokenizer_keys)
        return TokenizedBuffer(documents.with_errors(broken), tokens)

    def predict(self, buffer: TokenizedBuffer, *, on_batch: BatchObserver | None = None) -> list[HeadOutput]:
        """Run every head over its tokens.

        Args:
            buffer: The tokenized documents.
            on_batch: Told the buffer rows of each token batch before it runs.
        """
        return [
            predictor.predict(tokens, on_batch=on_batch)
            for predictor, tokens in zip(self._predictors, buffer.tokens, strict=True)
        ]

    def decode(self, buffer: TokenizedBuffer, outputs: Sequence[HeadOutput]) -> AnnotatedBuffer:
        """Turn head outputs into columns; a row without a finite score becomes an error row."""
        num_rows = len(buffer.documents.texts)
        num_tokens = np.zeros(num_rows, dtype=np.int32)
        truncated = np.array([status is RowStatus.TRUNCATED for status in buffer.documents.statuses], dtype=np.bool_)
        for tokens in buffer.tokens:
            num_tokens[tokens.rows] = np.maximum(num_tokens[tokens.rows], tokens.lengths)
            truncated[tokens.rows] |= tokens.truncated
        failed = {row for row, status in enumerate(buffer.documents.statuses) if status is RowStatus.ERROR}
        broken = {int(row) for output in outputs for row in _broken_rows(output)} - failed
        columns = [
            task.decode(_without(output, broken | failed), num_rows=num_rows)
            for task, output in zip(self._tasks, outputs, strict=True)
        ]
        statuses, errors = list(buffer.documents.statuses), list(buffer.documents.errors)
        for row in broken:
            statuses[row], errors[row] = RowStatus.ERROR, _BROKEN_MESSAGE
        for row in np.flatnonzero(num_tokens == 0).tolist():
            if statuses[row] not in {RowStatus.NULL, RowStatus.ERROR}:
                statuses[row] = RowStatus.EMPTY
        for row in np.flatnonzero(truncated).tolist():
            if statuses[row] is RowStatus.OK:
                statuses[row] = RowStatus.TRUNCATED
        return AnnotatedBuffer(tuple(columns), statuses, errors, num_tokens, truncated)

    def _load(self, spec: HeadSpec, budget: int) -> None:
        model = DistilBertForSequenceClassification.from_pretrained(spec.model)
        config = model.config
        positions = config.max_position_embeddings
        max_length = spec.max_length or min(positions, DEFAULT_MAX_LENGTH)
        if not MIN_MAX_LENGTH <= max_length <= positions:
            raise ConfigError(
                f"annotation {spec.name!r}: max_length",
                expected=f"{MIN_MAX_LENGTH} to {positions}, the positions of {spec.model}",
                found=str(max_length),
            )
        key = fingerprint([max_length, _tokenizer_digests(spec)])
        if key not in self._tokenizers:
            self._tokenizers[key] = DocumentTokenizer.from_folder(spec.model, max_length=max_length)
        if self._tokenizers[key].vocab_size > config.vocab_size:
            raise CheckpointError(
                f"{spec.model}: tokenizer and model do not belong together",
                expected=f"at most {config.vocab_size} entries, as in config.json",
                found=f"{self._tokenizers[key].vocab_size} in the tokenizer",
            )
        self._tokenizer_keys.append(key)
        self._tasks.append(
            TextClassificationTask(
                config.labels,
                problem_type=config.problem_type,
                top_k=spec.top_k,
                function_to_apply=spec.function_to_apply,
                threshold=spec.threshold,
            )
        )
        self._predictors.append(
            Predictor(
                model,
                device=self.device,
                dtype=self.dtype,
                num_classes=config.num_labels,
                max_batch_tokens=budget,
            )
        )


_BROKEN_MESSAGE = "the model gave no finite score for this text (out of memory or number format overflow)"


def row_array(annotated: AnnotatedBuffer, *, source_file: str | None, source_rows: NDArray[np.int64]) -> pa.StructArray:
    """Build the ``_row`` column.

    Args:
        annotated: The buffer's results.
        source_file: The file the rows came from; None when there is none.
        source_rows: ``(B,)`` row of each in that file.
    """
    num_rows = len(annotated.statuses)
    return pa.StructArray.from_arrays(
        [
            pa.array([status.value for status in annotated.statuses], pa.string()),
            pa.array(annotated.errors, pa.string()),
            pa.array(annotated.num_tokens, pa.int32()),
            pa.array((annotated.num_tokens > 0).astype(np.int32), pa.int32()),
            pa.array(annotated.truncated, pa.bool_()),
            pa.array([source_file] * num_rows, pa.string()),
            pa.array(source_rows, pa.int64()),
        ],
        fields=list(schema.ROW_TYPE),
    )


def _encode(tokenizer: DocumentTokenizer, texts: list[str | None]) -> tuple[TokenBatch, dict[int, str]]:
    """Tokenize a buffer; the second value names the rows whose text breaks the tokenizer, which are left out."""
    try:
        return tokenizer.encode(texts), {}
    except Exception:
        broken = {row: message for row, text in enumerate(texts) if (message := _breaks(tokenizer, text))}
        if not broken:
            raise
        return tokenizer.encode([None if row in broken else text for row, text in enumerate(texts)]), broken


def _breaks(tokenizer: DocumentTokenizer, text: str | None) -> str:
    try:
        tokenizer.encode([text])
    except Exception as error:
        return f"tokenizer: {error}"
    return ""


def _tokenizer_digests(spec: HeadSpec) -> list[str]:
    return [sha256_file(spec.model / name) for name in TOKENIZER_FILES if (spec.model / name).is_file()]


def _broken_rows(output: HeadOutput) -> NDArray[np.int64]:
    finite = np.isfinite(output.logits).all(axis=1)
    return output.rows[~finite]


def _without(output: HeadOutput, rows: set[int]) -> HeadOutput:
    if not rows:
        return output
    keep = ~np.isin(output.rows, list(rows))
    return HeadOutput(rows=output.rows[keep], logits=output.logits[keep])
