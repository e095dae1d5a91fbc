"""The contract of a store: exclusive, atomic and durable creation, whatever the file system answers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from distilbatch.commit.store import LocalStore
from distilbatch.errors import ConflictError, ResourceError, SetupError

ROOT = Path(__file__).parents[2]
STORE = LocalStore()
MAX = 1 << 20


class Recorder:
    """Stands in for calls of ``os`` and notes them in order, with the path behind a handle."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        for name in ("fsync", "link", "mkdir", "replace"):
            monkeypatch.setattr(os, name, self._noting(name, getattr(os, name)))

    def _noting(self, name, real):
        def call(target, *rest, **kwargs):
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)
            result = real(target, *rest, **kwargs)
            self.calls.append(f"{name} {'.tmp' if path.endswith('.tmp') else Path(path).name}")
            return result

        return call


def fail(monkeypatch: pytest.MonkeyPatch, name: str, code: int, *, after: bool = False, times: int = 1) -> None:
    """Make a call of ``os`` fail, before or after it was done for real."""
    real, left = getattr(os, name), [times]

    def call(*args, **kwargs):
        if left[0]:
            left[0] -= 1
            if after:
                real(*args, **kwargs)
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, call)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_first_one_creates_and_the_second_one_changes_nothing(tmp_path):
    path = tmp_path / "a" / "b" / "record.json"
    assert STORE.put_new(path, b"first") is True
    assert STORE.put_new(path, b"second") is False
    assert content(path.parent) == {"record.json": b"first"}  # and no temporary file stays


def test_of_eight_threads_one_creates(tmp_path):
    barrier, wins = threading.Barrier(8), [[] for _ in range(20)]

    def race(number: int) -> None:
        barrier.wait()
        for name in range(20):
            if STORE.put_new(tmp_path / "new" / str(name), b"%d" % number):
                wins[name].append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(winners) for winners in wins] == [1] * 20
    assert content(tmp_path / "new") == {str(name): b"%d" % winners[0] for name, winners in enumerate(wins)}


RACER = """
import sys, time
from pathlib import Path
from distilbatch.commit.store import LocalStore
folder, number = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
store = LocalStore()
staged = folder / f"staged-{number}"
staged.write_text(number)
for name in range(40):
    if store.put_new(folder / "new" / f"{name}", number.encode()):
        print("put", name)
    if store.link_new(staged, folder / "links" / f"{name}"):
        print("link", name)
"""


def test_of_eight_processes_one_creates(tmp_path):
    command = [sys.executable, "-c", RACER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    racers = [subprocess.Popen([*command, str(number)], **pipes) for number in range(8)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won: dict[str, list[int]] = {}
    for number, racer in enumerate(racers):
        for line in racer.communicate(timeout=60)[0].splitlines():
            won.setdefault(line, []).append(number)
        assert racer.returncode == 0
    assert sorted(won) == sorted(f"{kind} {name}" for kind in ("put", "link") for name in range(40))
    assert {len(winners) for winners in won.values()} == {1}
    for kind, folder in (("put", "new"), ("link", "links")):
        expected = {str(name): str(won[f"{kind} {name}"][0]).encode() for name in range(40)}
        assert content(tmp_path / folder) == expected


def test_data_is_durable_before_it_has_a_name_and_the_name_before_it_is_acknowledged(tmp_path, monkeypatch):
    recorder = Recorder(monkeypatch)
    STORE.put_new(tmp_path / "record", b"x")
    assert recorder.calls == ["fsync .tmp", "link .tmp", f"fsync {tmp_path.name}"]


def test_new_folders_are_durable_from_the_top_down(tmp_path, monkeypatch):
    recorder = Recorder(monkeypatch)
    STORE.put_new(tmp_path / "a" / "b" / "record", b"x")
    folders = ["mkdir a", f"fsync {tmp_path.name}", "mkdir b", "fsync a"]
    assert recorder.calls == [*folders, "fsync .tmp", "link .tmp", "fsync b"]


def test_the_loser_also_waits_until_the_name_is_durable(tmp_path, monkeypatch):
    STORE.put_new(tmp_path / "record", b"x")
    (tmp_path / "staged").write_bytes(b"y")
    recorder = Recorder(monkeypatch)
    assert not STORE.put_new(tmp_path / "record", b"x")
    assert not STORE.link_new(tmp_path / "staged", tmp_path / "record")
    assert recorder.calls == ["fsync .tmp", f"fsync {tmp_path.name}", f"fsync {tmp_path.name}"]


def test_a_derived_file_is_durable_before_it_takes_the_place_of_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "metrics").write_bytes(b"old")
    recorder = Recorder(monkeypatch)
    STORE.replace(tmp_path / "metrics", b"new")
    assert recorder.calls == ["fsync .tmp", "replace .tmp"]
    assert content(tmp_path) == {"metrics": b"new"}


@pytest.mark.parametrize("code", [errno.EIO, errno.EEXIST, errno.ENOENT])
def test_a_link_whose_reply_was_lost_was_made(tmp_path, monkeypatch, code):
    fail(monkeypatch, "link", code, after=True)
    assert STORE.put_new(tmp_path / "record", b"mine") is True
    (tmp_path / "staged").write_bytes(b"rows")
    fail(monkeypatch, "link", code, after=True)
    assert STORE.link_new(tmp_path / "staged", tmp_path / "final") is True
    assert content(tmp_path) == {"record": b"mine", "staged": b"rows", "final": b"rows"}


def test_a_link_that_failed_was_not_made(tmp_path, monkeypatch):
    fail(monkeypatch, "link", errno.EIO)
    with pytest.raises(SetupError, match=r"cannot link .*record; found Input/output error; check the disk"):
        STORE.put_new(tmp_path / "record", b"x")
    assert content(tmp_path) == {}


def test_an_error_of_a_link_that_somebody_else_won_is_a_loss(tmp_path, monkeypatch):
    (tmp_path / "record").write_bytes(b"theirs")
    fail(monkeypatch, "link", errno.EIO)
    assert STORE.put_new(tmp_path / "record", b"mine") is False
    assert content(tmp_path) == {"record": b"theirs"}


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.EIO, SetupError), (errno.ENOSPC, ResourceError), (errno.EDQUOT, ResourceError)]
)
@pytest.mark.parametrize("operation", ["put_new", "replace"])
def test_what_could_not_be_made_durable_never_gets_the_name(tmp_path, monkeypatch, operation, code, kind):
    fail(monkeypatch, "fsync", code)
    with pytest.raises(kind, match=r"cannot write .*record"):
        getattr(STORE, operation)(tmp_path / "record", b"x")
    assert content(tmp_path) == {}


