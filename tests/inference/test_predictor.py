"""The predictor against one document at a time, against memory that runs out, and against several threads."""

from __future__ import annotations

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
import torch
from token_batches import random_token_batch
from torch import nn

from distilbatch.errors import ResourceError
from distilbatch.inference import transfer
from distilbatch.inference.backends import ReferenceBackend
from distilbatch.inference.budget import CLEAN_BATCHES, CPU_BATCH_TOKENS, PAUSES_S, STREAM_BATCH_TOKENS
from distilbatch.inference.predictor import Predictor
from distilbatch.inference.readouts import Embedding, MaskScores, Readout, SequenceLogits, TokenLogits
from distilbatch.inference.streams import Streams
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import (
    DistilBertForMaskedLM,
    DistilBertForMultipleChoice,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
    PreTrainedModel,
)
from distilbatch.model.packed import PackedTokens, Rows
from distilbatch.records import HeadOutput, TokenBatch

CPU = torch.device("cpu")
NUM_CLASSES = 3
MASK_ID = 7
CONFIG = DistilBertConfig(
    vocab_size=99,
    max_position_embeddings=64,
    n_layers=2,
    n_heads=2,
    dim=16,
    hidden_dim=24,
    initializer_range=0.5,
    id2label={0: "a", 1: "b", 2: "c"},
)
SPAN_CONFIG = replace(CONFIG, id2label={0: "start", 1: "end"})


@pytest.fixture(scope="module")
def model() -> DistilBertForSequenceClassification:
    torch.manual_seed(0)
    return DistilBertForSequenceClassification(CONFIG).eval()


def documents(lengths, *, seed: int = 0) -> TokenBatch:
    # Sequences without tokens lie between them.
    return random_token_batch(np.asarray(lengths).tolist(), vocab_size=99, seed=seed, step=2)


def predictor_of(model: nn.Module, *, budget: int | None, device=CPU, precision="float32") -> Predictor:
    fake = isinstance(model, CountingModel)
    backend = ReferenceBackend() if fake else None
    predictor = Predictor(
        [model if fake else copy.deepcopy(model)],  # a backend swaps its layers
        [SequenceLogits()],
        device=device,
        precision=precision,
        max_batch_tokens=budget,
        backend=backend,
    )
    if fake:
        predictor.canary_tokens = 1  # what runs out of memory here is tiny
    return predictor


def logits_of(predictor: Predictor, tokens: TokenBatch) -> np.ndarray:
    """A row for each document, NaN where there are no logits."""
    (output,) = predictor.predict(tokens)
    logits = np.full((len(tokens), NUM_CLASSES), np.nan, dtype=np.float32)
    logits[output.positions] = output.values
    return logits


def one_by_one(model: nn.Module, tokens: TokenBatch) -> np.ndarray:
    bounds = zip(tokens.cu_seqlens[:-1], tokens.cu_seqlens[1:], strict=True)
    with torch.no_grad():
        logits = [
            model(torch.from_numpy(tokens.input_ids[start:stop].astype(np.int64))[None]).logits
            for start, stop in bounds
        ]
    return torch.cat(logits).numpy() if logits else np.empty((0, NUM_CLASSES), np.float32)


def output_of_all(predictor: Predictor, model: nn.Module, tokens: TokenBatch) -> HeadOutput:
    """What a predictor says, which has to be what one document at a time gives, in order."""
    (output,) = predictor.predict(tokens)
    np.testing.assert_allclose(output.values, one_by_one(model, tokens), atol=1e-5, rtol=1e-5)
    assert output.positions.tolist() == list(range(len(tokens)))
    assert output.tokens_computed == len(tokens.input_ids)
    return output


class CountingModel(nn.Module):
    """Scores a document by its own tokens, and its encoder runs out of memory above ``capacity`` tokens."""

    def __init__(self, capacity: int, error: Exception | None = None) -> None:
        super().__init__()
        self.distilbert = CountingEncoder(capacity, error)
        self.head = nn.Identity()
        self.config = CONFIG

    @property
    def encoder(self) -> CountingEncoder:
        return self.distilbert

    @property
    def calls(self) -> list[int]:
        return self.distilbert.calls


