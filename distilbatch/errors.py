"""The one exception tree. Branches are named for the reaction they ask of the caller.

DistilbatchError
├── StopError                 stop the run; a person has to act
│   ├── ConfigError             exit 2   a config, an argument or a hook is wrong
│   ├── DataError               exit 3   an input cannot be read, or a quality gate failed
│   ├── ConflictError           exit 4   this run key was planned with another model, config or source
│   ├── SetupError              exit 6   model files, devices, Ray or the file system are not usable
│   │   └── CheckpointError       exit 6   a checkpoint folder is missing, damaged or not DistilBERT
│   └── ResourceError           exit 7   disk full, memory floor reached, too many worker deaths
├── RetryError                the same command may succeed later
│   ├── InterruptedRunError     exit 5   stopped on purpose at a resumable point
│   └── BusyError               exit 75  another live run owns this run key
└── QuarantineError           set one thing aside and go on
    ├── RowError                a single row becomes an error row
    └── FileError               a file or row group is listed and left out, or becomes error rows

The exit codes are a published contract (README, "Exit codes"): orchestrators see nothing else.
"""

from __future__ import annotations

__all__ = [
    "BusyError",
    "CheckpointError",
    "ConfigError",
    "ConflictError",
    "DataError",
    "DistilbatchError",
    "FileError",
    "InterruptedRunError",
    "QuarantineError",
    "ResourceError",
    "RetryError",
    "RowError",
    "SetupError",
    "StopError",
]


class DistilbatchError(Exception):
    """Root of every error this library raises on purpose.

    Args:
        what: The thing that went wrong, with its name: file, key, column, shard.
        expected: What would have been right; left out of the message when empty.
        found: What was there instead; left out when empty.
        remedy: What the reader can do about it; left out when empty.
    """

    exit_code = 1

    def __init__(self, what: str, *, expected: str = "", found: str = "", remedy: str = "") -> None:
        self.what = what
        self.expected = expected
        self.found = found
        self.remedy = remedy
        super().__init__(what, expected, found, remedy)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross process borders (Ray pickles them); keyword arguments need help to survive that.
        return _rebuild, (type(self), self.what, self.expected, self.found, self.remedy)

    def __str__(self) -> str:
        """One line: what; expected; found; remedy."""
        parts = [self.what]
        if self.expected:
            parts.append(f"expected {self.expected}")
        if self.found:
            parts.append(f"found {self.found}")
        if self.remedy:
            parts.append(self.remedy)
        return "; ".join(parts)


def _rebuild(kind: type[DistilbatchError], what: str, expected: str, found: str, remedy: str) -> DistilbatchError:
    return kind(what, expected=expected, found=found, remedy=remedy)


class StopError(DistilbatchError):
    """Stop the run; a person has to act before the same command can succeed."""


class ConfigError(StopError):
    """A config file, a command-line argument or a pipeline is wrong."""

    exit_code = 2


class DataError(StopError):
    """An input cannot be used, or the finished output failed a gate; nothing was published."""

    exit_code = 3


class ConflictError(StopError):
    """The run key exists with another model, semantic config or source; the message says which differ."""

    exit_code = 4


class SetupError(StopError):
    """Something around the run is not usable: device, Ray, output folder, permissions."""

    exit_code = 6


class CheckpointError(SetupError):
    """A checkpoint folder is missing, damaged, unsafe or not a DistilBERT model."""


class ResourceError(StopError):
    """Disk full, memory floor reached, or the budget of worker deaths spent; resumable after a fix."""

    exit_code = 7


class RetryError(DistilbatchError):
    """The same command may succeed later, unchanged."""


class InterruptedRunError(RetryError):
    """The run was stopped on purpose (signal, time limit) and left a resumable state."""

    exit_code = 5


class BusyError(RetryError):
    """Another live run owns this run key."""

    exit_code = 75


class QuarantineError(DistilbatchError):
    """Set one thing aside and go on; never ends a run by itself."""


class RowError(QuarantineError):
    """One row cannot be annotated; it becomes an error row."""


class FileError(QuarantineError):
    """One file or row group cannot be read; policy decides between stopping and setting it aside."""

    exit_code = 3
