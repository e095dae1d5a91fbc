"""Which precision a run computes in: asked for, or the fastest that keeps the labels of its own documents.

Chosen once and recorded before the first shard, so that all attempts and resumes of a run compute alike.
"""

from __future__ import annotations

import logging
import math
import threading

from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import PlanRecord, PrecisionRecord
from distilbatch.engine.capacity import Capacity, capacity_here, capacity_of_workers, cores_here, forward_work
from distilbatch.engine.job import Job, worker_spec
from distilbatch.engine.sampling import choose_shards
from distilbatch.engine.spec import ShardTask
from distilbatch.engine.trial import EXACT, Assignment, Trial, run_trial
from distilbatch.errors import DataError, SetupError

AUTO = "auto"  # each worker takes what suits its device
MIN_AGREEMENT = 0.999
MAX_TRIAL_ROWS = 1000
MIN_TRIAL_ROWS = 400  # fewer hardly tell 99.9 % from 99 %
MIN_FLOAT32_S = 60.0  # of the whole job: a trial takes some ten seconds to start and to load the models thrice
TRIAL_SHARE = 10  # a trial computes one part in so many of the job: it may save half, and it may find nothing to save
_WORTH = 1.05  # times the speed of float32, from which on another precision is worth its rounding

_log = logging.getLogger("distilbatch")


def settle_precision(job: Job, plan: PlanRecord, ledger: RunLedger, *, stop: threading.Event) -> str:
    """Return what every worker of a run is to compute in: the recorded choice, or a new one that is recorded first.

    Args:
        job: The job.
        plan: Its plan.
        ledger: Its records.
        stop: Ends a trial early.

    Raises:
        DataError: ``engine.min_agreement`` is set and the precision asked for does not reach it.
        SetupError: It is set, and cannot be checked on this machine.
        ConflictError: The recorded choice is damaged, or another plan's.
    """
    engine = job.config.engine
    if engine.precision != AUTO and (engine.min_agreement is None or engine.precision == EXACT):
        return engine.precision
    record = ledger.precision(plan)
    if record is None:
        record = _choose(job, plan, stop=stop)
        if stop.is_set():
            return record.precision  # half a trial decides nothing; no shard will be started either
        record = ledger.choose_precision(record)
        _log.info("precision %s: %s", record.precision, record.basis)
    return record.precision


def foresee_precision(job: Job, plan: PlanRecord, ledger: RunLedger) -> tuple[str, str]:
    """What :func:`settle_precision` would return, as far as that can be told without a trial, and why.

    Raises:
        ConflictError: The recorded choice is damaged, or another plan's.
    """
    engine = job.config.engine
    if record := ledger.precision(plan):
        return record.precision, record.basis
    if engine.precision != AUTO and (engine.min_agreement is None or engine.precision == EXACT):
        return engine.precision, "asked for"
    if engine.precision != AUTO:
        return engine.precision, f"to be checked by a trial on {min(MAX_TRIAL_ROWS, plan.num_rows):,} rows"
    try:
        here = capacity_here(engine)
    except SetupError:
        return AUTO, "what suits the workers' device, which this machine has not"
    rows = _trial_rows(plan, forward_work(job, plan), here=here, workers=here)
    if not rows:
        return AUTO, "what suits the device; too little work to try others on a sample"
    condition = ", if the workers compute on what this machine has" if engine.type == "ray" else ""
    return AUTO, f"to be chosen by a trial on {rows:,} rows{condition}"


def _trial_rows(plan: PlanRecord, work: float, *, here: Capacity, workers: Capacity) -> int:
    """Rows that this machine may try; 0 where a trial would take a good part of what it may save."""
    seconds = workers.seconds(work)
    if seconds < MIN_FLOAT32_S:
        return 0
    rows = int(plan.num_rows / TRIAL_SHARE * min(1.0, seconds / here.seconds(work)))
    return min(MAX_TRIAL_ROWS, rows) if rows >= MIN_TRIAL_ROWS else 0


