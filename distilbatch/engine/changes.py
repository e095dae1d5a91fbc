"""What has changed between a plan and the world as it is now, and the refusal to mix the two."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distilbatch.commit.records import PlanRecord
from distilbatch.engine.job import Job
from distilbatch.errors import ConflictError, DataError
from distilbatch.fingerprint import sha256_footer
from distilbatch.oserrors import resolved
from distilbatch.records import Fragment
from distilbatch.source.listing import Listing


def refuse_changes(plan: PlanRecord, job: Job) -> None:
    """Refuse to go on with a plan that was made for something else.

    Raises:
        ConflictError: Model, semantic config or source differ.
    """
    if changes := differences(plan, job):
        raise ConflictError(
            f"{plan.run_key} was planned with other settings",
            expected="the model and settings of the plan",
            found="; ".join(changes),
            remedy=_pin(plan, job) + "restore them, or choose another job.name or sink.path",
        )


def _pin(plan: PlanRecord, job: Job) -> str:
    """How to go on with the planned commits of hub ids; empty where that is of no use."""
    moved = [name for name, now in job.model_sources.items() if plan.model_sources.get(name, now) != now]
    pins = [f"revision: {plan.model_sources[name].rpartition('@')[2]} of {name!r}" for name in moved]
    return f"set {', '.join(pins)} to go on; " if pins else ""


def changed_files(plan: PlanRecord, listing: Listing, fragments: set[int]) -> list[str]:
    """Name the planned files that are not in a listing as they were planned.

    Args:
        plan: The plan.
        listing: The source.
        fragments: Indices of the plan's files to look at.
    """
    present = {fragment.path: fragment.identity for fragment in listing.fragments}
    return [
        f"{plan.fragments[index].path} ({'changed' if plan.fragments[index].path in present else 'gone'})"
        for index in sorted(fragments)
        if present.get(plan.fragments[index].path) != plan.fragments[index].identity
    ]


def refuse_changed_files(plan: PlanRecord, listing: Listing, fragments: set[int]) -> None:
    """Refuse to go on when files that still have work are not as they were planned.

    Raises:
        ConflictError: A planned file is gone or has changed; the message names all of them.
        DataError: Whether it has cannot be told, for it cannot be read just now.
    """
    needed = {plan.fragments[index].path for index in fragments}
    unreadable = [bad for bad in listing.bad_files if any(_concerns(bad.path, path) for path in needed)]
    if unreadable:
        raise DataError(
            f"{plan.run_key}: planned files cannot be read",
            found=", ".join(f"{bad.path} ({bad.reason})" for bad in unreadable[:10]),
            remedy="mend or restore them, and run the same command again",
        )
    if changed := changed_files(plan, listing, fragments):
        raise ConflictError(
            f"{plan.run_key}: the source is not what was planned",
            expected="the files as they were at planning time",
            found=", ".join(changed[:10]) + (f" and {len(changed) - 10} more" if len(changed) > 10 else ""),
            remedy="restore them, or start a new run with another job.name or sink.path",
        )


def _concerns(bad: str, path: str) -> bool:
    """Whether a bad file is this one, or a folder above it that could not be listed."""
    return bad in {".", path} or (bad.endswith("/") and path.startswith(bad))


def differences(plan: PlanRecord, job: Job) -> list[str]:
    """What would change the results between a plan and the job as it is now; empty when nothing would."""
    found = []
    for name in sorted(plan.model_fingerprints.keys() | job.model_fingerprints.keys()):
        before, now = plan.model_fingerprints.get(name), job.model_fingerprints.get(name)
        if before != now:
            planned, present = plan.model_sources.get(name), job.model_sources.get(name)
            found.append(f"model of {name!r}: planned {_model(before, planned)}, now {_model(now, present)}")
    if not _is_same_source(plan, job):
        found.append(f"source.path: planned {plan.source_root!r}, now {str(job.source_root)!r}")
    glob = job.config.source.glob
    if plan.source_glob not in {None, glob} and not os.path.isfile(job.source_root):
        found.append(f"source.glob: planned {plan.source_glob!r}, now {glob!r}")
    found += _value_differences("", plan.semantic, job.semantic)
    return found


def _is_same_source(plan: PlanRecord, job: Job) -> bool:
    """Whether a job reads what was planned: at the place of the plan, or at another one with the same files."""
    planned = Path(plan.source_root)
    if planned == job.source_root or resolved(planned) == resolved(job.source_root):
        return True
    # A source that moved need not have every file any more; a second one beside the first has to be a copy of it.
    if not plan.fragments:
        return not os.path.exists(planned)
    agree = all if os.path.exists(planned) else any
    return agree(_is_there(job.source_root, fragment) for fragment in plan.fragments)


def _is_there(root: Path, fragment: Fragment) -> bool:
    path = root if os.path.isfile(root) else root / fragment.path
    try:
        size_bytes = path.stat().st_size
        return size_bytes == fragment.size_bytes and sha256_footer(path, size_bytes) == fragment.footer_sha256
    except OSError:
        return False


def _value_differences(path: str, before: Any, now: Any) -> list[str]:  # noqa: ANN401 - JSON values
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = sorted(before.keys() | now.keys())
        return [
            line
            for key in keys
            for line in _value_differences(f"{path}.{key}" if path else key, before.get(key), now.get(key))
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [line for index, (a, b) in pairs for line in _value_differences(f"{path}.{index}", a, b)]
    return [] if before == now else [f"{path}: planned {before!r}, now {now!r}"]


def _model(digest: str | None, source: str | None) -> str:
    short = "none" if digest is None else digest[:12]
    return f"{short} ({source})" if source else short