class CountingEncoder(nn.Module):
    def __init__(self, capacity: int, error: Exception | None) -> None:
        super().__init__()
        self.capacity = capacity
        self.error = error or torch.OutOfMemoryError("CUDA out of memory.")
        self.calls: list[int] = []

    def forward_packed(self, packed: PackedTokens, rows: Rows) -> torch.Tensor:
        assert rows == "first"
        self.calls.append(len(packed.input_ids))
        if len(packed.input_ids) > self.capacity:
            raise self.error
        parts = packed.input_ids.float().split(packed.layout.lengths)
        return torch.stack([torch.tensor([part.sum(), float(len(part)), part[0]]) for part in parts])


def expected_of(tokens: TokenBatch) -> np.ndarray:
    parts = np.split(tokens.input_ids, tokens.cu_seqlens[1:-1])
    return np.array([[part.sum(), len(part), part[0]] for part in parts], dtype=np.float32)


@pytest.mark.parametrize("budget", [1, 17, 64, 300, 100_000])
@pytest.mark.parametrize("seed", range(4))
def test_results_equal_those_of_one_document_at_a_time_in_order(model, budget, seed):
    rng = np.random.default_rng(seed)
    tokens = documents(rng.integers(1, 65, size=rng.integers(1, 40)), seed=seed)
    (output,) = predictor_of(model, budget=budget).predict(tokens)
    np.testing.assert_allclose(output.values, one_by_one(model, tokens), atol=1e-5, rtol=1e-5)
    assert output.values.dtype == np.float32
    assert output.positions.tolist() == list(range(len(tokens)))
    assert output.ids is None
    assert output.tokens_computed == len(tokens.input_ids)
    assert output.seconds > 0


def test_bfloat16_weights_give_float32_logits_near_the_exact_ones(model):
    tokens = documents([5, 60, 1, 33])
    exact = one_by_one(model, tokens)
    other = DistilBertForSequenceClassification(model.config)
    other.load_state_dict(model.state_dict())
    logits = logits_of(predictor_of(other, budget=64, precision="bfloat16"), tokens)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, exact, atol=0.05 * float(np.abs(exact).max()))
    assert next(model.parameters()).dtype is torch.float32


def test_no_documents_need_no_forward():
    fake = CountingModel(capacity=0)
    (output,) = predictor_of(fake, budget=8).predict(documents([]), on_batch=lambda _documents: pytest.fail("no batch"))
    assert (len(output.positions), len(output.values), output.tokens_computed, fake.calls) == (0, 0, 0, [])


def test_an_observer_hears_of_each_batch_before_it_runs_and_of_every_document_once():
    fake = CountingModel(capacity=1000)
    tokens = documents([3, 9, 4, 9, 1])
    heard: list[tuple[int, list[int]]] = []
    predictor_of(fake, budget=10).predict(
        tokens, on_batch=lambda chosen: heard.append((len(fake.calls), chosen.tolist()))
    )
    assert heard == [(0, [1]), (1, [3]), (2, [2, 0, 4])]
    assert fake.calls == [9, 9, 8]


def test_an_observer_that_raises_stops_the_batch_and_frees_the_predictor():
    fake = CountingModel(capacity=1000)
    predictor = predictor_of(fake, budget=10)

    def stop(_documents: np.ndarray) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predictor.predict(documents([3]), on_batch=stop)
    assert fake.calls == []
    assert predictor.predict(documents([3]))[0].tokens_computed == 3


# --- Results read after later batches are launched, as on devices that compute beside the host -----------------------


@pytest.mark.parametrize("max_unread", [1, 2, 100])
@pytest.mark.parametrize("budget", [1, 17, 300])
def test_results_that_are_read_late_are_the_same_in_the_same_order(model, max_unread, budget):
    tokens = documents(np.random.default_rng(2).integers(1, 65, size=30), seed=2)
    predictor = predictor_of(model, budget=budget)
    predictor.max_unread = max_unread
    output_of_all(predictor, model, tokens)


def test_a_batch_is_read_once_the_next_one_is_launched(monkeypatch):
    fake, tokens = CountingModel(capacity=1000), documents([9, 8, 7, 6])
    waits: list[list[int]] = []
    monkeypatch.setattr(transfer.Mark, "wait", lambda _mark: waits.append(list(fake.calls)))
    at_once, late = [[9], [9, 8], [9, 8, 7], [9, 8, 7, 6]], [[9, 8], [9, 8, 7], [9, 8, 7, 6], [9, 8, 7, 6]]
    for max_unread, expected in ((0, at_once), (1, late)):
        fake.calls.clear()
        waits.clear()
        predictor = predictor_of(fake, budget=10)
        predictor.max_unread = max_unread
        predictor.predict(tokens)
        assert waits == expected


