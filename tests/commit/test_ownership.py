"""Who may work on a run key: the living keep it, the dead lose it at once, strangers after a silence."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from distilbatch.commit.ownership import HEARTBEAT_S, RELEASED, Ownership, owner_state
from distilbatch.commit.records import OwnerRecord
from distilbatch.commit.store import LocalStore
from distilbatch.errors import BusyError, ConflictError, SetupError
from distilbatch.layout import RunLayout

STORE = LocalStore()
ROOT = Path(__file__).parents[2]


@pytest.fixture
def layout(tmp_path: Path) -> RunLayout:
    return RunLayout(tmp_path, "nightly", "2026-01-01")


class Clock:
    """Counts what is slept; ``meanwhile`` happens after so many sleeps.

    Args:
        meanwhile: By number of the sleep.
    """

    def __init__(self, meanwhile=None) -> None:
        self.sleeps: list[float] = []
        self._meanwhile = meanwhile or {}

    def __call__(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self._meanwhile.get(len(self.sleeps), lambda: None)()


def owner_elsewhere(layout: RunLayout, *, epoch: int = 1, beat: bytes | None = b"7\n") -> None:
    record = OwnerRecord(epoch=epoch, host="other|boot|pid:[1]", pid=1, process="5", run_id="theirs")
    STORE.put_new(layout.epoch(epoch), record.to_bytes())
    if beat is not None:
        STORE.replace(layout.heartbeat(epoch), beat)


def refuse_to_sleep(seconds: float) -> None:
    raise AssertionError("nobody has to be waited for")


def test_the_first_owner_has_epoch_one_and_releases_it(layout):
    owner = Ownership(STORE, layout, sleep=refuse_to_sleep)
    assert owner.take() == 1
    assert owner_state(STORE, layout).liveness == "alive"
    owner.release()
    assert owner_state(STORE, layout).liveness == "released"
    assert layout.heartbeat(1).read_bytes() == RELEASED
    follower = Ownership(STORE, layout, sleep=refuse_to_sleep)
    assert follower.take() == 2
    follower.release()


def test_a_live_owner_keeps_it(layout):
    owner = Ownership(STORE, layout)
    owner.take()
    expected = rf"nightly/2026-01-01: another run .* found process {os.getpid()} on .*epoch 1"
    with pytest.raises(BusyError, match=expected) as caught:
        Ownership(STORE, layout, sleep=refuse_to_sleep).take()
    assert caught.value.exit_code == 75
    owner.release()


def test_a_dead_owner_loses_it_at_once(layout):
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom distilbatch.commit.ownership import Ownership\n"
        "from distilbatch.commit.store import LocalStore\nfrom distilbatch.layout import RunLayout\n"
        "Ownership(LocalStore(), RunLayout(Path(sys.argv[1]), 'nightly', '2026-01-01')).take()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    died = subprocess.run([sys.executable, "-c", program, str(layout.root)], check=False, cwd=ROOT)
    assert died.returncode == -9
    assert owner_state(STORE, layout).liveness == "dead"
    owner = Ownership(STORE, layout, sleep=refuse_to_sleep)
    assert owner.take() == 2
    owner.release()


def test_another_process_with_the_same_id_is_not_the_owner(layout):
    owner = Ownership(STORE, layout)
    owner.take()
    recycled = OwnerRecord(**{**owner_state(STORE, layout).record.model_dump(), "epoch": 2, "process": "1"})
    STORE.put_new(layout.epoch(2), recycled.to_bytes())
    assert owner_state(STORE, layout).liveness == "dead"
    owner.release()


@pytest.mark.parametrize("beat", [b"7\n", None])
def test_an_owner_elsewhere_loses_it_after_a_lease_of_silence(layout, beat):
    owner_elsewhere(layout, beat=beat)
    assert owner_state(STORE, layout).liveness == "unknown"
    clock = Clock()
    owner = Ownership(STORE, layout, lease_s=12.0, sleep=clock)
    assert owner.take() == 2
    assert clock.sleeps == [HEARTBEAT_S, HEARTBEAT_S, 2.0]
    owner.release()


@pytest.mark.parametrize("before", [b"7\n", None])
def test_an_owner_elsewhere_keeps_it_by_one_heartbeat(layout, before):
    owner_elsewhere(layout, beat=before)
    clock = Clock({3: lambda: STORE.replace(layout.heartbeat(1), b"8\n")})
    with pytest.raises(BusyError, match="process 1 on other, epoch 1"):
        Ownership(STORE, layout, lease_s=60.0, sleep=clock).take()
    assert len(clock.sleeps) == 3


def test_an_owner_elsewhere_may_release_it_while_we_wait(layout):
    owner_elsewhere(layout)
    clock = Clock({2: lambda: STORE.replace(layout.heartbeat(1), RELEASED)})
    owner = Ownership(STORE, layout, lease_s=60.0, sleep=clock)
    assert owner.take() == 2
    assert len(clock.sleeps) == 2
    owner.release()


def test_of_two_that_waited_one_takes_it(layout):
    owner_elsewhere(layout)
    faster = Ownership(STORE, layout, lease_s=5.0, sleep=Clock())
    clock = Clock({1: faster.take})
    with pytest.raises(BusyError, match="epoch 2"):
        Ownership(STORE, layout, lease_s=5.0, sleep=clock).take()
    faster.release()


def test_an_owner_learns_that_it_was_superseded(layout):
    owner = Ownership(STORE, layout)
    owner.take()
    assert not owner.superseded()
    owner_elsewhere(layout, epoch=2)
    assert owner.superseded()
    owner.release()
    assert owner_state(STORE, layout).liveness == "unknown"  # the release concerned epoch 1


class FailingStore(LocalStore):
    """Fails some operations, as a disk that is full for a while.

    Args:
        fails: Says of an operation and path whether it fails, before it happens.
        fails_after: The same, after it happened.
    """

    def __init__(self, *, fails=lambda name, path: False, fails_after=lambda name, path: False) -> None:
        self._fails, self._fails_after = fails, fails_after

    def put_new(self, path, data):
        result = super().put_new(path, data)
        if self._fails_after("put_new", path):
            raise SetupError("lost")
        return result

    def replace(self, path, data):
        if self._fails("replace", path):
            raise SetupError("full")
        super().replace(path, data)


def test_an_epoch_whose_reply_was_lost_does_not_look_alive_for_ever(layout):
    store = FailingStore(fails_after=lambda name, path: path.parent.name == "epoch")
    with pytest.raises(SetupError, match="lost"):
        Ownership(store, layout).take()
    owner = Ownership(STORE, layout, sleep=refuse_to_sleep)  # in the same process, which is alive
    assert owner.take() == 2
    owner.release()


def test_a_heartbeat_survives_a_disk_that_fails_for_a_while(layout, monkeypatch):
    monkeypatch.setattr("distilbatch.commit.ownership.HEARTBEAT_S", 0.001)
    beats = [0]
    enough = threading.Event()

    def fails(name, path):
        beats[0] += 1
        if beats[0] > 6:
            enough.set()
        return beats[0] <= 3

    owner = Ownership(FailingStore(fails=fails), layout)
    owner.take()
    assert enough.wait(10)
    assert int(layout.heartbeat(1).read_bytes()) >= 4
    owner.release()
    assert layout.heartbeat(1).read_bytes() == RELEASED


def test_a_release_that_fails_does_not_hide_how_the_run_ended(layout):
    owner = Ownership(FailingStore(fails=lambda name, path: True), layout)
    owner.take()
    owner.release()


def test_a_damaged_owner_record_is_a_conflict(layout):
    STORE.put_new(layout.epoch(1), b'{"epoch": 0}')
    with pytest.raises(ConflictError, match=r"000001\.json: not a valid OwnerRecord"):
        Ownership(STORE, layout).take()
    with pytest.raises(ConflictError, match="not a valid OwnerRecord"):
        owner_state(STORE, layout)


def test_nobody_owned_it_yet(layout):
    assert owner_state(STORE, layout) is None
