"""Which precision a run computes in: asked for, or the fastest that keeps the labels of its own documents.

Chosen once and recorded before the first shard, so that all attempts and resumes of a run compute alike.
"""

from __future__ import annotations

import logging
import threading

from distilbatch.commit.ledger import RunLedger
from distilbatch.commit.records import PlanRecord, PrecisionRecord
from distilbatch.engine.job import Job, worker_spec
from distilbatch.engine.memory import steady_memory
from distilbatch.engine.sampling import choose_shards
from distilbatch.engine.spec import ShardTask
from distilbatch.engine.trial import EXACT, Assignment, Trial, run_trial
from distilbatch.errors import DataError, SetupError

AUTO = "auto"  # each worker takes what suits its device
MIN_AGREEMENT = 0.999
MAX_TRIAL_ROWS = 1000
MIN_TRIAL_ROWS = 400  # fewer hardly tell 99.9 % from 99 %, and a trial takes seconds to start
TRIAL_SHARE = 50  # a trial reads at most one row in so many, so that it costs a few per cent of what it may save
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
    rows = _trial_rows(plan, engine.precision)
    if engine.precision == AUTO and rows < MIN_TRIAL_ROWS:
        return AUTO, "what suits the device; too few rows to try others on a sample"
    return engine.precision, f"to be {'chosen' if engine.precision == AUTO else 'checked'} by a trial on {rows:,} rows"


def _trial_rows(plan: PlanRecord, asked: str) -> int:
    return min(MAX_TRIAL_ROWS, plan.num_rows // TRIAL_SHARE if asked == AUTO else plan.num_rows)


def _choose(job: Job, plan: PlanRecord, *, stop: threading.Event) -> PrecisionRecord:
    asked = job.config.engine.precision
    rows = _trial_rows(plan, asked)
    if asked == AUTO and rows < MIN_TRIAL_ROWS:
        return _record(plan, AUTO, f"{plan.num_rows} rows are too few to try others on a sample")
    steady_memory()  # this process may be the worker, too, and kernels are tried from here on
    # Small runs, whose workers are other processes, do without torch in this one.
    from distilbatch.inference.precision import fast_precisions, resolve_device, resolve_precision  # noqa: PLC0415

    try:
        device = resolve_device(job.config.engine.device)
    except SetupError as error:  # only the workers have it
        return _untried(plan, asked, asked, str(error))
    plain = resolve_precision(asked, device)
    candidates = fast_precisions(device) if asked == AUTO else (asked,)
    if not candidates:
        return _record(plan, plain, f"{device.type} computes nothing faster than {plain}")
    trial = _try(job, plan, candidates, rows, stop=stop)
    if isinstance(trial, str):
        return _untried(plan, asked, plain, trial)
    least = MIN_AGREEMENT if job.config.engine.min_agreement is None else job.config.engine.min_agreement
    return _fastest(plan, trial, least=least) if asked == AUTO else _checked(plan, trial, asked, least=least)


def _try(job: Job, plan: PlanRecord, candidates: tuple[str, ...], rows: int, *, stop: threading.Event) -> Trial | str:
    shards = choose_shards(plan.shards)
    tasks = tuple(ShardTask(shard, plan.fragments[shard.fragment]) for shard in shards)
    return run_trial(Assignment(worker_spec(job, plan), tasks, -(-rows // len(tasks)), candidates), stop=stop)


def _fastest(plan: PlanRecord, trial: Trial, *, least: float) -> PrecisionRecord:
    worth = {
        name: speed
        for name, speed in trial.rows_per_s.items()
        if name != EXACT and trial.agreement[name] >= least and speed >= _WORTH * trial.rows_per_s[EXACT]
    }
    chosen = max(worth, key=lambda name: worth[name], default=EXACT)
    return _record(plan, chosen, f"the fastest that keeps {least:.1%} of float32's labels on {_sample(trial)}", trial)


def _checked(plan: PlanRecord, trial: Trial, asked: str, *, least: float) -> PrecisionRecord:
    if trial.agreement[asked] < least:
        raise DataError(
            f"precision {asked} changes too many labels",
            expected=f"{least:.2%} of float32's (engine.min_agreement)",
            found=f"{trial.agreement[asked]:.2%} on {_sample(trial)}",
            remedy="set engine.precision to auto, or lower engine.min_agreement",
        )
    return _record(plan, asked, f"asked for, and checked on {_sample(trial)}", trial)


def _untried(plan: PlanRecord, asked: str, plain: str, reason: str) -> PrecisionRecord:
    if asked != AUTO:
        raise SetupError(
            f"precision {asked} cannot be checked",
            expected="a trial on this machine, as engine.min_agreement asks for",
            found=reason,
            remedy="leave engine.min_agreement out, or run where the trial can",
        )
    _log.warning("no other precision than %s was tried: %s", plain, reason)
    return _record(plan, plain, f"no other was tried: {reason}")


def _sample(trial: Trial) -> str:
    return f"a sample of {trial.rows} of the job's rows"


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
