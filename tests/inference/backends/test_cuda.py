"""CUDA's backend. On a CPU: what it swaps, what it chooses, what it refuses, and the arguments that kernels are given.

On a card, the tests marked ``gpu`` compare every kernel and the whole predictor with float32 on the CPU.
"""

from __future__ import annotations

import contextlib
import copy
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from model_weights import draw_biases
from token_batches import random_token_batch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distilbatch.inference.backends import ReferenceBackend, choose_backend, varlen
from distilbatch.inference.backends.cuda import CudaBackend
from distilbatch.inference.backends.fused import FusedSelfAttention
from distilbatch.inference.backends.linears import MergedLinear
from distilbatch.inference.backends.operators import PostOp
from distilbatch.inference.backends.varlen import (
    KERNELS,
    Kernel,
    VarlenAttention,
    choose_attention,
    is_right,
    without_cudnn,
)
from distilbatch.inference.budget import MAX_CUDA_BATCH_TOKENS
from distilbatch.inference.predictor import Predictor
from distilbatch.inference.readouts import Embedding, MaskScores, Readout, SequenceLogits, TokenLogits
from distilbatch.model.attention import eager_attention, sdpa_attention
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import (
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
    PreTrainedModel,
)
from distilbatch.model.packed import Bounds, Layout, PackedTokens
from distilbatch.records import HeadOutput, TokenBatch

CPU, CARD = torch.device("cpu"), torch.device("cuda", 0)
MASK_ID = 7
CONFIG = DistilBertConfig(
    vocab_size=50,
    max_position_embeddings=512,
    n_layers=3,
    n_heads=3,
    dim=48,
    hidden_dim=64,
    initializer_range=0.2,
    id2label={0: "a", 1: "b", 2: "c"},
)
HEADS: dict[str, tuple[type[PreTrainedModel], Readout]] = {
    "classes": (DistilBertForSequenceClassification, SequenceLogits()),
    "tokens": (DistilBertForTokenClassification, TokenLogits()),
    "masks": (DistilBertForMaskedLM, MaskScores(MASK_ID, 4, (30, 11, 10, 2))),
    "first state": (DistilBertModel, Embedding("cls")),
    "mean state": (DistilBertModel, Embedding("mean")),
}


def document_by_document(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: Bounds) -> torch.Tensor:
    """What a kernel computes, from nothing but what a kernel is given."""
    assert bounds.queries.dtype == bounds.keys.dtype == torch.int32
    context = torch.empty(q.shape, dtype=q.dtype)
    ranges = zip(pairwise(bounds.queries.tolist()), pairwise(bounds.keys.tolist()), strict=True)
    for (q_start, q_stop), (k_start, k_stop) in ranges:
        assert q_stop - q_start <= bounds.max_queries
        assert k_stop - k_start <= bounds.max_keys
        heads = [x.transpose(0, 1).float() for x in (q[q_start:q_stop], k[k_start:k_stop], v[k_start:k_stop])]
        scores = heads[0] @ heads[1].transpose(1, 2) * q.shape[2] ** -0.5
        context[q_start:q_stop] = (scores.softmax(-1) @ heads[2]).transpose(0, 1).to(q.dtype)
    return context


ALL_FORMATS = frozenset({torch.float32, torch.float16, torch.bfloat16})
PLAIN = Kernel("document by document", document_by_document, (0, 0), ALL_FORMATS)


def random_layout(rng: random.Random, *, longest: int = 40) -> Layout:
    """Documents of any lengths; all, the first or some rows ask, by bounds that were given or are counted."""
    lengths = [rng.randint(1, longest) for _ in range(rng.randint(1, 12))]
    given = PackedTokens.from_lengths(torch.zeros(sum(lengths), dtype=torch.int32), lengths).layout
    layout = given if rng.random() < 0.5 else Layout.of_lengths(lengths)
    match rng.choice(("all", "first", "some")):
        case "all":
            return layout
        case "first":
            return layout.select("first", device=CPU).layout
    rows = sorted(rng.sample(range(sum(lengths)), k=rng.randint(1, sum(lengths))))
    return layout.select(torch.tensor(rows), device=CPU).layout


