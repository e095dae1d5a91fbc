"""Names and Arrow types of the output columns, and the keys of the Parquet footer.

One input row gives one output row: the passthrough columns, one column per head, then ``_row``.
"""

from __future__ import annotations

import pyarrow as pa

from distilbatch.fingerprint import sha256_bytes

ROW = "_row"
STATUS = "status"
ERROR = "error"
NUM_TOKENS = "n_tokens"
NUM_WINDOWS = "n_windows"
TRUNCATED = "truncated"
SOURCE_FILE = "source_file"
SOURCE_ROW = "source_row"

LABEL = "label"
SCORE = "score"
SCORES = "scores"
START = "start"
END = "end"
ANSWER = "answer"
WINDOWS = "windows"
CHOICE = "choice"
TOKEN_STR = "token_str"
TOKEN = "token"
ENTITY = "entity"
ENTITY_GROUP = "entity_group"
INDEX = "index"
WORD = "word"

ROW_TYPE = pa.struct(
    [
        pa.field(STATUS, pa.string(), nullable=False),
        pa.field(ERROR, pa.string()),
        pa.field(NUM_TOKENS, pa.int32(), nullable=False),  # tokens the model read, special tokens included
        pa.field(NUM_WINDOWS, pa.int32(), nullable=False),
        pa.field(TRUNCATED, pa.bool_(), nullable=False),
        pa.field(SOURCE_FILE, pa.string()),
        pa.field(SOURCE_ROW, pa.int64(), nullable=False),
    ]
)

FOOTER_PREFIX = "distilbatch."


def label_scores_type() -> pa.DataType:
    """``list<struct<label, score>>``: classes by falling score."""
    return pa.list_(pa.struct([pa.field(LABEL, pa.string()), pa.field(SCORE, pa.float32())]))


def window_evidence_type() -> pa.DataType:
    """``list<struct<label, score, start, end>>``: what each text window says, and its place in characters."""
    fields = [(LABEL, pa.string()), (SCORE, pa.float32()), (START, pa.int32()), (END, pa.int32())]
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in fields]))


def classification_type(*, with_scores: bool) -> pa.DataType:
    """``struct<label, score[, scores]>`` of a sequence head."""
    fields = [pa.field(LABEL, pa.string()), pa.field(SCORE, pa.float32())]
    if with_scores:
        fields.append(pa.field(SCORES, label_scores_type()))
    return pa.struct(fields)


def answers_type() -> pa.DataType:
    """``list<struct<answer, score, start, end>>``: spans of a context by falling score, places in characters."""
    fields = [(ANSWER, pa.string()), (SCORE, pa.float32()), (START, pa.int32()), (END, pa.int32())]
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in fields]))


def labelled_spans_type() -> pa.DataType:
    """``list<struct<entity_group, score, word, start, end>>``: labelled spans, by place in characters."""
    fields = [(ENTITY_GROUP, pa.string()), (SCORE, pa.float32()), (WORD, pa.string())]
    fields += [(START, pa.int32()), (END, pa.int32())]
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in fields]))


def labelled_tokens_type() -> pa.DataType:
    """``list<struct<entity, score, index, word, start, end>>``: labelled tokens, by place in tokens and characters."""
    fields = [(ENTITY, pa.string()), (SCORE, pa.float32()), (INDEX, pa.int32()), (WORD, pa.string())]
    fields += [(START, pa.int32()), (END, pa.int32())]
    return pa.list_(pa.struct([pa.field(name, kind) for name, kind in fields]))


def schema_sha256(schema: pa.Schema) -> str:
    """Digest of names, types and nullability; metadata is left out."""
    return sha256_bytes("\n".join(str(field) + str(field.nullable) for field in schema).encode())


def choice_type() -> pa.DataType:
    """``struct<choice, score, scores>``: index and score of the best choice, and the scores of all in order."""
    return pa.struct(
        [pa.field(CHOICE, pa.int32()), pa.field(SCORE, pa.float32()), pa.field(SCORES, pa.list_(pa.float32()))]
    )


def mask_type() -> pa.DataType:
    """``list<list<struct<token_str, token, score>>>``: for each mask its tokens by falling score."""
    fields = [pa.field(TOKEN_STR, pa.string()), pa.field(TOKEN, pa.int32()), pa.field(SCORE, pa.float32())]
    return pa.list_(pa.list_(pa.struct(fields)))
