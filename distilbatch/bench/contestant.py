"""A contestant seen from the benchmark: a process of its own that answers one JSON line for each it is sent.

Thread pools and allocators of different libraries would fight inside one process; and one that dies, hangs or prints
is a line in the report here, never the end of the benchmark.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

from distilbatch.errors import QuarantineError

# The paths of this process, so that the child finds the same modules wherever it was started from.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from distilbatch.bench.child import serve; serve()"
_REASON_CHARACTERS = 300
_QUIT_S = 5.0


class ContestantError(QuarantineError):
    """A contestant cannot go on; it is left out and the others finish."""


class RefusedError(ContestantError):
    """A contestant says itself that it cannot run here, and why."""


class Runner(Protocol):
    """Something that passes can be asked of."""

    def ask(self, request: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Send a request and wait for its reply.

        Raises:
            ContestantError: It died, hung or failed.
        """

    def close(self) -> None:
        """End it, whatever it is doing."""


class Contestant(Runner):
    """Starts the process.

    Args:
        log: File for what it prints.
        threads: CPU threads that its libraries may use, as far as the environment can tell them.
    """

    def __init__(self, log: Path, *, threads: int) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps([path or os.getcwd() for path in sys.path])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                encoding="utf-8",
                env={**os.environ, **_environment(threads)},
                start_new_session=True,  # it is ended with all it started
            )
        self._replies: queue.Queue[str] = queue.Queue()
        self._stdin = cast("TextIO", self._process.stdin)  # both are pipes
        self._stdout = cast("TextIO", self._process.stdout)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def ask(self, request: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Send a request and wait for its reply; see :class:`Runner`."""
        self.send(request)
        return self.receive(timeout_s=timeout_s)

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request without waiting.

        Raises:
            ContestantError: It is dead.
        """
        try:
            self._stdin.write(json.dumps(request) + "\n")
            self._stdin.flush()
        except OSError:
            raise self._dead() from None

    def receive(self, *, timeout_s: float) -> dict[str, Any]:
        """Wait for the reply to what was sent.

        Raises:
            ContestantError: It died, hung or failed.
            RefusedError: It cannot run here.
        """
        try:
            line = self._replies.get(timeout=timeout_s)
        except queue.Empty:
            self.close()
            raise ContestantError(f"no answer within {timeout_s:.0f} s") from None
        if not line:
            raise self._dead()
        reply: dict[str, Any] = json.loads(line)
        if refused := reply.get("refused"):
            raise RefusedError(_short(refused))
        if failed := reply.get("failed"):
            raise ContestantError(_short(failed))
        return reply

    def close(self) -> None:
        """End the process and what it started."""
        with suppress(OSError):
            self._stdin.close()
        # The end of its input ends it, so that it can end what it started (Ray's cluster is in a session of its own).
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_QUIT_S)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(_QUIT_S)  # a helper that it started and that outlives it may hold the pipe open
        if not self._reader.is_alive():
            self._stdout.close()

    def _read(self) -> None:
        for line in self._stdout:
            self._replies.put(line)
        self._replies.put("")

    def _dead(self) -> ContestantError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_QUIT_S)
        code = self._process.poll()
        how = f"died by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"
        lines = self._log.read_text("utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return ContestantError(_short(f"{how}: {last}" if last else how))


def _environment(threads: int) -> dict[str, str]:
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }


def _short(reason: str) -> str:
    text = " ".join(reason.split())
    return text if len(text) <= _REASON_CHARACTERS else text[: _REASON_CHARACTERS - 1] + "…"
