"""The loaded heads of a job and what happens to one sort buffer: tokenize, predict, decode.

Heads that ask the same thing of the same texts share one tokenization; those of them whose encoders are equal share
one forward.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from distilbatch.engine.annotated import AnnotatedBuffer, TokenizedBuffer, annotated_buffer
from distilbatch.engine.inputs import read_inputs, reads_list
from distilbatch.engine.questions import Question, ask
from distilbatch.engine.registry import LoadedHead, load_head
from distilbatch.engine.resolution import at_hand
from distilbatch.engine.spec import DeviceSpec, HeadSpec
from distilbatch.fingerprint import fingerprint, sha256_file
from distilbatch.inference.faults import load_error
from distilbatch.inference.precision import (
    resolve_device,
    resolve_precision,
    resolve_settled_precision,
    set_threads,
)
from distilbatch.inference.predictor import BatchObserver, Predictor
from distilbatch.inference.streams import Streams
from distilbatch.inference.trunks import trunk_fingerprint
from distilbatch.records import HeadOutput
from distilbatch.tasks.base import Asked
from distilbatch.tokenization.tokenizer import TOKENIZER_FILES


class Heads:
    """The heads of a job, resident on one device.

    Args:
        specs: The annotations.
        device: Where and how to compute.
        max_doc_bytes: Longer documents are cut before tokenization.

    Raises:
        CheckpointError: A checkpoint is missing, damaged or has another head than its task needs.
        ConfigError: An option does not go with its checkpoint.
        SetupError: The device or the precision is not usable here.
        ResourceError: The device has no memory for the models, or fails.
    """

    def __init__(self, specs: Sequence[HeadSpec], *, device: DeviceSpec, max_doc_bytes: int) -> None:
        if device.threads is not None:
            set_threads(device.threads)
        self.specs = at_hand(specs)
        self.device = resolve_device(device.device)
        resolve = resolve_settled_precision if device.settled else resolve_precision
        self.precision = resolve(device.precision, self.device)
        self._max_doc_bytes = max_doc_bytes
        self._heads = [load_head(spec) for spec in self.specs]
        self._groups = _group(self._heads)
        try:
            self._predictors = [[self._predictor(trunk, device) for trunk in group.trunks] for group in self._groups]
        except (RuntimeError, MemoryError) as error:
            if (found := load_error(error, self.device)) is not None:
                raise found from error
            raise

    def _predictor(self, trunk: Sequence[int], device: DeviceSpec) -> Predictor:
        return Predictor(
            [self._heads[index].model for index in trunk],
            [self._heads[index].readout for index in trunk],
            device=self.device,
            precision=self.precision,
            max_batch_tokens=device.max_batch_tokens,
            compiled=device.compiled,
        )

    @property
    def max_batch_tokens(self) -> int:
        """The token budget of a forward; it shrinks when memory runs out."""
        return min(predictor.max_batch_tokens for predictors in self._predictors for predictor in predictors)

    @property
    def fields(self) -> list[pa.Field]:
        """The output columns, in order."""
        return [pa.field(head.spec.name, head.task.type) for head in self._heads]

    def harmless(self) -> dict[str, pa.Array]:
        """Columns of one row that no head should choke on."""
        columns: dict[str, pa.Array] = {}
        for spec in self.specs:
            for role, name in spec.columns:
                columns[name] = pa.array([["a", "b"]] if reads_list(spec, role) else ["a"])
        return columns

    def tokenize(self, columns: Mapping[str, pa.Array]) -> TokenizedBuffer:
        """Apply the text policy to a sort buffer and tokenize what its heads ask, once for each distinct question.

        Args:
            columns: The source columns by name, B values each.
        """
        texts = read_inputs(columns, self.specs, max_doc_bytes=self._max_doc_bytes)
        questions: list[Question] = []
        for group in self._groups:
            head = self._heads[group.first]
            sequences = head.task.sequences(texts.of(head.spec))
            question, broken = ask(head.tokenizer, sequences, details=group.details)
            texts = texts.with_errors(broken)
            questions.append(question)
        return TokenizedBuffer(texts, tuple(questions))

    def tokens_to_compute(self, buffer: TokenizedBuffer) -> int:
        """Tokens that :meth:`predict` will send through encoders: those of distinct documents, once a trunk."""
        pairs = zip(self._groups, buffer.questions, strict=True)
        return sum(len(group.trunks) * len(question.distinct.tokens.input_ids) for group, question in pairs)

    def predict(self, buffer: TokenizedBuffer, *, on_batch: BatchObserver | None = None) -> list[HeadOutput]:
        """Run every head over what it asks.

        Args:
            buffer: The tokenized documents.
            on_batch: Told the buffer rows of each token batch before it runs.

        Returns:
            One output a head, in the order of the specs. Time and tokens of a shared forward are in the first.
        """
        outputs: dict[int, HeadOutput] = {}
        for group, predictors, question in zip(self._groups, self._predictors, buffer.questions, strict=True):
            distinct = question.distinct
            observe = None if on_batch is None else _mapped(on_batch, question)
            for trunk, predictor in zip(group.trunks, predictors, strict=True):
                for index, output in zip(trunk, predictor.predict(distinct.tokens, on_batch=observe), strict=True):
                    outputs[index] = distinct.spread(output, self._heads[index].readout.axis)
        return [outputs[index] for index in range(len(self._heads))]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Run token batches one after the other, in the thread that asks for them: for profilers."""
        predictors = [predictor for group in self._predictors for predictor in group]
        usual = [predictor.streams for predictor in predictors]
        for predictor in predictors:
            predictor.streams = Streams()
        try:
            yield
        finally:
            for predictor, streams in zip(predictors, usual, strict=True):
                predictor.streams = streams

    def decode(self, buffer: TokenizedBuffer, outputs: Sequence[HeadOutput]) -> AnnotatedBuffer:
        """Turn head outputs into columns; a row that a head cannot annotate is null there and an error row."""
        num_rows = buffer.texts.num_rows
        columns: dict[int, pa.Array] = {}
        errors: dict[int, str] = {}
        for group, question in zip(self._groups, buffer.questions, strict=True):
            for index in (index for trunk in group.trunks for index in trunk):
                head = self._heads[index]
                asked = Asked(buffer.texts.of(head.spec), question.sequences, question.tokens, num_rows)
                decoded = head.task.decode(outputs[index], asked)
                columns[index] = decoded.column
                for row, message in (question.sequences.errors | decoded.errors).items():
                    known = f"{errors[row]}; " if row in errors else ""
                    errors[row] = f"{known}{head.spec.name}: {message}"
        return annotated_buffer(buffer, [columns[index] for index in range(len(self._heads))], errors)


