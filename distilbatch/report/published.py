"""Checks one published run: plan, shard records, decision and ``done`` agree, and so do the files with them."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pyarrow as pa
from pydantic import ValidationError

from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import CommitRecord, DoneRecord, PlanRecord, PublishedFile, ShardRecord
from distilbatch.fingerprint import fingerprint
from distilbatch.layout import published_name
from distilbatch.records import Shard
from distilbatch.report.rows import ShardRows, check_bytes, check_places, read_places
from distilbatch.report.runs import Findings


class PublishedRun:
    """The check of one run whose publishing is finished.

    Args:
        ledger: Its records.
        plan: Its plan, found usable.
        done: What it published.
        findings: Told what is wrong.
    """

    def __init__(self, ledger: RunLedger, plan: PlanRecord, done: DoneRecord, findings: Findings) -> None:
        self._ledger = ledger
        self._plan = plan
        self._plan_id = plan.plan_id
        self._done = done
        self._findings = findings
        self._schema: tuple[str, pa.Schema] | None = None  # of the first file, and its path
        self.rows = 0  # in files that could be read

    def check(self) -> None:
        """Check everything; each shard is looked at by itself, so memory does not grow with rows."""
        plan, done = self._plan, self._done
        if done.plan_id != self._plan_id:
            self._differ("done.json belongs to another plan", expected=self._plan_id[:12], found=done.plan_id[:12])
            return
        statuses: Counter[str] = Counter()
        attempts: dict[int, str] = {}
        unclaimed = {file.path: file for file in done.files}
        if len(unclaimed) != len(done.files):
            self._differ("done.json lists a file twice", found=f"{len(done.files) - len(unclaimed)} times")
        for shard in plan.shards:
            record = self._record(shard)
            if record is None:
                continue
            statuses.update(record.statuses)
            attempts[record.index] = record.attempt_id
            files = published_files(self._ledger, record, self._findings)
            for file in files:
                if unclaimed.pop(file.path, None) != file:
                    self._differ(f"done.json and the record of shard {shard.index} disagree about {file.path}")
            self._check_files(shard, record, files)
        for path in unclaimed:
            self._differ(f"done.json lists {path}, which no shard record names")
        if extra := self._ledger.recorded() - set(range(len(plan.shards))):
            self._differ("shards are recorded that were not planned", found=", ".join(map(str, sorted(extra)[:5])))
        self._check_totals(statuses, attempts)

    def _record(self, shard: Shard) -> ShardRecord | None:
        problems_before = len(self._findings.problems)
        record = self._findings.read(partial(self._ledger.shard, shard.index))
        if record is None:
            if len(self._findings.problems) == problems_before:
                self._differ(f"the record of shard {shard.index} is gone", remedy="restore it from a copy")
            return None
        found = (record.index, record.plan_id, record.shard_id)
        if found != (shard.index, self._plan_id, shard.shard_id):
            self._differ(f"the record of shard {shard.index} belongs to another shard or plan")
            return None
        counted = {record.num_rows, sum(record.statuses.values()), sum(file.num_rows for file in record.files)}
        if counted != {shard.num_rows}:
            self._differ(
                f"the record of shard {shard.index} has lost or gained rows",
                expected=f"{shard.num_rows} rows",
                found=", ".join(str(count) for count in sorted(counted)),
            )
        return record

    def _check_files(self, shard: Shard, record: ShardRecord, files: list[PublishedFile]) -> None:
        fragment = self._plan.fragments[shard.fragment]
        footer = {
            "run_key": self._plan.run_key,
            "plan_id": self._plan_id,
            "shard_id": shard.shard_id,
            "attempt_id": record.attempt_id,
            "model_fingerprint": fingerprint(self._plan.model_fingerprints),
        }
        rows, complete = ShardRows(), True
        for file in files:
            if not check_bytes(self._ledger.layout.root, file, self._findings):
                complete = False
                continue
            found = read_places(
                self._ledger.layout.root, file, footer=footer, fragment=fragment, into=rows, findings=self._findings
            )
            complete = complete and found is not None
            self._check_schema(file.path, found)
        self.rows += sum(len(part) for part in rows.source_rows)
        # With a file missing its rows are missing too; that was said already.
        if complete:
            check_places(
                f"{self._plan.run_key}: shard {shard.index}",
                shard,
                rows,
                fragment=fragment,
                statuses=record.statuses,
                findings=self._findings,
            )

    def _check_schema(self, path: str, found: pa.Schema | None) -> None:
        if found is None:
            return
        if self._schema is None:
            self._schema = path, found
        first, wanted = self._schema
        if not found.equals(wanted):
            self._findings.add(
                f"{path}: other columns than {first}",
                expected=" ".join(str(wanted).split()),
                found=" ".join(str(found).split()),
            )

    def _check_totals(self, statuses: Counter[str], attempts: dict[int, str]) -> None:
        num_rows = self._plan.num_rows
        if self._done.num_rows != num_rows:
            self._differ(
                "done.json counts other rows", expected=f"{num_rows} rows", found=f"{self._done.num_rows} rows"
            )
        problems_before = len(self._findings.problems)
        commit: CommitRecord | None = self._findings.read(self._ledger.commit)
        if commit is None:
            if len(self._findings.problems) == problems_before:
                self._differ("commit.json is gone", remedy="restore it from a copy")
            return
        if commit.plan_id != self._plan_id:
            self._differ("commit.json belongs to another plan", expected=self._plan_id[:12], found=commit.plan_id[:12])
        elif len(attempts) == len(self._plan.shards):
            decided = (commit.num_rows, +Counter(commit.statuses), commit.attempts)
            if decided != (num_rows, +statuses, attempts):
                self._differ("commit.json does not add up the shard records")

    def _differ(self, what: str, *, expected: str = "", found: str = "", remedy: str = "") -> None:
        self._findings.add(f"{self._plan.run_key}: {what}", expected=expected, found=found, remedy=remedy)


def published_files(ledger: RunLedger, record: ShardRecord, findings: Findings) -> list[PublishedFile]:
    """The files that publishing a shard makes visible; what a record cannot mean is noted and left out."""
    layout, files = ledger.layout, []
    for part, file in enumerate(record.files):
        name = published_name(record.index, record.shard_id, part, len(record.files))
        path = layout.published(file.partition, name).relative_to(layout.root).as_posix()
        try:
            files.append(
                PublishedFile(path=path, num_rows=file.num_rows, size_bytes=file.size_bytes, sha256=file.sha256)
            )
        except ValidationError:
            findings.add(f"{layout.shard(record.index)}: an impossible file {path!r}", remedy="restore it from a copy")
    return files


def check_plan(plan: PlanRecord, *, job: str, window: str, findings: Findings) -> bool:
    """Whether a plan holds together; the other checks rely on it."""
    what = ""
    if (plan.job, plan.window) != (job, window):
        what = f"it is the plan of {plan.run_key}"
    elif any(shard.row_stop > plan.fragments[shard.fragment].num_rows for shard in plan.shards):
        what = "a shard has more rows than its file"
    else:
        try:
            fingerprint(plan.semantic)
        except ValueError as error:
            what = str(error)
    if what:
        findings.add(f"{job}/{window}: plan.json was edited or damaged", found=what, remedy="restore it from a copy")
    return not what
