"""What a run amounts to, added up from its shard records; the figures for people and for metrics.json."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import PlanRecord
from distilbatch.records import MAX_COUNTED_LABELS


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did.

    Args:
        run_key: Job and logical window.
        plan_id: Identity of the plan.
        state: ``committed``, or ``already committed`` when there was nothing left to do.
        data: Folder of the published files.
        num_rows: Rows of the run, over all its attempts.
        num_files: Published files.
        statuses: Rows by status.
        label_counts: Per head, rows by label; heads with more than ``MAX_COUNTED_LABELS`` labels are left out.
        tokens: Tokens of the documents, special tokens included.
        tokens_computed: Tokens that went through an encoder, summed over heads.
        documents_repeated: Documents that were not computed because another one nearby has the same tokens.
        seconds: Wall time of this attempt.
        rows_this_attempt: Rows labelled by this attempt, the others being resumed.
        stage_seconds: Busy seconds by stage, summed over workers.
        resident_bytes: Largest resident memory of a worker.
        bad_files: Source files the plan left out.
        precision: What it was computed in and why, where that was chosen or checked by a trial; see PrecisionRecord.
        earlier: Reports of unfinished earlier windows that were finished first.
    """

    run_key: str
    plan_id: str
    state: str
    data: str
    num_rows: int
    num_files: int
    statuses: dict[str, int]
    label_counts: dict[str, dict[str, int]]
    tokens: int
    tokens_computed: int
    documents_repeated: int
    seconds: float
    rows_this_attempt: int
    stage_seconds: dict[str, float] = field(default_factory=dict)
    resident_bytes: int = 0
    bad_files: tuple[str, ...] = ()
    precision: dict[str, Any] | None = None
    earlier: tuple[RunReport, ...] = ()

    @property
    def rows_per_s(self) -> float:
        """Rows of this attempt by its wall time; 0.0 when it had none."""
        return self.rows_this_attempt / self.seconds if self.rows_this_attempt and self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {**asdict(self), "rows_per_s": round(self.rows_per_s, 2)}


def summarize(ledger: RunLedger, plan: PlanRecord, *, state: str, seconds: float, rows_this_attempt: int) -> RunReport:
    """Add up the shard records of a finished run, one at a time."""
    statuses: Counter[str] = Counter()
    figures: Counter[str] = Counter()
    labels: dict[str, Counter[str]] = {}
    counted: Counter[str] = Counter()  # shards that counted the labels of a head
    resident, num_files = 0, 0
    for index in range(len(plan.shards)):
        record = ledger.shard(index)
        if record is None:
            continue
        statuses.update(record.statuses)
        figures.update(record.metrics)
        num_files += len(record.files)
        resident = max(resident, int(record.metrics.get("resident_bytes", 0)))
        for head, counts in record.label_counts.items():
            labels.setdefault(head, Counter()).update(counts)
            counted[head] += 1
    precision = ledger.precision(plan)
    stages = ("read", "tokenize", "forward", "decode", "write")
    return RunReport(
        run_key=plan.run_key,
        plan_id=plan.plan_id,
        state=state,
        data=str(ledger.layout.root / "data"),
        num_rows=plan.num_rows,
        num_files=num_files,
        statuses=dict(statuses),
        label_counts={
            head: dict(counts.most_common())
            for head, counts in labels.items()
            if counted[head] == len(plan.shards) and len(counts) <= MAX_COUNTED_LABELS
        },
        tokens=int(figures["tokens"]),
        tokens_computed=int(figures["tokens_computed"]),
        documents_repeated=int(figures["documents_repeated"]),
        seconds=seconds,
        rows_this_attempt=rows_this_attempt,
        stage_seconds={stage: round(float(figures[f"{stage}_s"]), 3) for stage in stages},
        resident_bytes=resident,
        bad_files=tuple(bad.path for bad in plan.bad_files),
        precision=None if precision is None else precision.model_dump(mode="json", exclude={"plan_id"}),
    )


def to_metrics(report: RunReport) -> bytes:
    """The content of metrics.json."""
    return json.dumps(report.to_dict(), indent=1).encode() + b"\n"
