"""The text policy: what becomes of null, blank, oversized and badly encoded texts before tokenization.

Every row keeps its place; nothing is dropped and nothing raises because of what a text contains.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from distilbatch.records import Documents, RowStatus

DEFAULT_MAX_DOC_BYTES = 1 << 20


def read_texts(column: pa.Array, *, max_doc_bytes: int = DEFAULT_MAX_DOC_BYTES) -> Documents:
    """Turn a text column into B Python strings with a status each.

    Args:
        column: B values of type string, large_string, binary or large_binary; the bytes need not be UTF-8.
        max_doc_bytes: Longer documents are cut at the last whole character before this many bytes.

    Returns:
        Documents: ``texts[i]`` is None exactly where ``statuses[i]`` is NULL or EMPTY.
    """
    # A long document is always cut, never decoded whole: one cell may hold gigabytes.
    longest = pc.max(pc.binary_length(column)).as_py() or 0
    if longest <= max_doc_bytes and (texts := _decode_whole(column)) is not None:
        rows = [_settle(text, RowStatus.OK) for text in texts]
    else:
        rows = [_settle(*_decode_row(value, max_doc_bytes)) for value in column]
    return Documents(
        texts=[text for text, _ in rows], statuses=[status for _, status in rows], errors=[None] * len(rows)
    )


def _decode_whole(column: pa.Array) -> list[str | None] | None:
    """Decode a column at once; None when some value is not UTF-8."""
    try:
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            column = column.cast(pa.large_string())
        # Arrow does not check the UTF-8 of strings that it reads from Parquet.
        column.validate(full=True)
    except pa.ArrowInvalid:
        return None
    texts: list[str | None] = column.to_pylist()
    return texts


def _decode_row(value: pa.Scalar, max_doc_bytes: int) -> tuple[str | None, RowStatus]:
    if not value.is_valid:
        return None, RowStatus.NULL
    data = value.as_buffer().to_pybytes() if len(value.as_buffer()) <= max_doc_bytes else None
    status = RowStatus.OK
    if data is None:
        data = value.as_buffer().slice(0, max_doc_bytes).to_pybytes()
        data = _drop_partial_character(data)
        status = RowStatus.TRUNCATED
    try:
        return data.decode("utf-8"), status
    except UnicodeDecodeError:
        return data.decode("utf-8", errors="replace"), RowStatus.REPAIRED


def _drop_partial_character(data: bytes) -> bytes:
    """Remove the bytes of a character that a cut at a byte limit left incomplete (at most 3)."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0b1100_0000 == 0b1000_0000:  # a continuation byte: the lead byte is further left
            continue
        size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
        return data[:-back] if size > back else data
    return data


def _settle(text: str | None, status: RowStatus) -> tuple[str | None, RowStatus]:
    if text is None:
        return None, RowStatus.NULL
    if not text or text.isspace():
        return None, RowStatus.EMPTY
    return text, status