def test_a_full_disk_leaves_nothing_and_names_the_remedy(tmp_path):
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom distilbatch.commit.store import LocalStore\n"
        "from distilbatch.errors import ResourceError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    LocalStore().put_new(Path(sys.argv[1]), b'x' * 5000)\n"
        "except ResourceError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "record")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "expected room for the output; found File too large" in ran.stdout
    assert "then run the same command again" in ran.stdout
    assert content(tmp_path) == {}


def test_a_folder_that_is_not_ours_is_a_setup_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SetupError, match="cannot write"):
        STORE.put_new(tmp_path / "file" / "record", b"x")
    with pytest.raises(SetupError, match="cannot read"):
        STORE.read(tmp_path, max_bytes=MAX)
    with pytest.raises(SetupError, match="cannot list"):
        STORE.names(tmp_path / "file")


def test_a_published_file_shares_its_bytes_with_the_staged_one(tmp_path):
    staged, final = tmp_path / "staged", tmp_path / "data" / "dt=1" / "final"
    staged.write_bytes(b"rows")
    assert STORE.link_new(staged, final) is True
    assert final.samefile(staged)
    assert STORE.link_new(staged, final) is True  # repeating it is harmless
    STORE.remove(staged)
    assert final.read_bytes() == b"rows"


def test_a_published_name_is_never_taken_over(tmp_path):
    (tmp_path / "staged").write_bytes(b"mine")
    (tmp_path / "final").write_bytes(b"their")
    assert STORE.link_new(tmp_path / "staged", tmp_path / "final") is False
    assert (tmp_path / "final").read_bytes() == b"their"


def test_a_staged_file_that_somebody_else_has_published_and_removed_is_a_loss(tmp_path):
    (tmp_path / "final").write_bytes(b"rows")
    assert STORE.link_new(tmp_path / "staged", tmp_path / "final") is False
    with pytest.raises(SetupError, match=r"cannot link .*other"):
        STORE.link_new(tmp_path / "staged", tmp_path / "other")


def test_names_are_sorted_and_without_temporary_files(tmp_path):
    for name in ("b.json", "a.json", ".a.json.0123.tmp", "c"):
        (tmp_path / name).write_bytes(b"")
    assert STORE.names(tmp_path) == ["a.json", "b.json", "c"]
    assert STORE.names(tmp_path / "none") == []


def test_what_is_not_there_is_none(tmp_path):
    assert STORE.read(tmp_path / "none", max_bytes=MAX) is None
    assert STORE.size(tmp_path / "none") is None
    STORE.remove(tmp_path / "none")


def test_a_record_of_absurd_size_is_refused_unread(tmp_path):
    with (tmp_path / "record").open("wb") as file:
        file.truncate(1 << 40)  # more than any memory; takes no room on the disk
    with pytest.raises(ConflictError, match=r"record: too large for a record; expected at most 1048576 bytes"):
        STORE.read(tmp_path / "record", max_bytes=MAX)
    (tmp_path / "record").write_bytes(b"x" * MAX)
    assert STORE.read(tmp_path / "record", max_bytes=MAX) == b"x" * MAX


def test_a_reader_of_a_derived_file_sees_the_old_or_the_new_content(tmp_path):
    path, seen, stop = tmp_path / "metrics", set(), threading.Event()
    versions = {letter.encode() * 20_000 for letter in "abc"}
    STORE.replace(path, b"a" * 20_000)

    def read() -> None:
        while not stop.is_set():
            seen.add(STORE.read(path, max_bytes=MAX))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(10):
        for version in sorted(versions):
            STORE.replace(path, version)
    stop.set()
    reader.join()
    assert seen <= versions
