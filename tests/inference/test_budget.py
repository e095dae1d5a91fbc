"""Token budgets: what fits, what is fast, and how it is measured."""

from __future__ import annotations

import pytest
import torch

from distilbatch.inference.budget import (
    CLEAN_BATCHES,
    CPU_BATCH_TOKENS,
    LEAST_BATCH_TOKENS,
    MAX_CUDA_BATCH_TOKENS,
    MIN_CUDA_BATCH_TOKENS,
    PROBE_TOKENS,
    TokenBudget,
    batch_tokens_for,
    suitable_batch_tokens,
)

CARD = torch.device("cuda", 0)
GIB = 1 << 30


@pytest.mark.parametrize(
    ("free_bytes", "bytes_per_token", "expected"),
    [
        (70 * GIB, 20_000, MAX_CUDA_BATCH_TOKENS),
        (1 * GIB, 16_384, 32_768),  # half of the memory
        (1 * GIB, 20_000, 26 * 1024),  # in steps
        (1 * GIB, 50_000, MIN_CUDA_BATCH_TOKENS),  # half would hold less than that; nine tenths hold it
        (1 * GIB, 100_000, 9 * 1024),  # it does not fit
        (2_000_000, 20_000, 90),
        (0, 20_000, 1),
        (GIB, 0, MAX_CUDA_BATCH_TOKENS),
    ],
)
def test_budgets_of_free_memory(free_bytes, bytes_per_token, expected):
    assert batch_tokens_for(free_bytes, bytes_per_token=bytes_per_token) == expected


class Card:
    """The memory of a device that torch would report: ``held`` bytes stay, ``bytes_per_token`` come and go."""

    def __init__(self, monkeypatch, *, total: int, bytes_per_token: int, held: int, first_time: int = 0) -> None:
        self.total, self.bytes_per_token = total, bytes_per_token
        self.allocated = self.peak = held
        self.reserved = held
        self.first_time = first_time
        self.runs: list[int] = []
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: self.allocated)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: self.peak)
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: self.reserved)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (self.total - self.reserved, self.total))
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self._reset)

    def run(self, num_tokens: int) -> bool:
        self.allocated, self.first_time = self.allocated + self.first_time, 0
        needed = self.allocated + num_tokens * self.bytes_per_token
        self.runs.append(num_tokens)
        if needed > self.total:
            return False
        self.peak = max(self.peak, needed)
        self.reserved = max(self.reserved, needed)
        return True

    def _reset(self, _device: torch.device) -> None:
        self.peak = self.allocated


def test_a_budget_is_what_the_free_memory_holds_of_what_tokens_take(monkeypatch):
    card = Card(monkeypatch, total=GIB, bytes_per_token=16_384, held=GIB // 2, first_time=GIB // 4)
    # A quarter is left, though most of it is with torch by now; what came to stay in the first run is no token's.
    assert suitable_batch_tokens(card.run, CARD) == batch_tokens_for(GIB // 4, bytes_per_token=16_384) == 14 * 1024
    assert card.runs == [PROBE_TOKENS] * 2


def test_a_card_that_cannot_even_hold_the_probe_starts_from_half_of_it(monkeypatch):
    card = Card(monkeypatch, total=GIB, bytes_per_token=1 << 20, held=0)
    assert suitable_batch_tokens(card.run, CARD) == PROBE_TOKENS // 2


def test_a_card_without_room_for_any_work_is_refused(monkeypatch):
    card = Card(monkeypatch, total=GIB, bytes_per_token=GIB // 8, held=0)
    with pytest.raises(MemoryError, match="not even 16 tokens can be computed beside the models"):
        suitable_batch_tokens(card.run, CARD)


def test_a_cpu_measures_nothing():
    assert suitable_batch_tokens(lambda _tokens: pytest.fail("ran"), torch.device("cpu")) == CPU_BATCH_TOKENS


def test_a_budget_halves_with_what_did_not_fit_down_to_a_floor_and_comes_back():
    budget = TokenBudget(10_000)
    budget.shrink(9_000)
    assert budget.tokens == 4_500
    budget.shrink(8_000)  # a batch that was cut before
    assert budget.tokens == 4_000
    for used in (1_000, 300, 100):
        budget.shrink(used)
    assert budget.tokens == LEAST_BATCH_TOKENS
    grown = []
    for _ in range(5 * CLEAN_BATCHES):
        grown.append(budget.tokens)
        budget.fitted(budget.tokens)
    assert grown[::CLEAN_BATCHES] == [512, 1024, 2048, 4096, 8192]
    assert budget.tokens == 10_000


def test_only_full_batches_in_a_row_let_a_budget_grow():
    budget = TokenBudget(4_000)
    budget.shrink(4_000)
    for _ in range(CLEAN_BATCHES):
        budget.fitted(900)  # half empty
    assert budget.tokens == 2_000
    for _ in range(CLEAN_BATCHES - 1):
        budget.fitted(1_900)
    budget.shrink(4_000)
    budget.fitted(1_900)
    assert budget.tokens == 2_000


def test_a_budget_below_the_floor_is_kept():
    budget = TokenBudget(100)
    budget.shrink(100)
    assert budget.tokens == 100