def test_an_observer_hears_of_every_batch_that_may_still_run():
    tokens = documents([9, 8, 7, 6])
    predictor = predictor_of(CountingModel(capacity=1000), budget=10)
    predictor.max_unread = 1
    heard: list[list[int]] = []
    predictor.predict(tokens, on_batch=lambda chosen: heard.append(chosen.tolist()))
    assert heard == [[0], [0, 1], [1, 2], [2, 3]]


# --- Token batches side by side, as on CPUs of several cores ---------------------------------------------------------


@pytest.fixture(scope="module", params=[2, 3])
def streams(request) -> Streams:
    return Streams(request.param)


@pytest.mark.parametrize("budget", [1, 17, 64, 300, 100_000])
@pytest.mark.parametrize("seed", range(4))
def test_results_of_streams_equal_those_of_one_document_at_a_time_in_order(model, streams, budget, seed):
    rng = np.random.default_rng(seed)
    tokens = documents(rng.integers(1, 65, size=rng.integers(1, 40)), seed=seed)
    predictor = predictor_of(model, budget=budget)
    predictor.streams = streams
    assert output_of_all(predictor, model, tokens).seconds > 0


@pytest.mark.parametrize("capacity", [1, 4, 9, 15, 40])
@pytest.mark.parametrize("budget", [1, 10, 64])
def test_streams_split_what_does_not_fit_and_leave_out_what_never_does(streams, capacity, budget):
    tokens = documents([7, 3, 9, 12, 5, 1, 20, 2])
    predictor = predictor_of(CountingModel(capacity), budget=budget)
    predictor.streams = streams
    (output,) = predictor.predict(tokens)
    fitting = np.flatnonzero(tokens.lengths <= capacity)
    assert output.positions.tolist() == fitting.tolist()
    np.testing.assert_array_equal(output.values.reshape(-1, NUM_CLASSES), expected_of(tokens)[fitting])


def test_token_batches_run_side_by_side_and_the_last_one_of_an_odd_number_with_all_cores(monkeypatch):
    fake, threads = CountingModel(capacity=1000), {}
    both, forward = threading.Barrier(2, timeout=20), fake.distilbert.forward_packed

    def meeting(packed: PackedTokens, rows: Rows) -> torch.Tensor:
        threads[len(packed.input_ids)] = threading.current_thread().name.partition("_")[0]
        if len(packed.input_ids) > 5:
            both.wait()
        return forward(packed, rows)

    monkeypatch.setattr(fake.distilbert, "forward_packed", meeting)
    predictor, tokens = predictor_of(fake, budget=9), documents([9, 8, 7, 6, 5])
    predictor.streams = Streams(2)
    np.testing.assert_array_equal(logits_of(predictor, tokens), expected_of(tokens))
    assert threads == {9: "stream", 8: "stream", 7: "stream", 6: "stream", 5: threading.current_thread().name}


def test_an_observer_hears_of_every_document_before_its_stream_runs_it_and_while_it_may(streams):
    fake, tokens = CountingModel(capacity=1000), documents([12, 11, 10, 9, 8, 7])
    predictor = predictor_of(fake, budget=12)
    predictor.streams = streams
    heard: list[set[int]] = []

    def note(chosen: np.ndarray) -> None:
        assert tokens.lengths[chosen[-1]] not in fake.calls
        heard.append(set(chosen.tolist()))

    predictor.predict(tokens, on_batch=note)
    count = streams.count
    assert heard == [set(range(max(0, last - count), last + 1)) for last in range(6)]


@pytest.mark.parametrize("fault", ["observer", "stream"])
def test_nothing_runs_any_more_when_a_fault_comes_out(monkeypatch, streams, fault):
    fake, tokens = CountingModel(capacity=1000), documents([12, 11, 10, 9, 8, 7])
    running, forward = [], fake.distilbert.forward_packed

    def slow(packed: PackedTokens, rows: Rows) -> torch.Tensor:
        if fault == "stream" and len(packed.input_ids) == 11:
            raise RuntimeError("on purpose")
        running.append(0)
        time.sleep(0.1)
        running.pop()
        return forward(packed, rows)

    def stop(chosen: np.ndarray) -> None:
        if fault == "observer" and chosen[-1] == 2:
            raise RuntimeError("on purpose")

    monkeypatch.setattr(fake.distilbert, "forward_packed", slow)
    predictor = predictor_of(fake, budget=12)
    predictor.streams = streams
    with pytest.raises(RuntimeError, match="on purpose"):
        predictor.predict(tokens, on_batch=stop)
    calls = list(fake.calls)
    assert running == []
    time.sleep(0.3)
    assert fake.calls == calls
    fault = "none"
    np.testing.assert_array_equal(logits_of(predictor, tokens), expected_of(tokens))


