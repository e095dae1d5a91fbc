"""``doctor``: each check sees what is wrong, and the verb exits 6 when something is unusable."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from distilbatch.cli import diagnosis
from distilbatch.cli.diagnosis import (
    MIN_VERSIONS,
    OK,
    UNUSABLE,
    WARNING,
    check_cpu,
    check_folder,
    check_library,
    check_python,
    check_ray_address,
    check_shared_memory,
)

ROOT = Path(__file__).parents[2]


def test_a_good_machine_passes_and_no_probe_is_left(call, place):
    before = sorted(path.name for path in place.folder.iterdir())
    ran = call("doctor", "--json")
    assert ran.code == 0
    report = json.loads(ran.out)
    assert report["ok"] is True
    names = [check["name"] for check in report["checks"]]
    assert {"python", "torch", "ray", "pyarrow", "tokenizers", "cpu", "gpu", "precisions", "working folder"} <= {*names}
    assert sorted(path.name for path in place.folder.iterdir()) == before


def test_the_table_names_every_check(call, place):
    out = call("doctor").out
    assert f"{place.folder}: writable, put-if-absent holds".replace(" ", "") in "".join(out.split())
    assert "free disk" in out


def test_something_unusable_is_exit_code_6(call, place, monkeypatch):
    monkeypatch.setitem(MIN_VERSIONS, "ray", (99,))
    ran = call("doctor")
    assert ran.code == 6
    assert "pip install 'ray>=99'" in ran.out
    assert ran.err == "error: not usable here: ray\n  remedy:   see the table\n"


def test_the_versions_are_those_of_the_package():
    text = (ROOT / "pyproject.toml").read_text()
    for name, minimum in MIN_VERSIONS.items():
        found = re.search(rf'"{name}>=([0-9.]+)"', text)[1]
        assert tuple(map(int, found.split("."))) == minimum


def test_a_library_that_is_missing_or_broken_says_how_to_mend_it(tmp_path, monkeypatch):
    assert check_library("no-such-library", (1, 2)).remedy == "pip install 'no-such-library>=1.2'"
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise OSError('libcudart.so: not found')")
    (tmp_path / "broken-1.5.dist-info").mkdir()
    (tmp_path / "broken-1.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.5\n")
    monkeypatch.syspath_prepend(tmp_path)
    check = check_library("broken", (1,))
    assert (check.level, check.found) == (UNUSABLE, "1.5 does not load: libcudart.so: not found")


def test_old_pythons_are_refused():
    assert check_python((3, 9)).level == UNUSABLE
    assert check_python((3, 10)).level == OK


@pytest.mark.parametrize(
    ("cpuinfo", "found"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_vnni\n", "avx2 avx512f avx512_bf16 avx512_vnni"),
        ("Features\t: fp asimd bf16 i8mm\n", "bf16 i8mm"),
        ("flags\t\t: fpu sse2\n", "none of the fast instructions"),
        ("", "none of the fast instructions"),
    ],
)
def test_cpu_flags_that_matter_are_listed(cpuinfo, found):
    assert check_cpu(cpuinfo).found.endswith(f": {found}")


def test_a_folder_that_cannot_be_written_is_unusable(tmp_path):
    (tmp_path / "file").write_text("")
    assert check_folder(tmp_path / "file").level == UNUSABLE
    assert check_folder(tmp_path / "nowhere").level == UNUSABLE


def test_a_file_system_that_lets_a_second_creation_win_is_unusable(tmp_path, monkeypatch):
    class Overwriting:
        def put_new(self, path: Path, data: bytes) -> bool:
            path.write_bytes(data)
            return True

    monkeypatch.setattr("distilbatch.commit.store.LocalStore", Overwriting)
    check = check_folder(tmp_path)
    assert check.level == UNUSABLE
    assert "put-if-absent does not hold" in check.found


def test_little_space_is_a_warning(tmp_path, monkeypatch):
    assert check_shared_memory(tmp_path / "nowhere").level == WARNING
    monkeypatch.setattr(diagnosis, "_LOW_SHM_BYTES", 1 << 62)
    monkeypatch.setattr(diagnosis, "_LOW_DISK_BYTES", 1 << 62)
    assert check_shared_memory(tmp_path).level == WARNING
    assert diagnosis.check_disk(tmp_path).level == WARNING


@pytest.mark.parametrize(
    ("environ", "level"),
    [
        ({}, OK),
        ({"RAY_ADDRESS": "10.0.0.1:6379"}, WARNING),
        ({"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_MODE": "token"}, OK),
    ],
)
def test_a_cluster_without_a_token_is_a_warning(environ, level):
    check = check_ray_address(environ)
    assert check.level == level
    assert bool(check.remedy) == (level == WARNING)
