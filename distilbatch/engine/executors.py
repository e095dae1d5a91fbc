"""Which executor a config asks for; the libraries of the others are not loaded."""

from __future__ import annotations

from distilbatch.engine.executor import Executor
from distilbatch.engine.job import Job
from distilbatch.engine.spec import WorkerSpec
from distilbatch.startup import quick_imports


def executor_for(job: Job, spec: WorkerSpec) -> Executor:
    """The executor that ``engine.type`` names."""
    if job.config.engine.type == "ray":
        # Ray takes a second to import, and local runs need none of it.
        with quick_imports():
            from distilbatch.engine.actors import RayExecutor  # noqa: PLC0415

        return RayExecutor(spec, job.config.engine)
    # Torch takes two, and where there is nothing to compute, or Ray's workers do it, the driver needs none of it.
    with quick_imports():
        from distilbatch.engine.local import LocalExecutor  # noqa: PLC0415

    return LocalExecutor(spec, shutdown_grace_s=job.config.engine.shutdown_grace_s)