@pytest.mark.parametrize("capacity", [1, 4, 9, 15, 40])
def test_memory_that_runs_out_with_batches_under_way_costs_none_of_their_results(capacity):
    tokens = documents([7, 3, 9, 12, 5, 1, 20, 2])
    predictor = predictor_of(CountingModel(capacity), budget=16)
    predictor.max_unread = 1
    (output,) = predictor.predict(tokens)
    fitting = np.flatnonzero(tokens.lengths <= capacity)
    assert output.positions.tolist() == fitting.tolist()
    np.testing.assert_array_equal(output.values.reshape(-1, NUM_CLASSES), expected_of(tokens)[fitting])


def test_an_error_with_batches_under_way_frees_the_predictor():
    fake = CountingModel(capacity=9, error=RuntimeError("an illegal memory access was encountered"))
    predictor = predictor_of(fake, budget=10)
    predictor.max_unread = 1

    def break_the_second(chosen: np.ndarray) -> None:
        fake.distilbert.capacity = 9 if len(chosen) == 1 else 0

    with pytest.raises(RuntimeError, match="illegal memory access"):
        predictor.predict(documents([9, 8, 7]), on_batch=break_the_second)
    assert fake.calls == [9, 8]
    fake.distilbert.capacity = 10
    np.testing.assert_array_equal(logits_of(predictor, documents([5, 5])), expected_of(documents([5, 5])))


@pytest.mark.parametrize(("count", "budget"), [(0, CPU_BATCH_TOKENS), (2, STREAM_BATCH_TOKENS)])
def test_without_a_budget_a_cpu_takes_its_own(model, monkeypatch, count, budget):
    monkeypatch.setattr("distilbatch.inference.predictor.suitable_streams", lambda _device: Streams(count))
    assert predictor_of(model, budget=None).max_batch_tokens == budget


@pytest.mark.parametrize("name", ["classes", "masks", "states"])
def test_the_tokens_that_a_budget_is_measured_with_run_through_every_kind_of_readout(monkeypatch, name):
    ran: list[bool] = []
    monkeypatch.setattr(
        "distilbatch.inference.predictor.suitable_batch_tokens", lambda run, _device: ran.append(run(200)) or 33
    )
    (model,) = made(name)
    predictor = Predictor([model], [HEADS[name][1]], device=CPU, precision="float32")
    assert (ran, predictor.max_batch_tokens) == ([True], 33)


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
    np.testing.assert_array_equal(logits_of(predictor_of(fake, budget=1000), tokens), expected_of(tokens))
    assert max(fake.calls) == 59


