"""The checks of ``doctor``. Heavy libraries are imported by the check that is about them, to see whether they load."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path

from distilbatch import __version__
from distilbatch.errors import DistilbatchError
from distilbatch.masking import mask

OK = "ok"
WARNING = "warning"
UNUSABLE = "unusable"

MIN_PYTHON = (3, 10)
MIN_VERSIONS = {"torch": (2, 10), "ray": (2, 55), "pyarrow": (17,), "tokenizers": (0, 20)}  # those of pyproject.toml
_FAST_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8", "bf16", "i8mm")
_LOW_DISK_BYTES = 1 << 30
_LOW_SHM_BYTES = 256 << 20  # Ray's object store takes half of it


@dataclass(frozen=True, slots=True)
class Check:
    """Something that was looked at.

    Args:
        name: What.
        level: ``ok``, ``warning`` or ``unusable``.
        found: What was there.
        remedy: What to do about it; empty where nothing is wrong.
    """

    name: str
    level: str
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, str]:
        """The check as JSON values."""
        return asdict(self)


def diagnose(folder: Path, *, environ: Mapping[str, str] | None = None) -> list[Check]:
    """Look at this machine and at a folder that output may go to; writes a probe there and removes it.

    Args:
        folder: The folder.
        environ: The environment; None takes that of the process.
    """
    return [
        Check("distilbatch", OK, __version__),
        check_python(sys.version_info[:2]),
        *(check_library(name, minimum) for name, minimum in MIN_VERSIONS.items()),
        check_cpu(_read_text(Path("/proc/cpuinfo"))),
        check_gpus(),
        check_precisions(),
        check_folder(folder),
        check_disk(folder),
        check_shared_memory(Path("/dev/shm")),
        check_ray_address(os.environ if environ is None else environ),
    ]


def check_python(version: tuple[int, ...]) -> Check:
    """The interpreter."""
    fits = version >= MIN_PYTHON
    remedy = "" if fits else f"install Python {_dotted(MIN_PYTHON)} or newer"
    return Check("python", OK if fits else UNUSABLE, f"{platform.python_version()} ({sys.executable})", remedy)


def check_library(name: str, minimum: tuple[int, ...]) -> Check:
    """A library is there, is new enough, and loads."""
    wanted = f"{name}>={_dotted(minimum)}"
    try:
        version = metadata.version(name)
        import_module(name)
    except metadata.PackageNotFoundError:
        return Check(name, UNUSABLE, "not installed", f"pip install '{wanted}'")
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        return Check(name, UNUSABLE, f"{version} does not load: {error}", f"pip install --force-reinstall '{wanted}'")
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[: len(minimum)] if part.isdecimal())
    if numbers < minimum:
        return Check(name, UNUSABLE, version, f"pip install '{wanted}'")
    return Check(name, OK, version)


def check_cpu(cpuinfo: str) -> Check:
    """How many cores this process may use, and the instructions that matter for speed.

    Args:
        cpuinfo: The content of ``/proc/cpuinfo``.
    """
    listed = (line.partition(":") for line in cpuinfo.splitlines())
    flags = next((set(value.split()) for key, _, value in listed if key.strip() in ("flags", "Features")), set[str]())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fast = " ".join(flag for flag in _FAST_CPU_FLAGS if flag in flags) or "none of the fast instructions"
    return Check("cpu", OK, f"{cores} cores, {platform.machine()}: {fast}")


def check_gpus() -> Check:
    """The CUDA devices that torch can use."""
    try:
        from distilbatch.inference.devices import list_gpus  # noqa: PLC0415

        gpus = list_gpus()
    except (ImportError, OSError, RuntimeError) as error:
        return Check("gpu", WARNING, str(error), "mend torch first; see above")
    return Check("gpu", OK, ", ".join(gpus) or "none; models run on the CPU")


def check_precisions() -> Check:
    """What models can compute in on the CPU, by trying the operators."""
    try:
        from distilbatch.inference.devices import list_cpu_precisions  # noqa: PLC0415

        precisions = list_cpu_precisions()
    except (ImportError, OSError, RuntimeError) as error:
        return Check("precisions", WARNING, str(error), "mend torch first; see above")
    return Check("precisions", OK, f"on the CPU: {', '.join(precisions)}")


def check_folder(folder: Path) -> Check:
    """Files can be created in a folder, and the second creation of a name is refused."""
    from distilbatch.commit.store import LocalStore  # noqa: PLC0415

    name = "working folder"
    try:
        with tempfile.TemporaryDirectory(prefix=".distilbatch-doctor-", dir=folder) as probe:
            store, record = LocalStore(), Path(probe) / "record"
            created = [store.put_new(record, b"first"), store.put_new(record, b"second")]
            content = record.read_bytes()
    except (DistilbatchError, OSError) as error:
        return Check(name, UNUSABLE, f"{folder}: {error}", "work in a folder this user may write")
    if created != [True, False] or content != b"first":
        return Check(name, UNUSABLE, f"{folder}: put-if-absent does not hold", "write to another file system")
    return Check(name, OK, f"{folder}: writable, put-if-absent holds")


def check_disk(folder: Path) -> Check:
    """Space for output."""
    free = shutil.disk_usage(folder).free
    if free < _LOW_DISK_BYTES:
        return Check("free disk", WARNING, _gigabytes(free), "free some space before a large run")
    return Check("free disk", OK, _gigabytes(free))


def check_shared_memory(folder: Path) -> Check:
    """Space for Ray's object store."""
    name = "shared memory"
    if not folder.is_dir():
        return Check(name, WARNING, f"no {folder}", "Ray will be slower")
    free = shutil.disk_usage(folder).free
    if free < _LOW_SHM_BYTES:
        return Check(name, WARNING, f"{folder}: {_gigabytes(free)} free", "in a container: --shm-size=512m")
    return Check(name, OK, f"{folder}: {_gigabytes(free)} free")


def check_ray_address(environ: Mapping[str, str]) -> Check:
    """The cluster that a run with ``engine.type: ray`` would join."""
    address = mask(environ.get("RAY_ADDRESS", ""))
    if not address:
        return Check("ray cluster", OK, "RAY_ADDRESS is not set; a run starts a cluster of its own")
    if environ.get("RAY_AUTH_MODE") != "token":
        return Check(
            "ray cluster",
            WARNING,
            f"RAY_ADDRESS={address} without RAY_AUTH_MODE=token: whoever reaches its ports can run code",
            "start the cluster with RAY_AUTH_MODE=token and set it here too",
        )
    return Check("ray cluster", OK, f"RAY_ADDRESS={address}, with token")


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"
