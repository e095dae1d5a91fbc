"""Who works on a run key: numbered epochs and a heartbeat. Advisory; it only saves computing twice.

Safety never rests on it: if two owners work at once, put-if-absent still lets one attempt of each shard win.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from distilbatch.commit.records import MAX_RECORD_BYTES, OwnerRecord, parse
from distilbatch.commit.store import Store
from distilbatch.errors import BusyError, DistilbatchError
from distilbatch.layout import RunLayout

HEARTBEAT_S = 5.0
LEASE_S = 30.0
RELEASED = b"released\n"

ALIVE = "alive"
DEAD = "dead"
RELEASED_STATE = "released"
UNKNOWN = "unknown"


class Ownership:
    """Ownership of one run key from :meth:`take` to :meth:`release`.

    Args:
        store: Where the records live.
        layout: The run key's paths.
        lease_s: An owner on another machine counts as dead when its heartbeat stands still this long,
            measured by our own monotonic clock.
        sleep: Waits; an argument so that tests need not.
    """

    def __init__(
        self,
        store: Store,
        layout: RunLayout,
        *,
        lease_s: float = LEASE_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._layout = layout
        self._lease_s = lease_s
        self._sleep = sleep
        self._beating = threading.Event()
        self._thread: threading.Thread | None = None
        self.epoch = 0
        self.run_id = uuid4().hex

    def take(self) -> int:
        """K3: become the owner, after the previous owner released, died or fell silent.

        Returns:
            The epoch, from 1.

        Raises:
            BusyError: The owner is alive, or somebody else took the next epoch first.
        """
        latest = _latest_owner(self._store, self._layout)
        if latest is not None and not self._is_gone(latest):
            raise _busy(self._layout, latest)
        self.epoch = 1 if latest is None else latest.epoch + 1
        record = OwnerRecord(
            epoch=self.epoch,
            host=_host_identity(),
            pid=os.getpid(),
            process=_process_identity(os.getpid()),
            run_id=self.run_id,
        )
        try:
            taken = self._store.put_new(self._layout.epoch(self.epoch), record.to_bytes())
        except BaseException:
            self._withdraw()
            raise
        if not taken:
            raise _busy(self._layout, _latest_owner(self._store, self._layout) or record)
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()
        return self.epoch

    def superseded(self) -> bool:
        """Whether somebody took a later epoch; the caller should stop, it only wastes work."""
        return self._store.size(self._layout.epoch(self.epoch + 1)) is not None

    def release(self) -> None:
        """Let the next owner start at once; a store that fails only makes it wait."""
        self._beating.set()
        if self._thread is not None:
            self._thread.join()
            with suppress(DistilbatchError):
                self._store.replace(self._layout.heartbeat(self.epoch), RELEASED)

    def _withdraw(self) -> None:
        # The record may have come into being all the same, and would look alive for as long as this process lives.
        with suppress(DistilbatchError):
            owner = _latest_owner(self._store, self._layout)
            if owner is not None and owner.run_id == self.run_id:
                self._store.replace(self._layout.heartbeat(self.epoch), RELEASED)

    def _beat(self) -> None:
        count = 0
        while not self._beating.is_set():
            count += 1
            # A disk that is full for a while must not silence the heartbeat for good.
            with suppress(DistilbatchError):
                self._store.replace(self._layout.heartbeat(self.epoch), b"%d\n" % count)
            self._beating.wait(HEARTBEAT_S)

    def _is_gone(self, owner: OwnerRecord) -> bool:
        liveness = _liveness(self._store, self._layout, owner)
        if liveness != UNKNOWN:
            return liveness != ALIVE
        before = self._heartbeat(owner)
        waited = 0.0
        while waited < self._lease_s:
            step = min(HEARTBEAT_S, self._lease_s - waited)
            self._sleep(step)
            waited += step
            now = self._heartbeat(owner)
            if now != before:
                return now == RELEASED
        return True

    def _heartbeat(self, owner: OwnerRecord) -> bytes | None:
        return _heartbeat(self._store, self._layout, owner)


@dataclass(frozen=True, slots=True)
class OwnerState:
    """The latest owner of a run key and whether it still works on it.

    Args:
        record: The owner.
        liveness: ``alive``, ``released``, ``dead``, or ``unknown``: it is on another machine, or in another
            container, where only a heartbeat watched for a while could tell.
    """

    record: OwnerRecord
    liveness: str


def owner_state(store: Store, layout: RunLayout) -> OwnerState | None:
    """Look at who owns a run key, without waiting; None when nobody ever did.

    Raises:
        ConflictError: The owner's record is damaged.
    """
    owner = _latest_owner(store, layout)
    return None if owner is None else OwnerState(owner, _liveness(store, layout, owner))


def _latest_owner(store: Store, layout: RunLayout) -> OwnerRecord | None:
    names = [name for name in store.names(layout.epochs) if name.endswith(".json")]
    if not names:
        return None
    path = layout.epochs / names[-1]
    data = store.read(path, max_bytes=MAX_RECORD_BYTES)
    return None if data is None else parse(OwnerRecord, data, where=str(path))


def _heartbeat(store: Store, layout: RunLayout, owner: OwnerRecord) -> bytes | None:
    return store.read(layout.heartbeat(owner.epoch), max_bytes=MAX_RECORD_BYTES)


def _liveness(store: Store, layout: RunLayout, owner: OwnerRecord) -> str:
    if _heartbeat(store, layout, owner) == RELEASED:
        return RELEASED_STATE
    if owner.host != _host_identity():
        return UNKNOWN
    return ALIVE if _process_identity(owner.pid) == owner.process else DEAD


def _busy(layout: RunLayout, owner: OwnerRecord) -> BusyError:
    return BusyError(
        f"{layout.job}/{layout.window}: another run is working on it",
        found=f"process {owner.pid} on {owner.host.split('|')[0]}, epoch {owner.epoch}",
        remedy="wait for it, or run the same command again when it has ended",
    )


def _host_identity() -> str:
    """The host, its boot and the process namespace: only inside one of these do process ids mean the same."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "|".join([socket.gethostname(), boot, os.readlink("/proc/self/ns/pid")])


def _process_identity(pid: int) -> str:
    """Start of a process in clock ticks since boot; empty when it is dead.

    A recycled process id has another start, and a jump of the wall clock does not change it.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    state, start_ticks = fields[0], fields[19]
    return "" if state in {"Z", "X"} else start_ticks
