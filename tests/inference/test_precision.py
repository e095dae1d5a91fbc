"""Devices and number formats: what is chosen, and what is refused with which words."""

from __future__ import annotations

import pytest
import torch

from distilbatch.errors import SetupError
from distilbatch.inference.backends import operators
from distilbatch.inference.backends.operators import Int8Sums
from distilbatch.inference.devices import list_cpu_precisions
from distilbatch.inference.precision import (
    fast_precisions,
    resolve_device,
    resolve_precision,
    set_threads,
)

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def cards(monkeypatch):
    """Pretend that torch sees some CUDA cards of a compute capability."""

    def pretend(count: int, capability: tuple[int, int] = (9, 0)) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Old Card")

    return pretend


@pytest.mark.parametrize(
    ("asked", "count", "expected"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_devices_that_are_there(cards, asked, count, expected):
    cards(count)
    assert resolve_device(asked) == torch.device(expected)


@pytest.mark.parametrize(("asked", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2), ("cuda:1", 1)])
def test_a_card_that_is_not_there_is_an_error_that_says_how_many_are(cards, asked, count):
    cards(count)
    with pytest.raises(SetupError) as caught:
        resolve_device(asked)
    assert str(caught.value) == (
        f"device '{asked}' is not usable; expected a CUDA device that torch can see; "
        f"found {count} CUDA devices; set engine.device to cpu or auto"
    )
    assert caught.value.exit_code == 6


@pytest.mark.parametrize(
    ("precision", "device", "capability", "expected"),
    [
        ("auto", CPU, (0, 0), "float32"),
        ("float32", CPU, (0, 0), "float32"),
        ("bfloat16", CPU, (0, 0), "bfloat16"),
        ("auto", CARD, (7, 5), "float16"),
        ("auto", CARD, (8, 0), "bfloat16"),
        ("auto", CARD, (9, 0), "bfloat16"),
        ("float16", CARD, (7, 0), "float16"),
        ("float32", CARD, (7, 0), "float32"),
    ],
)
def test_number_formats_that_the_device_has(cards, precision, device, capability, expected):
    cards(1, capability)
    assert resolve_precision(precision, device) == expected


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(
        SetupError, match=r"^precision float16 on a CPU; expected float32, bfloat16 or int8; found .*emulate"
    ):
        resolve_precision("float16", CPU)


def test_bfloat16_on_an_old_card_is_refused_by_the_name_of_the_card(cards):
    cards(1, (7, 5))
    with pytest.raises(SetupError, match=r"precision bfloat16 on Old Card; expected compute capability 8.0 or newer"):
        resolve_precision("bfloat16", CARD)


def test_threads_are_what_was_asked_for():
    before = torch.get_num_threads()
    try:
        set_threads(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("native", "warnings"), [(True, 0), (False, 1)])
def test_a_cpu_that_emulates_bfloat16_computes_it_with_a_warning(monkeypatch, caplog, native, warnings):
    monkeypatch.setattr(operators, "bfloat16_is_native", lambda: native)
    assert resolve_precision("bfloat16", CPU) == "bfloat16"
    assert ["emulates" in record.message for record in caplog.records] == [True] * warnings


def test_int8_is_refused_where_there_are_no_kernels_for_it(monkeypatch, cards):
    monkeypatch.setattr(operators, "int8_sums", lambda: None)
    with pytest.raises(SetupError, match=r"^precision int8; expected a CPU with AVX2 or newer"):
        resolve_precision("int8", CPU)
    cards(1)
    with pytest.raises(SetupError, match="found cuda"):
        resolve_precision("int8", CARD)


@pytest.mark.parametrize(
    ("sums", "native", "expected", "listed"),
    [
        (Int8Sums.WIDE, True, ("int8", "bfloat16"), ["bfloat16", "int8 (VNNI or AMX)"]),
        (Int8Sums.PAIRED, False, ("int8",), ["int8 (AVX2)"]),
        (None, False, (), []),
    ],
)
def test_what_a_cpu_computes_faster_than_float32(monkeypatch, sums, native, expected, listed):
    monkeypatch.setattr(operators, "int8_sums", lambda: sums)
    monkeypatch.setattr(operators, "bfloat16_is_native", lambda: native)
    assert fast_precisions(CPU) == expected
    assert list_cpu_precisions()[1:] == tuple(listed)


def test_what_a_card_computes_faster_than_float32(cards):
    cards(1, (8, 0))
    assert fast_precisions(CARD) == ("bfloat16", "float16")
    cards(1, (7, 5))
    assert fast_precisions(CARD) == ("float16",)