@dataclass(frozen=True, slots=True)
class _Group:
    """Heads that ask the same: by trunk, the indices of the heads on it; and whether one needs token details."""

    trunks: tuple[tuple[int, ...], ...]
    details: bool

    @property
    def first(self) -> int:
        return self.trunks[0][0]


def _group(heads: Sequence[LoadedHead]) -> list[_Group]:
    asking: dict[Hashable, list[int]] = {}
    for index, head in enumerate(heads):
        asking.setdefault(_question_key(head), []).append(index)
    groups = [_trunks(heads, indices) for indices in asking.values()]
    return [_Group(trunks, any(heads[index].details for trunk in trunks for index in trunk)) for trunks in groups]


def _trunks(heads: Sequence[LoadedHead], indices: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    if len(indices) == 1:
        return (tuple(indices),)  # nobody to share with: the weights need not be read once more
    trunks: dict[str, list[int]] = {}
    for index in indices:
        trunks.setdefault(trunk_fingerprint(heads[index].model), []).append(index)
    return tuple(map(tuple, trunks.values()))


def _question_key(head: LoadedHead) -> Hashable:
    spec = head.spec
    files = [spec.model / name for name in TOKENIZER_FILES]
    tokenizer = fingerprint([sha256_file(path) for path in files if path.is_file()])
    return tokenizer, head.tokenizer.max_length, spec.stride, spec.columns, head.task.sharing_key


def _mapped(on_batch: BatchObserver, question: Question) -> BatchObserver:
    """Pass distinct documents of a token batch on as all the buffer rows that they stand for."""
    rows = question.sequences.rows[question.tokens.sequences]
    return lambda kinds: on_batch(np.unique(rows[question.distinct.members(kinds)]))