def _choose(job: Job, plan: PlanRecord, *, stop: threading.Event) -> PrecisionRecord:
    asked, bar = job.config.engine.precision, job.config.engine.min_agreement
    if asked == AUTO:
        return _choose_freely(job, plan, least=MIN_AGREEMENT if bar is None else bar, stop=stop)
    trial = _try(job, plan, (asked,), min(MAX_TRIAL_ROWS, plan.num_rows), stop=stop)
    if isinstance(trial, str):
        raise SetupError(
            f"precision {asked} cannot be checked",
            expected="a trial on this machine, as engine.min_agreement asks for",
            found=trial,
            remedy="leave engine.min_agreement out, or run where the trial can",
        )
    return _checked(plan, trial, asked, least=bar or 0.0)


def _choose_freely(job: Job, plan: PlanRecord, *, least: float, stop: threading.Event) -> PrecisionRecord:
    engine = job.config.engine
    work = forward_work(job, plan)
    little = _record(plan, AUTO, "what suits the device; too little work to try others on a sample")
    if cores_here(engine).seconds(work) < MIN_FLOAT32_S:
        return little  # without torch and Ray, which take their time
    try:
        here = capacity_here(engine)
    except SetupError as error:  # only the workers have it
        return _untried(plan, str(error))
    workers = capacity_of_workers(engine, here)
    if workers.kind != here.kind:
        return _untried(plan, f"this machine computes on {here.kind}, and the workers on {workers.kind}")
    rows = _trial_rows(plan, work, here=here, workers=workers)
    if not rows:
        return little
    trial = _try(job, plan, None, rows, stop=stop)
    return _untried(plan, trial) if isinstance(trial, str) else _fastest(plan, trial, least=least)


def _try(
    job: Job, plan: PlanRecord, candidates: tuple[str, ...] | None, rows: int, *, stop: threading.Event
) -> Trial | str:
    shards = choose_shards(plan.shards)
    tasks = tuple(ShardTask(shard, plan.fragments[shard.fragment]) for shard in shards)
    return run_trial(Assignment(worker_spec(job, plan), tasks, -(-rows // len(tasks)), candidates), stop=stop)


def _fastest(plan: PlanRecord, trial: Trial, *, least: float) -> PrecisionRecord:
    if not trial.agreement:
        return _record(plan, EXACT, f"{trial.device} computes nothing faster than {EXACT}")
    fit = [name for name, share in trial.agreement.items() if share >= least]  # the fastest first
    if trial.rows_per_s:
        fit = [name for name in fit if _speed(trial, name) >= _WORTH]
        fit.sort(key=lambda name: _speed(trial, name), reverse=True)
    bar = f"{least * 100:g} % of the labels"
    reason = f"the fastest that keeps {bar}" if fit else f"no faster one keeps {bar}"
    return _record(plan, fit[0] if fit else EXACT, f"{reason}: {_measured(trial)}", trial)


def _speed(trial: Trial, precision: str) -> float:
    return trial.rows_per_s[precision] / max(trial.rows_per_s[EXACT], 1e-9)  # 0 where no sampled row has text


def _checked(plan: PlanRecord, trial: Trial, asked: str, *, least: float) -> PrecisionRecord:
    if trial.agreement[asked] < least:
        raise DataError(
            f"precision {asked} changes too many labels",
            expected=f"{least * 100:g} % of float32's kept (engine.min_agreement)",
            found=_measured(trial),
            remedy="set engine.precision to auto, or lower engine.min_agreement",
        )
    return _record(plan, asked, f"asked for, and checked: {_measured(trial)}", trial)


def _untried(plan: PlanRecord, reason: str) -> PrecisionRecord:
    _log.warning("no precision was tried on a sample: %s", reason)
    return _record(plan, AUTO, f"what suits each worker's device; none was tried: {reason}")


def _measured(trial: Trial) -> str:
    """What a trial found, for people; no share is rounded up to a bar that it misses."""
    found = []
    for name, share in trial.agreement.items():
        speed = f" ({_speed(trial, name):.1f}x)" if trial.rows_per_s else ""
        found.append(f"{name} {math.floor(round(share * 1e4, 6)) / 100:g} %{speed}")
    return f"{', '.join(found)} of float32's labels on {trial.rows:,} rows"


def _record(plan: PlanRecord, precision: str, basis: str, trial: Trial | None = None) -> PrecisionRecord:
    if trial is None:
        return PrecisionRecord(plan_id=plan.plan_id, precision=precision, basis=basis)
    return PrecisionRecord(
        plan_id=plan.plan_id,
        precision=precision,
        basis=basis,
        sample_rows=trial.rows,
        agreement=trial.agreement,
        rows_per_s=trial.rows_per_s,
    )
