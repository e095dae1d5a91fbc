"""The race: everybody warms up, rounds interleave, and whoever drops out is named while the others finish."""

from __future__ import annotations

import time

import pytest
from bench_fakes import make_workload, scripted

from distilbatch.bench import race as race_module
from distilbatch.bench.race import FAILED, MEASURED, NOT_INSTALLED, REFUSED, SKIPPED, Race


@pytest.fixture
def race(tmp_path):
    with Race(tmp_path) as race:
        yield race


def run(race, folder, entrants, rounds=1):
    for entrant in entrants:
        race.start(entrant, make_workload(folder))
    race.run(rounds)
    return {standing.entrant.name: standing for standing in race.standings}


def test_rounds_take_everybody_in_turn(race, tmp_path):
    standings = run(race, tmp_path, [scripted("a"), scripted("b")], rounds=2)
    assert (tmp_path / "notes").read_text().splitlines() == [
        "a warms up",
        "b warms up",
        *("a runs", "b runs") * 2,
    ]
    assert [item.round for item in standings["b"].passes["model"]] == [0, 1]
    assert all(item.seconds > 0 and item.facts["tokens_computed"] == 7 for item in standings["a"].passes["model"])


@pytest.mark.parametrize(
    ("act", "status", "reason"),
    [
        ("dies", FAILED, "died by signal 6: terminate called"),
        ("fails", FAILED, "RuntimeError: no such kernel"),
        ("cannot load", FAILED, "ValueError: a file is damaged"),
        ("refuses", REFUSED, "this processor is too old; buy another"),
    ],
)
def test_one_that_drops_out_is_named_with_its_reason_and_the_others_finish(race, tmp_path, act, status, reason):
    standings = run(race, tmp_path, [scripted("bad", act), scripted("good")], rounds=2)
    assert (standings["bad"].status, standings["bad"].reason) == (status, reason)
    assert standings["bad"].passes.get("model", []) == []
    assert (standings["good"].status, len(standings["good"].passes["model"])) == (MEASURED, 2)


def test_one_that_hangs_is_ended_after_the_time_allowed(race, tmp_path, monkeypatch):
    monkeypatch.setattr(race_module, "MIN_PASS_TIMEOUT_S", 1.0)
    start = time.perf_counter()
    standings = run(race, tmp_path, [scripted("good"), scripted("bad", "hangs")])
    assert (standings["bad"].status, standings["bad"].reason) == (FAILED, "no answer within 1 s")
    assert len(standings["good"].passes["model"]) == 1
    assert time.perf_counter() - start < 60


def test_what_a_library_prints_does_not_disturb_the_answers(race, tmp_path):
    standings = run(race, tmp_path, [scripted("loud", "prints")], rounds=2)
    assert (standings["loud"].status, len(standings["loud"].passes["model"])) == (MEASURED, 2)
    assert "progress: 100 %" in (tmp_path / "loud.log").read_text()


def test_a_narrower_format_that_is_much_slower_than_float32_is_left_out_after_the_probe(race, tmp_path):
    standings = run(race, tmp_path, [scripted("a"), scripted("b", "is slow", precision="bfloat16")])
    assert standings["b"].status == SKIPPED
    assert standings["b"].reason.startswith("short documents take ")
    assert "b warms up" not in (tmp_path / "notes").read_text()


def test_a_peer_that_is_not_installed_is_listed_with_the_command_that_installs_it(race, tmp_path):
    standings = run(race, tmp_path, [scripted("absent", requires=("no_such_module", "json"))])
    assert (standings["absent"].status, standings["absent"].reason) == (
        NOT_INSTALLED,
        "no_such_module; pip install 'distilbatch[bench]'",
    )


def test_rounds_that_would_end_after_the_budget_are_not_begun(race, tmp_path):
    race.start(scripted("a"), make_workload(tmp_path))
    assert race.run(5, budget_s=0.0) == 1
    assert (tmp_path / "notes").read_text().count("a runs") == 1