def test_a_budget_that_proved_too_large_is_smaller_for_a_time():
    fake, tokens = CountingModel(capacity=1500), documents([50] * 80)
    predictor = predictor_of(fake, budget=2000)
    logits_of(predictor, tokens)
    assert predictor.max_batch_tokens == 1000
    for _ in range(CLEAN_BATCHES // 4):
        fake.calls.clear()
        np.testing.assert_array_equal(logits_of(predictor, tokens), expected_of(tokens))
        assert fake.calls == [1000] * 4
    assert predictor.max_batch_tokens == 2000
    fake.distilbert.capacity = 2000  # whatever took the memory is gone
    fake.calls.clear()
    logits_of(predictor, tokens)
    assert fake.calls == [2000, 2000]


@pytest.mark.parametrize("capacity", [1, 4, 9, 15, 40])
@pytest.mark.parametrize("budget", [1, 10, 64, 500])
def test_only_documents_too_large_on_their_own_are_left_out(capacity, budget):
    tokens = documents([7, 3, 9, 12, 5, 1, 20, 2])
    (output,) = predictor_of(CountingModel(capacity), budget=budget).predict(tokens)
    fitting = np.flatnonzero(tokens.lengths <= capacity)
    assert output.positions.tolist() == fitting.tolist()
    np.testing.assert_array_equal(output.values.reshape(-1, NUM_CLASSES), expected_of(tokens)[fitting])
    assert output.tokens_computed == tokens.lengths[fitting].sum()


def test_one_giant_does_not_shrink_the_budget_of_the_others_to_nothing():
    fake = CountingModel(capacity=100)
    predictor = predictor_of(fake, budget=100)
    tokens = documents([400, *[10] * 40])
    assert np.isnan(logits_of(predictor, tokens)).all(axis=1).tolist() == [True] + [False] * 40
    assert predictor.max_batch_tokens == 100
    assert fake.calls == [400, 1, 400, 100, 100, 100, 100]  # alone, a canary, and once more


@pytest.mark.parametrize("pauses", [1, len(PAUSES_S)])
def test_a_document_waits_for_the_memory_that_others_took(monkeypatch, pauses):
    fake, tokens = CountingModel(capacity=0), documents([7, 3])
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        fake.distilbert.capacity = 7 if len(slept) == pauses else 0

    monkeypatch.setattr(time, "sleep", sleep)
    predictor = predictor_of(fake, budget=7)
    if pauses == len(PAUSES_S):
        with pytest.raises(ResourceError, match=r"device cpu has no memory left to compute with; .* none in 20 s"):
            predictor.predict(tokens)
    else:
        np.testing.assert_array_equal(logits_of(predictor, tokens), expected_of(tokens))
    assert tuple(slept) == PAUSES_S[:pauses]


def test_memory_that_is_back_when_the_canary_sings_costs_no_document(monkeypatch):
    fake, tokens = CountingModel(capacity=6), documents([7, 3])
    computes = Predictor._computes

    def computing(predictor: Predictor, num_tokens: int) -> bool:
        fake.distilbert.capacity = 7
        return computes(predictor, num_tokens)

    monkeypatch.setattr(Predictor, "_computes", computing)
    monkeypatch.setattr(time, "sleep", lambda _seconds: pytest.fail("nothing to wait for"))
    np.testing.assert_array_equal(logits_of(predictor_of(fake, budget=7), tokens), expected_of(tokens))


def test_the_canary_is_no_longer_than_the_document_that_did_not_fit(monkeypatch):
    fake = CountingModel(capacity=6)
    predictor = predictor_of(fake, budget=6)
    predictor.canary_tokens = 6
    assert np.isnan(logits_of(predictor, documents([40, 5]))).all(axis=1).tolist() == [True, False]
    assert fake.calls == [40, 6, 40, 5]
    fake.distilbert.capacity = 2
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    with pytest.raises(ResourceError):
        predictor.predict(documents([3]))
    assert fake.calls[4:] == [3] * 4


def test_an_error_that_is_not_about_memory_is_not_swallowed():
    fake = CountingModel(capacity=0, error=RuntimeError("shape '[3]' is invalid for input of size 4"))
    predictor = predictor_of(fake, budget=10)
    with pytest.raises(RuntimeError, match="is invalid for input"):
        predictor.predict(documents([5, 5]))
    assert fake.calls == [10]
    fake.distilbert.capacity = 10
    assert predictor.predict(documents([5, 5]))[0].tokens_computed == 10


def test_threads_that_share_a_predictor_get_their_own_results(model):
    predictor = predictor_of(model, budget=90)
    rng = np.random.default_rng(5)
    buffers = [documents(rng.integers(1, 65, size=20), seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda tokens: logits_of(predictor, tokens), buffers))
    for tokens, logits in zip(buffers, found, strict=True):
        np.testing.assert_allclose(logits, one_by_one(model, tokens), atol=1e-5, rtol=1e-5)


def at_once(predictor: Predictor, buffers: list[TokenBatch]) -> list[HeadOutput]:
    with ThreadPoolExecutor(len(buffers)) as pool:
        return [output for (output,) in pool.map(predictor.predict, buffers)]


def test_a_device_beside_the_host_gets_the_next_buffer_while_the_last_batch_of_one_is_awaited(monkeypatch):
    both_wait = threading.Barrier(2, timeout=20)
    monkeypatch.setattr(transfer.Mark, "wait", lambda _mark: both_wait.wait())
    predictor = predictor_of(CountingModel(capacity=1000), budget=10)
    predictor.max_unread = 1
    buffers = [documents([9, 8]), documents([7, 6])]
    for tokens, output in zip(buffers, at_once(predictor, buffers), strict=True):
        np.testing.assert_array_equal(output.values, expected_of(tokens))


def test_buffers_take_turns_on_a_cpu(monkeypatch):
    monkeypatch.setattr(transfer.Mark, "wait", lambda _mark: time.sleep(0.002))
    fake = CountingModel(capacity=1000)
    at_once(predictor_of(fake, budget=10), [documents([length] * 9) for length in (9, 8, 7, 6)])
    assert [length for length, _ in groupby(fake.calls)] == list(dict.fromkeys(fake.calls))


@pytest.mark.parametrize("max_unread", [0, 1])
def test_launches_of_several_threads_never_overlap_and_no_time_counts_twice(monkeypatch, max_unread):
    fake = CountingModel(capacity=30)  # some batches are split
    running, forward = threading.Lock(), fake.distilbert.forward_packed

    def alone(packed: PackedTokens, rows: Rows) -> torch.Tensor:
        if not running.acquire(blocking=False):
            raise RuntimeError("two launches at once")
        try:
            time.sleep(0.001)
            return forward(packed, rows)
        finally:
            running.release()

    monkeypatch.setattr(fake.distilbert, "forward_packed", alone)
    monkeypatch.setattr(transfer.Mark, "wait", lambda _mark: time.sleep(0.001))
    predictor = predictor_of(fake, budget=50)
    predictor.max_unread = max_unread
    buffers = [documents(np.random.default_rng(seed).integers(1, 20, size=30), seed=seed) for seed in range(6)]
    start = time.perf_counter()
    outputs = at_once(predictor, buffers)
    wall = time.perf_counter() - start
    for tokens, output in zip(buffers, outputs, strict=True):
        np.testing.assert_array_equal(output.values, expected_of(tokens))
    assert 0 < sum(output.seconds for output in outputs) <= wall


# --- Several heads on one trunk --------------------------------------------------------------------------------------

HEADS: dict[str, tuple[type[PreTrainedModel], Readout]] = {
    "classes": (DistilBertForSequenceClassification, SequenceLogits()),
    "choices": (DistilBertForMultipleChoice, SequenceLogits()),
    "tokens": (DistilBertForTokenClassification, TokenLogits()),
    "span": (DistilBertForQuestionAnswering, TokenLogits()),
    "masks": (DistilBertForMaskedLM, MaskScores(MASK_ID, 4)),
    "targets": (DistilBertForMaskedLM, MaskScores(MASK_ID, 4, (30, 11, 60))),
    "first state": (DistilBertModel, Embedding("cls")),
    "mean state": (DistilBertModel, Embedding("mean")),
    "largest state": (DistilBertModel, Embedding("max")),
    "states": (DistilBertModel, Embedding("none")),
}


def made(*names: str, seed: int = 0) -> list[PreTrainedModel]:
    """One model for each, all with equal encoders."""
    torch.manual_seed(seed)
    encoder = DistilBertModel(CONFIG)
    models = [HEADS[name][0](SPAN_CONFIG if name == "span" else CONFIG).eval() for name in names]
    for model in models:
        model.encoder.load_state_dict(encoder.state_dict())
    return models


def run(models: list[PreTrainedModel], *names: str, tokens: TokenBatch, budget: int = 90) -> list[HeadOutput]:
    readouts = [HEADS[name][1] for name in names]
    predictor = Predictor(models, readouts, device=CPU, precision="float32", max_batch_tokens=budget)
    return predictor.predict(tokens)


def padded(name: str, model: PreTrainedModel, ids: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
    """What the readout should say of one document, from the model's padded forward."""
    with torch.no_grad():
        output = model(ids[None]) if name != "choices" else model(ids[None, None])
    if name in {"classes", "choices"}:
        return output.logits.numpy(), None
    if name == "tokens":
        return output.logits[0].numpy(), None
    if name == "span":
        return torch.stack([output.start_logits[0], output.end_logits[0]], dim=-1).numpy(), None
    if name in {"masks", "targets"}:
        probabilities = output.logits[0].softmax(-1)[ids == MASK_ID].numpy()
        allowed = np.array(HEADS[name][1].targets or range(99))
        order = np.argsort(-probabilities[:, allowed], axis=1, kind="stable")[:, :4]
        return np.take_along_axis(probabilities[:, allowed], order, axis=1), allowed[order]
    states = output.last_hidden_state[0].numpy()
    pooled = {"first state": states[:1], "mean state": states.mean(0, keepdims=True), "states": states}
    return pooled.get(name, states.max(0, keepdims=True)), None


@pytest.mark.parametrize("budget", [1, 90, 100_000])
@pytest.mark.parametrize("name", list(HEADS))
def test_every_readout_is_that_of_the_padded_model_at_its_documents_or_tokens(name, budget):
    tokens = documents(np.random.default_rng(4).integers(1, 65, size=25), seed=4)
    tokens.input_ids[::9] = MASK_ID
    (model,) = made(name)
    expected = [
        padded(name, model, torch.from_numpy(ids)) for ids in np.split(tokens.input_ids, tokens.cu_seqlens[1:-1])
    ]
    (output,) = run([model], name, tokens=tokens, budget=budget)
    np.testing.assert_allclose(output.values, np.concatenate([values for values, _ in expected]), atol=1e-5, rtol=1e-4)
    if name in {"masks", "targets"}:
        places = np.flatnonzero(tokens.input_ids == MASK_ID)
    else:
        places = np.arange(len(tokens) if HEADS[name][1].axis == "documents" else len(tokens.input_ids))
    assert output.positions.tolist() == places.tolist()
    ids = [found for _, found in expected if found is not None]
    assert (output.ids is None) == (not ids)
    if ids:
        np.testing.assert_array_equal(output.ids, np.concatenate(ids))


@pytest.mark.parametrize(
    "names",
    [tuple(HEADS), ("classes", "first state"), ("masks", "targets"), ("classes", "tokens"), ("masks", "choices")],
    ids=" + ".join,
)
def test_each_head_on_a_shared_trunk_answers_as_it_would_alone(names):
    tokens = documents(np.random.default_rng(6).integers(1, 65, size=25), seed=6)
    tokens.input_ids[::9] = MASK_ID
    together = run(made(*names), *names, tokens=tokens)
    for name, found, model in zip(names, together, made(*names), strict=True):
        (alone,) = run([model], name, tokens=tokens)
        np.testing.assert_allclose(found.values, alone.values, atol=1e-5, rtol=1e-4)
        np.testing.assert_array_equal(found.positions, alone.positions)
        assert (found.ids is None) == (alone.ids is None)
        if found.ids is not None:
            np.testing.assert_array_equal(found.ids, alone.ids)


def test_a_shared_trunk_runs_once_and_is_in_memory_once(monkeypatch):
    calls: list[int] = []
    forward = DistilBertModel.forward_packed

    def counting(self, packed, rows=None):
        calls.append(len(packed.input_ids))
        return forward(self, packed, rows)

    monkeypatch.setattr(DistilBertModel, "forward_packed", counting)
    names = ("classes", "tokens", "mean state", "masks")
    models, tokens = made(*names), documents([5, 60, 1, 33])
    first, *others = run(models, *names, tokens=tokens)
    assert sum(calls) == first.tokens_computed == len(tokens.input_ids)
    assert first.seconds > 0
    assert [(output.tokens_computed, output.seconds) for output in others] == [(0, 0.0)] * 3
    assert models[0].encoder is models[1].encoder is models[3].encoder


def test_documents_without_a_mask_give_no_values():
    (model,) = made("masks")
    tokens = documents([4, 2])
    tokens.input_ids[:] = MASK_ID + 1
    (output,) = run([model], "masks", tokens=tokens)
    assert (output.positions.tolist(), len(output.values), output.tokens_computed) == ([], 0, 6)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("float16", 1e-2), ("bfloat16", 5e-2)])
def test_a_card_gives_the_results_of_the_cpu(model, precision, tolerance):
    tokens = documents(np.random.default_rng(3).integers(1, 65, size=50))
    exact = one_by_one(model, tokens)
    other = DistilBertForSequenceClassification(model.config)
    other.load_state_dict(model.state_dict())
    predictor = predictor_of(other, budget=300, device=torch.device("cuda", 0), precision=precision)
    logits = logits_of(predictor, tokens)
    np.testing.assert_allclose(logits, exact, atol=tolerance * float(np.abs(exact).max()))
    assert {parameter.device.type for parameter in other.parameters()} == {"cuda"}


@pytest.mark.gpu
def test_a_card_whose_memory_runs_out_still_gives_every_result():
    fake = CountingModel(capacity=20)
    tokens = documents([7, 3, 9, 12, 5, 1, 20, 2])
    predictor = predictor_of(fake, budget=1000, device=torch.device("cuda", 0))
    np.testing.assert_array_equal(logits_of(predictor, tokens), expected_of(tokens))