def random_inputs(layout: Layout, *, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    q = torch.randn(sum(run.num_docs * run.q_len for run in layout.runs), 2 * width, dtype=dtype).chunk(2, 1)[0]
    return q, *torch.randn(sum(layout.lengths), 2 * width, dtype=dtype).chunk(2, 1)


# --- One call for all documents --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_one_call_for_all_documents_is_one_call_for_each_length(seed):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    n_heads, layout = rng.choice([1, 3]), random_layout(rng)
    q, k, v = random_inputs(layout, width=8 * n_heads, dtype=torch.float32)
    options = {"layout": layout, "n_heads": n_heads, "dropout_p": 0.0}
    found, weights = VarlenAttention(PLAIN)(q, k, v, **options)
    torch.testing.assert_close(found, sdpa_attention(q, k, v, **options)[0], atol=1e-5, rtol=1e-5)
    assert weights is None
    assert found.is_contiguous()


def refuse(*_arguments: object) -> torch.Tensor:
    raise RuntimeError("no kernel image is available for execution on the device")


def test_masks_dropout_and_batches_in_which_nobody_asks_are_left_to_the_plain_implementation():
    attend = VarlenAttention(replace(PLAIN, run=refuse))
    q, k, v = torch.randn(3, 6, 8)
    masked = Layout.of_lengths([3, 3], key_mask=torch.tensor([True, True, False, True, True, True]))
    options = {"layout": masked, "n_heads": 2, "dropout_p": 0.0}
    torch.testing.assert_close(attend(q, k, v, **options)[0], sdpa_attention(q, k, v, **options)[0])
    plain = Layout.of_lengths([3, 3])
    assert attend(q, k, v, layout=plain, n_heads=2, dropout_p=0.5)[0].shape == (6, 8)
    nobody = plain.select(torch.empty(0, dtype=torch.int64), device=CPU).layout
    assert attend(q[:0], k, v, layout=nobody, n_heads=2, dropout_p=0.0)[0].shape == (0, 8)
    with pytest.raises(RuntimeError, match="no kernel image"):
        attend(q, k, v, layout=plain, n_heads=2, dropout_p=0.0)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_torch_takes_the_arguments_that_kernels_are_called_with(kernel, dtype):
    """On the meta device torch checks names, types and shapes of a call and computes nothing."""
    if dtype not in kernel.formats:
        pytest.skip(f"{kernel.name} does not compute in {dtype}")
    layout = Layout.of_lengths([5, 5, 2]).select("first", device=CPU).layout
    tokens = torch.empty(12, 3 * 48, dtype=dtype, device="meta")
    _, k, v = tokens.chunk(3, 1)
    bounds = layout.bounds(torch.device("meta"))
    found, _ = VarlenAttention(kernel)(tokens[:3, :48], k, v, layout=layout, n_heads=3, dropout_p=0.0)
    assert (found.shape, found.dtype) == ((3, 48), dtype)
    assert (bounds.max_queries, bounds.max_keys) == (1, 5)


# --- What is trusted, and what is chosen -----------------------------------------------------------------------------


def wrong(change: Callable[[torch.Tensor], torch.Tensor] = lambda x: x, *, scale: float = 1.0, whole: bool = False):
    """A kernel with one mistake."""

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: Bounds) -> torch.Tensor:
        if whole:
            ends = [torch.tensor([0, len(x)], dtype=torch.int32) for x in (q, k)]
            bounds = Bounds(*ends, len(q), len(k))
        return change(document_by_document(q * scale, k, v, bounds))

    return replace(PLAIN, run=run)


MISTAKES = {
    "across documents": wrong(whole=True),
    "no scale": wrong(scale=4.0),
    "scaled twice": wrong(scale=0.25),
    "shifted": wrong(lambda x: x.roll(1, 0)),
    "NaN in one place": wrong(lambda x: x.index_fill(0, torch.tensor([len(x) - 1]), float("nan"))),
    "heads swapped": wrong(lambda x: x.flip(1)),
    "raises": replace(PLAIN, run=refuse),
}


