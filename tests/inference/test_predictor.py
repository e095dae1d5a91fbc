"""The predictor against one document at a time, against memory that runs out, and against several threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from distilbatch.inference.predictor import Predictor
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import DistilBertForSequenceClassification
from distilbatch.model.packed import PackedTokens
from distilbatch.records import TokenBatch

CPU = torch.device("cpu")
NUM_CLASSES = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> DistilBertForSequenceClassification:
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=99,
        max_position_embeddings=64,
        n_layers=2,
        n_heads=2,
        dim=16,
        hidden_dim=24,
        initializer_range=0.5,
        id2label={0: "a", 1: "b", 2: "c"},
    )
    return DistilBertForSequenceClassification(config).eval()


def documents(lengths, *, seed: int = 0, first_row: int = 0) -> TokenBatch:
    rng = np.random.default_rng(seed)
    lengths = np.asarray(lengths, dtype=np.int64)
    return TokenBatch(
        input_ids=rng.integers(0, 99, size=int(lengths.sum())).astype(np.int32),
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rows=first_row + 2 * np.arange(len(lengths), dtype=np.int64),  # rows without text lie between
        truncated=np.zeros(len(lengths), dtype=np.bool_),
    )


def predictor_of(model: nn.Module, *, budget: int, device=CPU, dtype=torch.float32) -> Predictor:
    return Predictor(model, device=device, dtype=dtype, num_classes=NUM_CLASSES, max_batch_tokens=budget)


def one_by_one(model: nn.Module, tokens: TokenBatch) -> np.ndarray:
    bounds = zip(tokens.cu_seqlens[:-1], tokens.cu_seqlens[1:], strict=True)
    with torch.no_grad():
        logits = [
            model(torch.from_numpy(tokens.input_ids[start:stop].astype(np.int64))[None]).logits
            for start, stop in bounds
        ]
    return torch.cat(logits).numpy() if logits else np.empty((0, NUM_CLASSES), np.float32)


class CountingModel(nn.Module):
    """Scores a document by its own tokens, and runs out of memory above ``capacity`` tokens."""

    def __init__(self, capacity: int, error: Exception | None = None) -> None:
        super().__init__()
        self.capacity = capacity
        self.error = error or torch.OutOfMemoryError("CUDA out of memory.")
        self.calls: list[int] = []

    def forward_packed(self, packed: PackedTokens) -> torch.Tensor:
        self.calls.append(len(packed.input_ids))
        if len(packed.input_ids) > self.capacity:
            raise self.error
        lengths = [length for num_docs, length in packed.runs for _ in range(num_docs)]
        parts = packed.input_ids.float().split(lengths)
        return torch.stack([torch.tensor([part.sum(), float(len(part)), part[0]]) for part in parts])


def expected_of(tokens: TokenBatch) -> np.ndarray:
    parts = np.split(tokens.input_ids, tokens.cu_seqlens[1:-1])
    return np.array([[part.sum(), len(part), part[0]] for part in parts], dtype=np.float32)


@pytest.mark.parametrize("budget", [1, 17, 64, 300, 100_000])
@pytest.mark.parametrize("seed", range(4))
def test_results_equal_those_of_one_document_at_a_time_in_order(model, budget, seed):
    rng = np.random.default_rng(seed)
    tokens = documents(rng.integers(1, 65, size=rng.integers(1, 40)), seed=seed)
    output = predictor_of(model, budget=budget).predict(tokens)
    np.testing.assert_allclose(output.logits, one_by_one(model, tokens), atol=1e-6, rtol=1e-5)
    assert output.logits.dtype == np.float32
    assert output.rows is tokens.rows
    assert output.tokens_computed == len(tokens.input_ids)
    assert output.seconds > 0


def test_bfloat16_weights_give_float32_logits_near_the_exact_ones(model):
    tokens = documents([5, 60, 1, 33])
    exact = one_by_one(model, tokens)
    other = DistilBertForSequenceClassification(model.config)
    other.load_state_dict(model.state_dict())
    logits = predictor_of(other, budget=64, dtype=torch.bfloat16).predict(tokens).logits
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, exact, atol=0.05 * float(np.abs(exact).max()))
    assert next(model.parameters()).dtype is torch.float32


def test_no_documents_need_no_forward():
    fake = CountingModel(capacity=0)
    output = predictor_of(fake, budget=8).predict(documents([]), on_batch=lambda _rows: pytest.fail("no batch"))
    assert (output.logits.shape, output.tokens_computed, fake.calls) == ((0, NUM_CLASSES), 0, [])


def test_an_observer_hears_of_each_batch_before_it_runs_and_of_every_row_once():
    fake = CountingModel(capacity=1000)
    tokens = documents([3, 9, 4, 9, 1], first_row=10)
    heard: list[tuple[int, list[int]]] = []
    predictor_of(fake, budget=10).predict(tokens, on_batch=lambda rows: heard.append((len(fake.calls), rows.tolist())))
    assert heard == [(0, [12]), (1, [16]), (2, [14, 10, 18])]
    assert fake.calls == [9, 9, 8]


def test_an_observer_that_raises_stops_the_batch_and_frees_the_predictor():
    fake = CountingModel(capacity=1000)
    predictor = predictor_of(fake, budget=10)

    def stop(_rows: np.ndarray) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predictor.predict(documents([3]), on_batch=stop)
    assert fake.calls == []
    assert predictor.predict(documents([3])).tokens_computed == 3


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: out of memory"),
    MemoryError("Unable to allocate 1.0 GiB"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: f"{type(error).__name__} {str(error)[:20]}")
def test_a_batch_that_does_not_fit_is_split_until_it_does(error):
    fake = CountingModel(capacity=20, error=error)
    tokens = documents([7, 3, 9, 12, 5, 1, 20, 2])
    predictor = predictor_of(fake, budget=1000)
    output = predictor.predict(tokens)
    np.testing.assert_array_equal(output.logits, expected_of(tokens))
    assert predictor.max_batch_tokens <= 29  # for good: half of what failed first
    fake.calls.clear()
    np.testing.assert_array_equal(predictor.predict(tokens).logits, expected_of(tokens))
    assert max(fake.calls) <= 29


@pytest.mark.parametrize("capacity", [1, 4, 9, 15, 40])
@pytest.mark.parametrize("budget", [1, 10, 64, 500])
def test_only_documents_too_large_on_their_own_are_left_without_logits(capacity, budget):
    tokens = documents([7, 3, 9, 12, 5, 1, 20, 2])
    output = predictor_of(CountingModel(capacity), budget=budget).predict(tokens)
    expected = expected_of(tokens)
    expected[tokens.lengths > capacity] = np.nan
    np.testing.assert_array_equal(output.logits, expected)


def test_one_giant_does_not_shrink_the_budget_of_the_others_to_nothing():
    fake = CountingModel(capacity=100)
    predictor = predictor_of(fake, budget=100)
    tokens = documents([400, *[10] * 40])
    assert np.isnan(predictor.predict(tokens).logits).all(axis=1).tolist() == [True] + [False] * 40
    assert predictor.max_batch_tokens == 100
    assert fake.calls == [400, 100, 100, 100, 100]


def test_an_error_that_is_not_about_memory_is_not_swallowed():
    fake = CountingModel(capacity=0, error=RuntimeError("shape '[3]' is invalid for input of size 4"))
    predictor = predictor_of(fake, budget=10)
    with pytest.raises(RuntimeError, match="is invalid for input"):
        predictor.predict(documents([5, 5]))
    assert fake.calls == [10]
    fake.capacity = 10
    assert predictor.predict(documents([5, 5])).tokens_computed == 10


def test_threads_that_share_a_predictor_get_their_own_results(model):
    predictor = predictor_of(model, budget=90)
    rng = np.random.default_rng(5)
    buffers = [documents(rng.integers(1, 65, size=20), seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        outputs = list(pool.map(predictor.predict, buffers))
    for tokens, output in zip(buffers, outputs, strict=True):
        np.testing.assert_allclose(output.logits, one_by_one(model, tokens), atol=1e-6, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)], ids=str
)
def test_a_card_gives_the_results_of_the_cpu(model, dtype, tolerance):
    tokens = documents(np.random.default_rng(3).integers(1, 65, size=50))
    exact = one_by_one(model, tokens)
    other = DistilBertForSequenceClassification(model.config)
    other.load_state_dict(model.state_dict())
    predictor = predictor_of(other, budget=300, device=torch.device("cuda", 0), dtype=dtype)
    logits = predictor.predict(tokens).logits
    np.testing.assert_allclose(logits, exact, atol=tolerance * float(np.abs(exact).max()))
    assert {parameter.device.type for parameter in other.parameters()} == {"cuda"}


@pytest.mark.gpu
def test_a_card_whose_memory_runs_out_still_gives_every_result():
    fake = CountingModel(capacity=20)
    tokens = documents([7, 3, 9, 12, 5, 1, 20, 2])
    predictor = predictor_of(fake, budget=1000, device=torch.device("cuda", 0))
    np.testing.assert_array_equal(predictor.predict(tokens).logits, expected_of(tokens))
