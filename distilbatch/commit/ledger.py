"""The records of one run key, in the order in which a run creates them (protocol steps K2 to K13)."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from distilbatch.commit.records import (
    MAX_RECORD_BYTES,
    CommitRecord,
    DeathRecord,
    DoneRecord,
    PlanRecord,
    PrecisionRecord,
    PublishedFile,
    RecordT,
    ShardRecord,
    parse,
)
from distilbatch.commit.store import Store
from distilbatch.errors import ConflictError, DataError, SetupError
from distilbatch.fingerprint import sha256_bytes
from distilbatch.layout import RunLayout, published_name
from distilbatch.records import ShardResult, StagedFile

_SHARD_NAME = re.compile(r"(?:[0-9]{5}|[1-9][0-9]{5,})\.json")  # what RunLayout.shard gives, and no other spelling


class RunLedger:
    """Reads and creates the records of one run key.

    Guarantee: each record is created at most once, by whoever comes first; everybody else is told which one won.

    Args:
        store: Where the records live.
        layout: The run key's paths.
    """

    def __init__(self, store: Store, layout: RunLayout) -> None:
        self.store = store
        self.layout = layout

    def plan(self) -> PlanRecord | None:
        """The plan, once there is one.

        Raises:
            ConflictError: It is damaged, or the plan of another run key.
        """
        plan = self._read(PlanRecord, self.layout.plan)
        if plan is not None and (plan.job, plan.window) != (self.layout.job, self.layout.window):
            raise ConflictError(
                f"{self.layout.plan}: the plan of another run",
                expected=f"{self.layout.job}/{self.layout.window}",
                found=plan.run_key,
                remedy="the control folder was edited; restore it or write to a new sink.path",
            )
        return plan

    def create_plan(self, plan: PlanRecord) -> PlanRecord:
        """K2. A crash right after leaves a plan without work; the next run uses it and never lists again.

        Returns:
            The plan that won, this one or an earlier one.
        """
        return self._create(PlanRecord, self.layout.plan, plan)

    def precision(self, plan: PlanRecord) -> PrecisionRecord | None:
        """The precision of the run, once it is chosen.

        Raises:
            ConflictError: It is damaged, or was chosen for another plan.
        """
        record = self._read(PrecisionRecord, self.layout.precision)
        if record is not None and record.plan_id != plan.plan_id:
            raise ConflictError(
                f"{self.layout.precision}: chosen for another plan",
                expected=plan.plan_id,
                found=record.plan_id,
                remedy="the control folder was edited; restore it or write to a new sink.path",
            )
        return record

    def choose_precision(self, record: PrecisionRecord) -> PrecisionRecord:
        """Choose what all attempts compute in, unless an earlier one chose. A crash before this only costs a trial."""
        return self._create(PrecisionRecord, self.layout.precision, record)

    def recorded(self) -> set[int]:
        """Indices of the shards that are committed, from one listing; a hint, not a decision."""
        return {int(name[:-5]) for name in self.store.names(self.layout.shards) if _SHARD_NAME.fullmatch(name)}

    def shard(self, index: int) -> ShardRecord | None:
        """The record of a shard, once it is committed."""
        return self._read(ShardRecord, self.layout.shard(index))

    def commit_shard(self, plan: PlanRecord, result: ShardResult) -> ShardRecord:
        """K8: elect this attempt, unless another one was faster.

        A crash right after leaves a committed shard whose staged files are referenced until they are published.
        A loser's staged files are removed here: nothing will ever name them.

        Returns:
            The winning record.

        Raises:
            SetupError: What the attempt staged cannot be seen from here, so nothing was elected.
        """
        if (won := self.shard(result.index)) is None:
            self._check_staged(result)
        shard = plan.shards[result.index]
        record = ShardRecord(
            index=result.index,
            shard_id=shard.shard_id,
            plan_id=plan.plan_id,
            attempt_id=result.attempt_id,
            files=result.files,
            num_rows=result.num_rows,
            statuses=result.statuses,
            schema_sha256=result.schema_sha256,
            metrics=result.metrics,
            label_counts=result.label_counts,
        )
        won = won or self._create(ShardRecord, self.layout.shard(result.index), record)
        if won.attempt_id != result.attempt_id:
            for file in result.files:
                self.store.remove(self.layout.staging / file.name)
        return won

    def _check_staged(self, result: ShardResult) -> None:
        for file in result.files:
            size = self.store.size(self.layout.staging / file.name)
            if size != file.size_bytes and self.shard(result.index) is None:  # else others were faster, and cleaned up
                raise SetupError(
                    f"{self.layout.staging / file.name}: a worker's output is not what it said",
                    expected=f"{file.size_bytes} bytes",
                    found="no such file" if size is None else f"{size} bytes",
                    remedy="write to a folder that all nodes share, then run the same command again",
                )

    def record_crashing_rows(self, record: DeathRecord) -> None:
        """Note rows of a shard that kill their worker. A crash before this only means they are found once more."""
        number = 1
        while not self.store.put_new(self.layout.death(record.index, number), record.to_bytes()):
            number += 1

    def crashing_rows(self, plan: PlanRecord) -> dict[int, dict[int, str]]:
        """By shard, the rows that :meth:`record_crashing_rows` has noted, with their errors."""
        found: dict[int, dict[int, str]] = {}
        for folder in self.store.names(self.layout.deaths):
            for name in self.store.names(self.layout.deaths / folder):
                record = self._read(DeathRecord, self.layout.deaths / folder / name)
                if record is not None and record.plan_id == plan.plan_id:
                    found.setdefault(record.index, {}).update(dict.fromkeys(record.rows, record.error))
        return found

    def decide(self, plan: PlanRecord, *, epoch: int, run_id: str) -> CommitRecord:
        """K10 and K11: check every shard record and staged file, then decide the run.

        Raises:
            DataError: A shard is missing, a staged file is gone or short, counts differ, or schemas differ;
                nothing was decided.
        """
        earlier = self.commit()
        if earlier is not None:
            return earlier
        records = [self._checked(plan, index) for index in range(len(plan.shards))]
        schemas = {record.schema_sha256 for record in records}
        if len(schemas) > 1:
            odd = next(record.index for record in records if record.schema_sha256 != records[0].schema_sha256)
            raise DataError(
                f"{plan.run_key}: shards 0 and {odd} have different output columns",
                expected="one schema for all shards",
                remedy="make the pipeline's after hook return the same columns for every batch",
            )
        statuses: Counter[str] = Counter()
        for record in records:
            statuses.update(record.statuses)
        decision = CommitRecord(
            plan_id=plan.plan_id,
            epoch=epoch,
            run_id=run_id,
            num_rows=sum(record.num_rows for record in records),
            statuses=dict(statuses),
            attempts={record.index: record.attempt_id for record in records},
        )
        return self._create(CommitRecord, self.layout.commit, decision)

    def commit(self) -> CommitRecord | None:
        """The decision over the run, once there is one."""
        return self._read(CommitRecord, self.layout.commit)

    def publish(self, plan: PlanRecord) -> DoneRecord:
        """K12 and K13: make every elected file visible, then say so.

        A crash anywhere inside leaves a part of the files visible; every repetition, by anybody, links the same
        bytes under the same names.

        Raises:
            ConflictError: Another file has taken a published name.
        """
        files: list[PublishedFile] = []
        for index in range(len(plan.shards)):
            record = self._existing(index)
            for part, file in enumerate(record.files):
                name = published_name(record.index, record.shard_id, part, len(record.files))
                final = self.layout.published(file.partition, name)
                self._publish_file(file, final)
                files.append(
                    PublishedFile(
                        path=final.relative_to(self.layout.root).as_posix(),
                        num_rows=file.num_rows,
                        size_bytes=file.size_bytes,
                        sha256=file.sha256,
                    )
                )
        done = DoneRecord(plan_id=plan.plan_id, num_rows=sum(file.num_rows for file in files), files=tuple(files))
        return self._create(DoneRecord, self.layout.done, done)

    def done(self) -> DoneRecord | None:
        """The end of publishing, once it is reached."""
        return self._read(DoneRecord, self.layout.done)

    def clean(self) -> None:
        """K14: drop the staging folder's files. Only after ``done``: published names no longer need them."""
        for name in self.store.names(self.layout.staging):
            self.store.remove(self.layout.staging / name)

    def _publish_file(self, file: StagedFile, final: Path) -> None:
        staged = self.layout.staging / file.name
        gone = self.store.size(staged) is None
        if not gone and self.store.link_new(staged, final):
            return
        # Already there: by an earlier attempt of ours, by another finaliser who may have cleaned up the staged file
        # since, or by somebody else. Only the bytes tell.
        found = self.store.size(final)
        if found == file.size_bytes and self._digest(final, file.size_bytes) == file.sha256:
            return
        if gone and found is None:
            raise DataError(
                f"{staged}: a staged file is gone before it was published",
                remedy="restore it, or write to a new sink.path",
            )
        raise ConflictError(
            f"{final}: the name of a published file is taken",
            expected=f"the {file.size_bytes} bytes that this run elected",
            found=f"a file of {found} bytes with other content",
            remedy="move that file away, or write to a new sink.path",
        )

    def _digest(self, path: Path, size_bytes: int) -> str:
        return sha256_bytes(self.store.read(path, max_bytes=size_bytes) or b"")

    def _checked(self, plan: PlanRecord, index: int) -> ShardRecord:
        record, shard = self._existing(index), plan.shards[index]
        if record.plan_id != plan.plan_id or record.shard_id != shard.shard_id:
            raise ConflictError(
                f"{plan.run_key}: the record of shard {index} belongs to another plan",
                remedy="the control folder was edited; write to a new sink.path",
            )
        if record.num_rows != shard.num_rows or sum(file.num_rows for file in record.files) != shard.num_rows:
            raise DataError(
                f"{plan.run_key}: shard {index} has lost rows",
                expected=f"{shard.num_rows} rows",
                found=f"{record.num_rows} rows",
            )
        for part, file in enumerate(record.files):
            staged = self.layout.staging / file.name
            name = published_name(record.index, record.shard_id, part, len(record.files))
            sizes = {self.store.size(staged), self.store.size(self.layout.published(file.partition, name))}
            if file.size_bytes not in sizes:
                raise DataError(
                    f"{staged}: a committed file is gone or has changed",
                    expected=f"{file.size_bytes} bytes",
                    found=f"{sizes - {None} or 'no file'}",
                    remedy="restore it, or write to a new sink.path",
                )
        return record

    def _existing(self, index: int) -> ShardRecord:
        record = self.shard(index)
        if record is None:
            raise DataError(
                f"{self.layout.job}/{self.layout.window}: shard {index} is not committed",
                remedy="run the same command again",
            )
        return record

    def _create(self, kind: type[RecordT], path: Path, record: RecordT) -> RecordT:
        if self.store.put_new(path, record.to_bytes()):
            return record
        winner = self._read(kind, path)
        if winner is None:
            raise ConflictError(f"{path}: a record disappeared", remedy="nothing may delete records during a run")
        return winner

    def _read(self, kind: type[RecordT], path: Path) -> RecordT | None:
        data = self.store.read(path, max_bytes=MAX_RECORD_BYTES)
        return None if data is None else parse(kind, data, where=str(path))