@pytest.mark.parametrize("dtype", sorted(ALL_FORMATS, key=str), ids=str)
def test_a_right_kernel_is_trusted(dtype):
    assert is_right(VarlenAttention(PLAIN), device=CPU, dtype=dtype, n_heads=3, width=48)
    assert is_right(sdpa_attention, device=CPU, dtype=dtype, n_heads=12, width=768)


@pytest.mark.parametrize("dtype", sorted(ALL_FORMATS, key=str), ids=str)
@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_a_kernel_with_a_mistake_is_not_trusted(mistake, dtype):
    assert not is_right(VarlenAttention(MISTAKES[mistake]), device=CPU, dtype=dtype, n_heads=3, width=48)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_device_without_memory_is_not_taken_for_one_without_a_kernel(error):
    def run(*_arguments: object) -> torch.Tensor:
        raise error

    with pytest.raises(type(error), match="CUDA"):
        is_right(VarlenAttention(replace(PLAIN, run=run)), device=CPU, dtype=torch.float32, n_heads=3, width=48)


@pytest.mark.parametrize(
    ("capability", "dtype", "broken", "expected"),
    [
        ((9, 0), torch.bfloat16, (), "flash, unsplit"),
        ((9, 0), torch.bfloat16, ("flash, unsplit",), "flash"),
        ((8, 0), torch.float16, (), "flash, unsplit"),
        ((8, 9), torch.bfloat16, ("flash, unsplit", "flash"), "memory-efficient"),
        ((8, 0), torch.float32, (), "memory-efficient"),
        ((7, 5), torch.float16, (), "memory-efficient"),
        ((7, 5), torch.float32, (), "memory-efficient"),
        ((7, 5), torch.float16, ("memory-efficient",), None),
        ((9, 0), torch.bfloat16, ("flash, unsplit", "flash", "memory-efficient"), None),
        ((3, 7), torch.float16, (), None),
    ],
)
def test_the_best_kernel_that_a_card_has_and_computes_right_is_chosen(
    monkeypatch, caplog, capability, dtype, broken, expected
):
    tried: list[str] = []

    def check(attend: VarlenAttention, **_options: object) -> bool:
        tried.append(attend.kernel.name)
        return attend.kernel.name not in broken

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(varlen, "is_right", check)
    chosen = choose_attention(device=CARD, dtype=dtype, n_heads=12, width=768)
    assert (chosen.kernel.name if isinstance(chosen, VarlenAttention) else None) == expected
    assert len(tried) == len(broken) + (expected is not None)
    assert (expected is None) == ("one call for each length" in caplog.text)
    if expected is None:
        assert chosen is without_cudnn


def test_other_devices_have_none_of_these_kernels():
    assert choose_attention(device=CPU, dtype=torch.bfloat16, n_heads=12, width=768) is without_cudnn


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("error", [None, RuntimeError("no kernel image")])
def test_the_last_resort_leaves_cudnn_out_and_the_process_as_it_was(monkeypatch, enabled, error):
    seen: list[bool] = []

    def attend(q: torch.Tensor, *_arguments: object, **_options: object) -> torch.Tensor:
        seen.append(torch.backends.cuda.cudnn_sdp_enabled())
        if error is not None:
            raise error
        return q

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(enabled)
    try:
        with pytest.raises(RuntimeError) if error else contextlib.nullcontext():
            without_cudnn(*torch.randn(3, 4, 8), layout=Layout.of_lengths([3, 1]), n_heads=2, dropout_p=0.0)
        assert torch.backends.cuda.cudnn_sdp_enabled() is enabled
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
    assert seen
    assert not any(seen)


