"""Whole commands, as a user gives them: ``run`` until it has committed, and ``pipe`` until its first answer.

What the race leaves out counts here: the start of Python, torch and Ray, loading the model, planning and commits. Each
command has an output folder of its own; the documents are a job's own, in their own order.
"""

from __future__ import annotations

import json
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distilbatch.bench.documents import SHIPPED
from distilbatch.bench.machine import describe_machine, versions_of
from distilbatch.bench.options import BenchOptions, JobSize
from distilbatch.bench.prepare import job_config, plain_config
from distilbatch.bench.spread import spread
from distilbatch.bench.workload import TEXT_CLASSIFICATION
from distilbatch.config import Config
from distilbatch.config.document import to_yaml
from distilbatch.engine.job import Job, resolve_job
from distilbatch.errors import SetupError

_FACTS = ("num_files", "tokens", "tokens_computed", "documents_repeated", "resident_bytes", "stage_seconds")
_PACKAGES = ("torch", "ray", "pyarrow", "tokenizers")
_LINE = "A fast JSON parser for Python\n"


@dataclass(slots=True)
class _Timed:
    seconds: list[float] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


def time_commands(options: BenchOptions) -> dict[str, Any]:
    """Run the commands in turn, as many rounds as asked for.

    Args:
        options: Which job, over what; and ``jobs``.

    Returns:
        The report as JSON values.

    Raises:
        DistilbatchError: The options exclude each other, or the job is wrong.
        SetupError: A command failed, or the source has not so many rows.
    """
    start = time.perf_counter()
    runs = {size: _Timed() for size in options.jobs}
    first_answers: list[float] = []
    with tempfile.TemporaryDirectory(prefix="distilbatch-bench-") as folder:
        scratch = Path(folder)
        config, model_name = job_config(options, scratch)
        config = _placed(config, options)
        file = scratch / "job.yaml"
        file.write_text(to_yaml(plain_config(config)), encoding="utf-8")
        job = resolve_job(config)
        pipe = _pipe_arguments(job, options.device)
        for number in range(options.rounds):
            for place, (size, timed) in enumerate(runs.items()):
                sink = scratch / f"sink-{number}-{place}"
                seconds, timed.report = _run(file, size, sink)
                timed.seconds.append(seconds)
            if pipe:
                first_answers.append(_first_answer(pipe))
    source = config.source.path
    return {
        "machine": describe_machine(),
        "versions": versions_of(*_PACKAGES),
        "settings": {"rounds": options.rounds, "seconds": time.perf_counter() - start},
        "model": {"name": model_name or str(job.heads[0].model)},
        "data": {"source": "shipped package descriptions" if source == str(SHIPPED) else source},
        "commands": [_figures(size, timed) for size, timed in runs.items()],
        "first_answer_s": spread(first_answers),
    }


def _placed(config: Config, options: BenchOptions) -> Config:
    """The job on the device and with the threads that were asked for; by default its own."""
    changes: dict[str, Any] = {} if options.device == "auto" else {"device": options.device}
    if options.threads is not None:
        changes["threads"] = options.threads
    return config.model_copy(update={"engine": config.engine.model_copy(update=changes)})


def _figures(size: JobSize, timed: _Timed) -> dict[str, Any]:
    return {
        "command": "run",
        "engine": size.engine,
        "rows": size.rows,
        "seconds": spread(timed.seconds),
        "rows_per_s": spread([size.rows / value for value in timed.seconds]),
        "rounds_s": [round(value, 3) for value in timed.seconds],
        "attempt_s": timed.report["seconds"],
        **{name: timed.report[name] for name in _FACTS},
    }


def _run(file: Path, size: JobSize, sink: Path) -> tuple[float, dict[str, Any]]:
    settings = {"sink.path": sink, "engine.type": size.engine}
    overrides = [word for key, value in settings.items() for word in ("-s", f"{key}={value}")]
    arguments = ["run", str(file), "--json", "--limit", str(size.rows), *overrides]
    start = time.perf_counter()
    done = subprocess.run([_program(), *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise SetupError(f"distilbatch run over {size.rows} rows", found=_last_lines(done.stderr))
    report: dict[str, Any] = json.loads(done.stdout)
    if report["num_rows"] != size.rows:
        raise SetupError("--jobs", expected=f"a source of at least {size.rows} rows", found=str(report["num_rows"]))
    return seconds, report


def _pipe_arguments(job: Job, device: str) -> list[str] | None:
    """What ``pipe`` is given to do what a job does; None for jobs that are more than one classifier of texts."""
    head = job.heads[0]
    if len(job.heads) > 1 or head.task != TEXT_CLASSIFICATION or len(head.columns) > 1:
        return None
    return ["pipe", "--model", str(head.model), "--device", device]


def _first_answer(arguments: Iterable[str]) -> float:
    """Seconds from the start of ``pipe`` to its answer to a line that was waiting."""
    with tempfile.TemporaryFile("w+") as lines:
        lines.write(_LINE)
        lines.seek(0)
        start = time.perf_counter()
        with subprocess.Popen(
            [_program(), *arguments], stdin=lines, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            answer = next(iter(process.stdout or ()), "")
            seconds = time.perf_counter() - start
            _, problems = process.communicate()
    if process.returncode != 0 or not answer:
        raise SetupError("distilbatch pipe", found=_last_lines(problems))
    return seconds


def _program() -> str:
    program = Path(sysconfig.get_path("scripts")) / "distilbatch"
    if not program.is_file():
        raise SetupError(str(program), expected="the installed program", remedy="install distilbatch with pip")
    return str(program)


def _last_lines(text: str) -> str:
    return " / ".join(text.strip().splitlines()[-3:]) or "nothing on stderr"
