"""The order of a benchmark: everybody is loaded and warmed up, then each round times one pass of each in turn.

Rounds A B C, A B C: a machine whose clock drifts drifts for everybody, and ratios are taken within a round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distilbatch.bench.competitor import LIMIT
from distilbatch.bench.contestant import Contestant, ContestantError, RefusedError, Runner
from distilbatch.bench.roster import INSTALL, Entrant
from distilbatch.bench.workload import Workload

MEASURED, FAILED, SKIPPED, REFUSED, NOT_INSTALLED = "measured", "failed", "skipped", "refused", "not installed"
LOAD_TIMEOUT_S = 600.0
FIRST_PASS_TIMEOUT_S = 600.0
MIN_PASS_TIMEOUT_S = 120.0
_TIMES_OURS = 30.0  # a pass that takes longer than this many of the first contestant's hangs, or might as well
_MAX_SLOWDOWN = 20.0  # of the probe, against the first one in float32
_MAX_SLOWDOWN_OF_NARROWER = 4.0  # a narrower format that is slower than float32 is emulated
_PROBES = 2  # the first one warms up
_ADDED = ("tokens_computed", "resident_bytes")  # over the processes of a team

_log = logging.getLogger("distilbatch")


@dataclass(frozen=True, slots=True)
class Pass:
    """One timed pass.

    Args:
        round: Which round, from 0.
        seconds: How long it took.
        facts: What else its contestant said.
    """

    round: int
    seconds: float
    facts: dict[str, Any]


@dataclass(slots=True)
class Standing:
    """What is known of an entrant.

    Args:
        entrant: Who.
        status: ``measured``, ``failed``, ``skipped``, ``refused`` or ``not installed``.
        reason: Why it is not measured.
        about: What it said of itself.
        load_s: Seconds to load, convert and quantise.
        probe_s: Seconds of the second probe.
        outputs: File with its outputs, if it got that far.
        passes: Timed passes by scope.
    """

    entrant: Entrant
    status: str = MEASURED
    reason: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    load_s: float = 0.0
    probe_s: float = 0.0
    outputs: Path | None = None
    passes: dict[str, list[Pass]] = field(default_factory=dict)

    def drop(self, status: str, reason: str) -> None:
        """Leave it out from here on; passes that were measured stay."""
        self.status, self.reason = status, reason
        _log.info("%s: %s: %s", self.entrant.name, status, reason)


class Race:
    """Runs contestants over one folder of logs and outputs; leaving the ``with`` block ends them all.

    Args:
        folder: For logs and outputs.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._runners: dict[str, Runner] = {}
        self._scopes: dict[str, tuple[str, ...]] = {}
        self._baseline_s: float | None = None
        self._timeout_s = FIRST_PASS_TIMEOUT_S
        self.standings: list[Standing] = []

    def __enter__(self) -> Race:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(
        self,
        entrant: Entrant,
        workload: Workload,
        *,
        leave_out: Iterable[str] = (),
        runner: Runner | None = None,
        once: bool = False,
    ) -> Standing:
        """Load a contestant, probe it, and keep the outputs of its first pass.

        Args:
            entrant: Who.
            workload: What it computes.
            leave_out: Scopes that its rounds leave out.
            runner: What to ask; None starts a process.
            once: Whether only the outputs are wanted.
        """
        standing = Standing(entrant)
        self.standings.append(standing)
        if missing := entrant.missing():
            standing.drop(NOT_INSTALLED, f"{', '.join(missing)}; {INSTALL}")
            return standing
        _log.info("loading %s", entrant.name)
        runner = runner or Contestant(self._folder / f"{entrant.name}.log", threads=workload.threads)
        self._stack.callback(runner.close)
        self._guarded(standing, lambda: self._warm_up(standing, runner, workload, tuple(leave_out)))
        if once or standing.status != MEASURED:
            self._scopes.pop(entrant.name, None)
            runner.close()
        return standing

    def refuse(self, entrant: Entrant, reason: str) -> None:
        """Put an entrant on the list that is not started."""
        self.standings.append(standing := Standing(entrant))
        standing.drop(SKIPPED, reason)

    def run(self, rounds: int, *, budget_s: float = float("inf")) -> int:
        """Time everybody's passes in turn; a round that would end after the budget is not begun.

        Returns:
            The rounds done, at least one.
        """
        start = time.perf_counter()
        for number in range(rounds):
            elapsed = time.perf_counter() - start
            if number and elapsed * (number + 1) / number > budget_s:
                return number
            _log.info("round %d of %d", number + 1, rounds)
            for standing in self.standings:
                for scope in self._scopes.get(standing.entrant.name, ()):
                    self.time(standing, scope, number)
        return rounds

    def time(self, standing: Standing, scope: str, number: int) -> None:
        """Time one pass of one contestant, if it is still in the race; one that fails is dropped."""
        if standing.status != MEASURED:
            return

        def work() -> None:
            request = {"do": "run", "scope": scope}
            reply = self._runners[standing.entrant.name].ask(request, timeout_s=self._timeout_s)
            standing.passes.setdefault(scope, []).append(Pass(number, reply.pop("seconds"), reply))

        self._guarded(standing, work)

    def _warm_up(self, standing: Standing, runner: Runner, workload: Workload, leave_out: tuple[str, ...]) -> None:
        entrant = standing.entrant
        request = {"factory": entrant.factory, "options": entrant.options, "workload": workload.to_dict()}
        reply = runner.ask(request, timeout_s=LOAD_TIMEOUT_S)
        standing.load_s, standing.about = reply["seconds"], reply["about"]
        self._scopes[entrant.name] = tuple(scope for scope in reply["scopes"] if scope not in leave_out)
        self._runners[entrant.name] = runner
        for _ in range(_PROBES):
            standing.probe_s = runner.ask({"do": "probe"}, timeout_s=self._timeout_s)["seconds"]
        if LIMIT in self._scopes[entrant.name]:
            return
        if self._baseline_s is None and entrant.precision == "float32":
            self._baseline_s = standing.probe_s
        slower = standing.probe_s / (self._baseline_s or standing.probe_s)
        most = _MAX_SLOWDOWN if entrant.precision == "float32" else _MAX_SLOWDOWN_OF_NARROWER
        if slower > most:
            standing.drop(SKIPPED, f"short documents take {slower:.0f} times as long as in float32: emulated here")
            return
        outputs = self._folder / f"{entrant.name}.npy"
        seconds = runner.ask({"do": "outputs", "file": str(outputs)}, timeout_s=self._timeout_s)["seconds"]
        self._timeout_s = min(self._timeout_s, max(MIN_PASS_TIMEOUT_S, _TIMES_OURS * seconds))
        standing.outputs = outputs

    def _guarded(self, standing: Standing, work: Callable[[], None]) -> None:
        try:
            work()
        except RefusedError as error:
            standing.drop(REFUSED, error.what)
        except ContestantError as error:
            standing.drop(FAILED, error.what)


class Team(Runner):
    """Several processes that share the documents and run at the same time, as one contestant.

    Args:
        members: The processes.
        workloads: The share of each.
    """

    def __init__(self, members: Sequence[Contestant], workloads: Sequence[Workload]) -> None:
        self._members = members
        self._workloads = workloads

    def ask(self, request: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Ask everybody at once; the seconds are those until the last one answers."""
        start = time.perf_counter()
        for place, (member, workload) in enumerate(zip(self._members, self._workloads, strict=True)):
            own = dict(request)
            if "workload" in request:
                own["workload"] = workload.to_dict()
            if "file" in request:
                own["file"] = f"{request['file']}-{place}.npy"
            member.send(own)
        replies = [member.receive(timeout_s=timeout_s) for member in self._members]
        sums = {name: sum(reply[name] for reply in replies) for name in _ADDED if name in replies[0]}
        return {**replies[0], **sums, "seconds": time.perf_counter() - start}

    def close(self) -> None:
        """End everybody."""
        for member in self._members:
            member.close()