def test_the_second_kernel_is_flash_attention_whatever_the_public_function_prefers(monkeypatch):
    import torch.nn.attention.varlen as public

    monkeypatch.setattr(public, "varlen_attn", lambda *_arguments, **_options: pytest.fail("asked"))
    (kernel,) = (kernel for kernel in KERNELS if kernel.name == "flash")
    q = torch.empty(12, 3, 16, dtype=torch.float16, device="meta")
    layout = Layout.of_lengths([5, 5, 2])
    called: list[str] = []

    class Called(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.append(str(func))
            return func(*args, **(kwargs or {}))

    with Called():
        assert kernel.run(q, q, q, layout.bounds(q.device)).shape == q.shape
    assert "aten._flash_attention_forward.default" in called


def test_cards_get_this_backend():
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        assert isinstance(choose_backend(precision, CARD, dtype), CudaBackend)


# --- The swapped layers ----------------------------------------------------------------------------------------------


def a_model(name: str, *, seed: int = 0, config: DistilBertConfig = CONFIG) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = HEADS[name][0](config).eval()
    draw_biases(model, spread=0.2)
    return model


def documents(seed: int, *, longest: int = 60, count: int = 25) -> TokenBatch:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest, size=count)
    return random_token_batch(lengths.tolist(), vocab_size=50, seed=seed)


@pytest.mark.parametrize("seed", range(10))
def test_fused_layers_compute_what_the_plain_ones_do(seed):
    model = a_model("tokens", seed=seed)
    fused = copy.deepcopy(model)
    CudaBackend().prepare(fused, device=CPU, dtype=torch.float32)
    packed = PackedTokens.from_lengths(torch.randint(0, 50, (60,)), [20, 20, 9, 9, 2])
    rows = torch.arange(0, 60, 7)
    with torch.inference_mode():
        torch.testing.assert_close(fused.forward_packed(packed), model.forward_packed(packed), atol=1e-5, rtol=1e-5)
        for chosen in ("first", rows, packed.layout.select(rows, device=CPU)):
            expected = model.encoder.forward_packed(packed, chosen)
            torch.testing.assert_close(fused.encoder.forward_packed(packed, chosen), expected, atol=1e-5, rtol=1e-5)


