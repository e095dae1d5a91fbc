"""Compiled ends of blocks: right whatever compiles them, compiled once, and left out where that fails."""

from __future__ import annotations

import copy
import shutil
import warnings

import pytest
import torch
from model_weights import draw_biases

from distilbatch.inference.backends import choose_backend, compiled
from distilbatch.inference.backends.compiled import compile_blocks
from distilbatch.inference.backends.cuda import CudaBackend
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.layers import finish_block
from distilbatch.model.modeling import DistilBertForSequenceClassification
from distilbatch.model.packed import PackedTokens

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)


def a_model(activation: str = "gelu", *, dim: int = 32) -> DistilBertForSequenceClassification:
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=50, max_position_embeddings=64, n_layers=4, n_heads=2, dim=dim, hidden_dim=48, activation=activation
    )
    model = DistilBertForSequenceClassification(config).eval()
    draw_biases(model, spread=0.3)
    return model


def documents(count: int) -> PackedTokens:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, 64, (count,), generator=generator).tolist()
    return PackedTokens.from_lengths(torch.randint(0, 50, (sum(lengths),), generator=generator), lengths)


class Compiler:
    """Stands in for inductor: runs the graph as it was traced, and counts graphs."""

    def __init__(self, *, off_by: float = 0.0) -> None:
        self.graphs = 0
        self.off_by = off_by
        self.warning: Warning | None = None

    def __call__(self, graph, _inputs):
        self.graphs += 1
        if self.warning is not None:
            warnings.warn(self.warning, stacklevel=1)
        return lambda *inputs: tuple(out + self.off_by for out in graph(*inputs))


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    torch._dynamo.reset()
    stand_in = Compiler()
    monkeypatch.setattr(compiled, "COMPILER", stand_in)
    yield stand_in
    torch._dynamo.reset()


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "gelu_new"])
def test_blocks_end_in_one_function_for_all_of_them_and_every_length(compiler, activation):
    plain = a_model(activation)
    fast = copy.deepcopy(plain)
    CudaBackend(compiled=True).prepare(fast, device=CPU, dtype=torch.float32)
    assert len({block.finish for block in fast.encoder.transformer.layer} - {finish_block}) == 1
    with torch.inference_mode():
        for count in (1, 2, 7, 30):
            packed = documents(count)
            torch.testing.assert_close(fast.forward_packed(packed), plain.forward_packed(packed), atol=1e-5, rtol=1e-5)
    assert compiler.graphs == 1


@pytest.mark.parametrize("dim", [32, 64])
def test_one_row_and_none_are_not_compiled_for_in_the_middle_of_a_run(compiler, dim):
    plain = a_model(dim=dim)
    fast = copy.deepcopy(plain)
    CudaBackend(compiled=True).prepare(fast, device=CPU, dtype=torch.float32)
    packed = documents(5)
    nobody = packed.layout.select(torch.empty(0, dtype=torch.int64), device=CPU)
    with torch.inference_mode():
        for rows in (nobody, packed.layout.select(torch.tensor([3]), device=CPU), "first", None):
            expected = plain.encoder.forward_packed(packed, rows)
            torch.testing.assert_close(fast.encoder.forward_packed(packed, rows), expected, atol=1e-5, rtol=1e-5)
        one = PackedTokens.from_lengths(torch.tensor([4]), [1])
        torch.testing.assert_close(fast.forward_packed(one), plain.forward_packed(one), atol=1e-5, rtol=1e-5)
    assert compiler.graphs == 1


@torch._dynamo.config.patch(recompile_limit=1)  # not eight: each compilation takes seconds
def test_every_encoder_of_a_process_is_compiled_however_many_there_are(compiler):
    for dim in (8, 16, 24):
        fast = a_model(dim=dim)
        CudaBackend(compiled=True).prepare(fast, device=CPU, dtype=torch.float32)
        with torch.inference_mode():
            fast.forward_packed(documents(3))
    assert compiler.graphs == 3


@pytest.mark.parametrize(
    "warning",
    [
        UserWarning("TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled."),
        DeprecationWarning("torch's own, of its own"),
    ],
    ids=lambda warning: type(warning).__name__,
)
def test_advice_of_the_compiler_is_not_passed_on_and_no_failure_where_warnings_are_errors(compiler, warning):
    compiler.warning = warning
    blocks = list(a_model().encoder.transformer.layer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compile_blocks(blocks, device=CPU, dtype=torch.float32)
    assert all(block.finish is not finish_block for block in blocks)


def test_a_compiler_that_fails_is_done_without(monkeypatch, caplog):
    def fails(_graph, _inputs):
        raise RuntimeError("no Triton\nand a long story")

    monkeypatch.setattr(compiled, "COMPILER", fails)
    model = a_model()
    blocks = list(model.encoder.transformer.layer)
    assert not compile_blocks(blocks, device=CPU, dtype=torch.float32)
    assert all(block.finish is finish_block for block in blocks)
    assert "engine.compile: left out" in caplog.text


@pytest.mark.parametrize("off_by", [0.5, float("nan")])
def test_a_compiler_that_is_wrong_is_done_without(monkeypatch, caplog, off_by):
    monkeypatch.setattr(compiled, "COMPILER", Compiler(off_by=off_by))
    blocks = list(a_model().encoder.transformer.layer)
    assert not compile_blocks(blocks, device=CPU, dtype=torch.float32)
    assert all(block.finish is finish_block for block in blocks)
    assert "is off by" in caplog.text


def test_nothing_is_compiled_unasked(compiler):
    model = a_model()
    CudaBackend().prepare(model, device=CPU, dtype=torch.float32)
    assert all(block.finish is finish_block for block in model.encoder.transformer.layer)
    assert compiler.graphs == 0


def test_an_encoder_of_two_heads_is_compiled_once(compiler):
    model = a_model()
    for _ in range(2):
        CudaBackend(compiled=True).prepare(model, device=CPU, dtype=torch.float32)
    assert compiler.graphs == 1


def test_cpus_have_fused_layers_and_say_that_nothing_is_compiled(caplog):
    choose_backend("float32", CPU, torch.float32, compiled=True)
    assert "engine.compile: without effect on cpu" in caplog.text


@pytest.mark.soak  # half a minute of compilation
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with g++ on CPUs")
def test_torchs_own_compiler_computes_the_same(monkeypatch):
    monkeypatch.setattr(compiled, "COMPILER", "inductor")
    plain, packed = a_model(), documents(9)
    fast = copy.deepcopy(plain)
    assert compile_blocks(list(fast.encoder.transformer.layer), device=CPU, dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(fast.forward_packed(packed), plain.forward_packed(packed), atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32", "ignore::DeprecationWarning")  # of whatever is compiled later
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_torchs_own_compiler_computes_the_same_on_a_card(monkeypatch, dtype):
    monkeypatch.setattr(compiled, "COMPILER", "inductor")
    plain = a_model()
    fast = copy.deepcopy(plain)
    CudaBackend(compiled=True).prepare(fast, device=CARD, dtype=dtype)
    assert all(block.finish is not finish_block for block in fast.encoder.transformer.layer)
    tolerance = 1e-4 if dtype is torch.float32 else 2e-2
    with torch.inference_mode():
        for count in (3, 40):
            packed = documents(count)
            found = fast.forward_packed(packed.to(CARD)).float().cpu()
            torch.testing.assert_close(found, plain.forward_packed(packed), atol=tolerance, rtol=tolerance)
