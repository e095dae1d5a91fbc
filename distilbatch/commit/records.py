"""The JSON records of the control folder, validated when read: a damaged or hostile record stops the run.

Each is written once, by put-if-absent. File names in records are checked, so that none can leave its folder.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Any, Literal, TypeVar

import pyarrow as pa
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from distilbatch.errors import ConflictError
from distilbatch.fingerprint import fingerprint
from distilbatch.records import Fragment, Shard, StagedFile

MAX_RECORD_BYTES = 512 << 20

_DIGEST = re.compile(r"[0-9a-f]{64}")
_STAGED_NAME = re.compile(r"\d{5,}-[0-9a-f]{32}-\d{3,}\.parquet")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    def to_bytes(self) -> bytes:
        """The record as JSON with a final newline."""
        return self.model_dump_json(indent=1).encode() + b"\n"


def _inside(path: str) -> str:
    """Refuse a path that leaves the folder it is relative to."""
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ValueError("expected a relative path that stays inside its folder")
    return path


def encode_schema(schema: pa.Schema) -> str:
    """A schema as text for a record."""
    return base64.b64encode(schema.serialize()).decode("ascii")


def _decode_schema(text: str) -> pa.Schema:
    data = base64.b64decode(text, validate=True)
    if b"ARROW:extension" in data:
        # Reading an extension type runs the code that was registered for it.
        raise ValueError("expected plain column types, found an extension type")
    try:
        return pa.ipc.read_schema(pa.py_buffer(data))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"expected an Arrow schema: {error}") from error


RecordT = TypeVar("RecordT", bound=_Record)


class BadFileRecord(_Record):
    """A source file that the plan leaves out, and why."""

    path: str
    reason: str


class PlanRecord(_Record):
    """The only list of work of a run key; immutable.

    ``fragments`` are the pinned inputs, ``source_schema`` the columns and types they are read with (an Arrow schema
    message in Base64; files that come later may widen the source's own), ``shards`` the row ranges to label,
    ``semantic`` the settings that change results; ``model_sources`` notes hub id and commit of models from the hub,
    ``source_glob`` which files of the source were asked for (None in plans of older versions).
    """

    format: Literal[1] = 1
    job: Name
    window: Name
    source_root: str
    source_glob: str | None = None
    source_schema: str
    model_fingerprints: dict[str, Digest]
    model_sources: dict[str, str] = {}
    semantic: dict[str, Any]
    fragments: tuple[Fragment, ...]
    shards: tuple[Shard, ...]
    bad_files: tuple[BadFileRecord, ...] = ()
    limit: int | None = None
    version: str

    @field_validator("source_schema")
    @classmethod
    def _check_schema(cls, text: str) -> str:
        _decode_schema(text)
        return text

    @field_validator("fragments")
    @classmethod
    def _check_paths(cls, fragments: tuple[Fragment, ...]) -> tuple[Fragment, ...]:
        for fragment in fragments:
            _inside(fragment.path)
        return fragments

    @model_validator(mode="after")
    def _check_shards(self) -> Self:
        last: dict[int, int] = {}
        for index, shard in enumerate(self.shards):
            if shard.index != index or not 0 <= shard.fragment < len(self.fragments):
                raise ValueError(f"shard {index}: expected its own index and a fragment of this plan")
            if _DIGEST.fullmatch(shard.shard_id) is None:
                raise ValueError(f"shard {index}: expected a sha256, found {shard.shard_id[:80]!r}")
            if (
                not last.get(shard.fragment, 0)
                <= shard.row_start
                < shard.row_stop
                <= (self.fragments[shard.fragment].num_rows)
            ):
                raise ValueError(f"shard {index}: expected rows of its file that no earlier shard has")
            last[shard.fragment] = shard.row_stop
        return self

    @property
    def plan_id(self) -> str:
        """sha256 over everything that defines the work; where models came from, for one, is only noted."""
        content = self.model_dump(mode="json", exclude={"version", "bad_files", "model_sources", "source_glob"})
        return fingerprint(content)

    @property
    def run_key(self) -> str:
        """Job and logical window."""
        return f"{self.job}/{self.window}"

    @property
    def schema(self) -> pa.Schema:
        """``source_schema`` as Arrow knows it."""
        return _decode_schema(self.source_schema)

    @property
    def num_rows(self) -> int:
        """Rows the run has to account for."""
        return sum(shard.num_rows for shard in self.shards)


class ClaimRecord(_Record):
    """Entry of a job's chain: this window labels these rows. Holds the plan, so a crash before K2 loses nothing."""

    plan: PlanRecord


class PrecisionRecord(_Record):
    """What every attempt of a run computes in, and why: chosen once, so that a resume does not choose anew.

    ``agreement`` is the share of ``sample_rows`` sampled rows with the labels of float32 by precision, and
    ``rows_per_s`` the speed of the models alone; ``precision`` is ``auto`` where each worker decides by its device.
    """

    plan_id: Digest
    precision: Annotated[str, Field(pattern=r"^(auto|float32|bfloat16|float16|int8)$")]
    basis: str
    sample_rows: Count = 0
    agreement: dict[str, float] = {}
    rows_per_s: dict[str, float] = {}


class OwnerRecord(_Record):
    """Who owns a run key from this epoch on; advisory, it only saves computing twice."""

    epoch: Annotated[int, Field(ge=1)]
    host: str
    pid: int
    process: str
    run_id: str


class ShardRecord(_Record):
    """Elects the winning attempt of a shard: the shard's commit."""

    index: Count
    shard_id: Digest
    plan_id: Digest
    attempt_id: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    files: tuple[StagedFile, ...]
    num_rows: Count
    statuses: dict[str, Count]
    schema_sha256: Digest
    metrics: dict[str, float] = {}
    label_counts: dict[str, dict[str, Count]] = {}

    @field_validator("files")
    @classmethod
    def _check_names(cls, files: tuple[StagedFile, ...]) -> tuple[StagedFile, ...]:
        for file in files:
            if _STAGED_NAME.fullmatch(file.name) is None:
                raise ValueError(f"expected a staged file's name, found {file.name!r}")
        return files


class DeathRecord(_Record):
    """Rows of a shard that kill the process that computes them, or hang in it; no later attempt computes them again.

    ``message`` is for people, and ``error`` what each row is told to be (empty in records of older versions).
    """

    index: Count
    plan_id: Digest
    rows: tuple[Count, ...]
    message: str
    error: str = ""


class CommitRecord(_Record):
    """The decision over the whole run: after it, publishing is only rolled forward."""

    plan_id: Digest
    epoch: Count
    run_id: str
    num_rows: Count
    statuses: dict[str, Count]
    attempts: dict[int, str]


class PublishedFile(_Record):
    """A file below ``data/``, relative to the sink's folder."""

    path: Annotated[str, AfterValidator(_inside)]
    num_rows: Count
    size_bytes: Count
    sha256: Digest


class DoneRecord(_Record):
    """Publishing is finished: the list of what readers see of this run."""

    plan_id: Digest
    num_rows: Count
    files: tuple[PublishedFile, ...]


def parse(kind: type[RecordT], data: bytes, *, where: str) -> RecordT:
    """Read a record.

    Raises:
        ConflictError: The bytes are not a valid record of this kind.
    """
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConflictError(
            f"{where}: not a valid {kind.__name__}",
            found=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            remedy="the control folder was edited or damaged; restore it or write to a new sink.path",
        ) from error