def test_every_attention_is_swapped_once_and_weights_are_in_memory_once():
    model = a_model("classes")
    weights = sum(parameter.numel() for parameter in model.parameters())
    for _ in range(2):
        CudaBackend().prepare(model, device=CPU, dtype=torch.float32)
        attentions = [block.attention for block in model.encoder.transformer.layer]
        assert all(isinstance(attention, FusedSelfAttention) for attention in attentions)
    assert sum(parameter.numel() for parameter in model.parameters()) == weights
    assert [attention.in_lin.weight.shape[0] // CONFIG.dim for attention in attentions] == [3, 3, 2]
    assert not any(parameter.requires_grad for attention in attentions for parameter in attention.parameters())


def test_a_merged_layer_has_no_function_behind_it():
    with pytest.raises(ValueError, match="expected no function behind it, found gelu"):
        MergedLinear([torch.nn.Linear(2, 2)], PostOp("gelu", "none"))


TF32 = """
import logging, sys, torch
from distilbatch.inference.backends.cuda import CudaBackend
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import DistilBertModel

logging.basicConfig(stream=sys.stdout, format="%(message)s")
exec(sys.argv[1])
config = DistilBertConfig(vocab_size=9, n_layers=1, n_heads=1, dim=4, hidden_dim=4)
matmul = torch.backends.cuda.matmul
for dtype in (torch.float16, torch.float32, torch.float32):
    CudaBackend().prepare(DistilBertModel(config), device=torch.device("cpu"), dtype=dtype)
    print("now", matmul.fp32_precision)
print("legacy", matmul.allow_tf32)
"""


@pytest.mark.parametrize(
    ("environment", "set_by", "before", "warnings"),
    [
        ({}, "", "none", 0),
        ({"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}, "", "tf32", 1),
        ({}, "torch.backends.cuda.matmul.allow_tf32 = True", "tf32", 1),
        ({}, "torch.backends.fp32_precision = 'tf32'", "tf32", 1),
        ({}, "torch.set_float32_matmul_precision('high')", "tf32", 1),
    ],
)
def test_float32_products_are_exact_whatever_the_process_was_set_to(environment, set_by, before, warnings):
    ran = subprocess.run(  # torch reads the variable once, and settings would stay in this process
        [sys.executable, "-c", TF32, set_by], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    exact = "none" if before == "none" else "ieee"
    lines = [line for line in ran.stdout.splitlines() if line.startswith(("now", "legacy"))]
    assert lines == [f"now {before}", f"now {exact}", f"now {exact}", "legacy False"]
    assert ran.stdout.count("precision float32: TF32") == warnings


def predict(name: str, tokens: TokenBatch, *, device=CPU, precision="float32", backend=None, **options) -> HeadOutput:
    predictor = Predictor(
        [a_model(name)], [HEADS[name][1]], device=device, precision=precision, backend=backend, **options
    )
    (output,) = predictor.predict(tokens)
    return output


def assert_near(found: HeadOutput, expected: HeadOutput, *, tolerance: float) -> None:
    np.testing.assert_array_equal(found.positions, expected.positions)
    np.testing.assert_allclose(found.values, expected.values, atol=tolerance * float(np.abs(expected.values).max()))
    assert (found.ids is None) == (expected.ids is None)
    if found.ids is not None and tolerance < 1e-3:
        np.testing.assert_array_equal(found.ids, expected.ids)


@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize("budget", [1, 90, 100_000])
def test_heads_answer_the_same_through_this_backend_and_one_call_for_all_documents(monkeypatch, name, budget):
    monkeypatch.setattr("distilbatch.inference.backends.cuda.choose_attention", lambda **_: VarlenAttention(PLAIN))
    tokens = documents(1)
    tokens.input_ids[::9] = MASK_ID
    expected = predict(name, tokens, backend=ReferenceBackend(), max_batch_tokens=64)
    found = predict(name, tokens, backend=CudaBackend(), max_batch_tokens=budget)
    assert_near(found, expected, tolerance=1e-5)


def test_bounds_are_made_once_a_token_batch_and_not_once_a_layer(monkeypatch):
    seen: list[Bounds] = []

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds: Bounds) -> torch.Tensor:
        seen.append(bounds)
        return document_by_document(q, k, v, bounds)

    attend = VarlenAttention(replace(PLAIN, run=run))
    monkeypatch.setattr("distilbatch.inference.backends.cuda.choose_attention", lambda **_: attend)
    predict("classes", documents(2), backend=CudaBackend(), max_batch_tokens=100_000)
    first, second, last = seen
    assert first is second
    assert last.keys is first.keys
    assert last.max_queries == 1


# --- Launching without waiting, on the meta device: whatever asks a tensor there for its values fails ----------------


class Crossings(TorchDispatchMode):
    """Collects the operators that take something from the host to the device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.dim()}
        made = {leaf.device for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)}
        if CPU in given and self.device in made:
            self.found.append(str(func))
        return result


class Nothing:
    """In place of a tensor that arrives: there are no values on the meta device."""

    def __init__(self, tensor: torch.Tensor, dtype: torch.dtype) -> None:
        self.zeros = torch.zeros(tensor.shape, dtype=dtype)

    def land(self) -> torch.Tensor:
        return self.zeros


@pytest.mark.parametrize("kernel", [*KERNELS[:2], KERNELS[-1]], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("names", [*((name,) for name in HEADS), tuple(HEADS)], ids=" + ".join)
def test_a_launch_asks_the_device_for_nothing_and_copies_to_it_once(monkeypatch, names, kernel):
    meta = torch.device("meta")
    monkeypatch.setattr("distilbatch.inference.backends.cuda.choose_attention", lambda **_: VarlenAttention(kernel))
    monkeypatch.setattr("distilbatch.inference.predictor.Arrival", Nothing)
    predictor = Predictor(
        [a_model(name) for name in names],
        [HEADS[name][1] for name in names],
        device=meta,
        precision="float16",
        max_batch_tokens=200,
        backend=CudaBackend(),
    )
    tokens, batches = documents(6), []
    tokens.input_ids[::9] = MASK_ID
    predictor.predict(tokens)  # the ids of targets are copied once and for all
    with Crossings(meta) as crossings:
        outputs = predictor.predict(tokens, on_batch=batches.append)
    assert len(batches) > 3
    assert len(crossings.found) == len(batches), set(crossings.found)
    for name, output in zip(names, outputs, strict=True):
        masked, axis = np.flatnonzero(tokens.input_ids == MASK_ID), HEADS[name][1].axis
        places = len(tokens) if axis == "documents" else len(tokens.input_ids)
        assert output.positions.tolist() == (masked.tolist() if name == "masks" else list(range(places)))


# --- On a card -------------------------------------------------------------------------------------------------------

TOLERANCES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
REAL = replace(CONFIG, n_heads=12, dim=768, hidden_dim=3072, initializer_range=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("seed", range(10))
def test_kernels_of_a_card_give_the_results_of_the_cpu(kernel, dtype, seed):
    if dtype not in kernel.formats or torch.cuda.get_device_capability(CARD) < kernel.capability:
        pytest.skip(f"this card has no {kernel.name} kernel for {dtype}")
    rng = random.Random(seed)
    torch.manual_seed(seed)
    n_heads, layout = rng.choice([1, 4, 12]), random_layout(rng, longest=512)
    inputs = random_inputs(layout, width=64 * n_heads, dtype=dtype)
    expected, _ = eager_attention(*(x.float() for x in inputs), layout=layout, n_heads=n_heads, dropout_p=0.0)
    found, _ = VarlenAttention(kernel)(
        *(x.to(CARD) for x in inputs), layout=Layout(layout.runs), n_heads=n_heads, dropout_p=0.0
    )
    torch.testing.assert_close(found.cpu().float(), expected, atol=TOLERANCES[dtype], rtol=0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
def test_a_card_has_a_kernel_for_documents_of_any_lengths(dtype):
    if dtype is torch.bfloat16 and torch.cuda.get_device_capability(CARD) < (8, 0):
        pytest.skip("this card has no bfloat16")
    chosen = choose_attention(device=CARD, dtype=dtype, n_heads=12, width=768)
    assert isinstance(chosen, VarlenAttention)
    halves = dtype is not torch.float32 and torch.cuda.get_device_capability(CARD) >= (8, 0)
    assert chosen.kernel.name.startswith("flash") == halves


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(HEADS))
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-4), ("float16", 1e-2), ("bfloat16", 6e-2)])
def test_heads_on_a_card_answer_as_on_the_cpu(name, precision, tolerance):
    if precision == "bfloat16" and torch.cuda.get_device_capability(CARD) < (8, 0):
        pytest.skip("this card has no bfloat16")
    tokens = documents(3, longest=200, count=60)
    tokens.input_ids[::9] = MASK_ID
    expected = predict(name, tokens, backend=ReferenceBackend(), max_batch_tokens=512)
    for budget in (300, 100_000):
        assert_near(
            predict(name, tokens, device=CARD, precision=precision, max_batch_tokens=budget),
            expected,
            tolerance=tolerance,
        )


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize("name", list(HEADS))
def test_launching_a_token_batch_never_waits_for_the_card(name):
    predictor = Predictor(
        [a_model(name, config=REAL)], [HEADS[name][1]], device=CARD, precision="float16", max_batch_tokens=700
    )
    tokens = documents(4)
    tokens.input_ids[::9] = MASK_ID
    predictor.predict(tokens)  # what happens once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        predictor.predict(tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_card_measures_a_budget_and_memory_that_runs_out_costs_no_result():
    predictor = Predictor([a_model("tokens", config=REAL)], [TokenLogits()], device=CARD, precision="float16")
    assert 1024 <= predictor.max_batch_tokens <= MAX_CUDA_BATCH_TOKENS
    tokens = documents(5, longest=512, count=400)
    (expected,) = predictor.predict(tokens)
    predictor = Predictor(
        [a_model("tokens", config=REAL)], [TokenLogits()], device=CARD, precision="float16", max_batch_tokens=1_000_000
    )
    used = torch.cuda.memory_allocated(CARD)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CARD).total_memory
    torch.cuda.set_per_process_memory_fraction((used + (400 << 20)) / total, CARD)
    try:
        (found,) = predictor.predict(tokens)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CARD)
    assert predictor.max_batch_tokens < len(tokens.input_ids)  # it did run out
    assert_near(found, expected, tolerance=1e-2)
