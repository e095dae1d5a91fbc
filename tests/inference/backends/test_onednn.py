"""oneDNN's backend against the model's own forward: random configs, heads and token batches."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from model_weights import draw_biases
from torch.nn import functional as F  # noqa: N812

from distilbatch.inference.backends import ReferenceBackend, choose_backend, operators
from distilbatch.inference.backends.absorbed import AbsorbedSelfAttention
from distilbatch.inference.backends.attention import SteppedAttention, Workspace
from distilbatch.inference.backends.fused import FusedFeedForward, FusedSelfAttention
from distilbatch.inference.backends.onednn import OneDnnBackend
from distilbatch.inference.backends.operators import NOTHING
from distilbatch.model.attention import sdpa_attention
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.modeling import (
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
)
from distilbatch.model.packed import Layout, PackedTokens

CPU = torch.device("cpu")
ACTIVATIONS = ("gelu", "gelu_new", "gelu_python", "relu", "silu", "tanh", "gelu_10", torch.sin)
KINDS = (DistilBertForSequenceClassification, DistilBertForTokenClassification, DistilBertForMaskedLM)

pytestmark = pytest.mark.skipif(
    not operators.has_packed_linear(torch.float32), reason="torch has no prepacked linear layers here"
)
needs_int8 = pytest.mark.skipif(not operators.int8_sums(), reason="torch has no int8 kernels for this CPU")


def random_model(seed: int, *, spread: float = 0.3):
    rng = random.Random(seed)
    torch.manual_seed(seed)
    n_heads = rng.choice([1, 2, 3, 4])
    config = DistilBertConfig(
        vocab_size=50,
        max_position_embeddings=64,
        n_layers=rng.choice([1, 2, 3]),
        n_heads=n_heads,
        dim=n_heads * rng.choice([4, 8, 16]),
        hidden_dim=rng.choice([16, 40, 64]),
        activation=rng.choice(ACTIVATIONS),
        initializer_range=spread,
        id2label={0: "a", 1: "b", 2: "c"},
    )
    lengths = sorted((rng.randint(1, 64) for _ in range(rng.randint(1, 12))), reverse=True)
    ids = torch.randint(0, 50, (sum(lengths),))
    model = KINDS[seed % len(KINDS)](config).eval()
    draw_biases(model, spread=spread)
    return model, PackedTokens.from_lengths(ids, lengths)


@pytest.mark.parametrize("seed", range(60))
def test_float32_results_are_those_of_the_plain_kernels(seed):
    model, packed = random_model(seed)
    fast = copy.deepcopy(model)
    OneDnnBackend().prepare(fast, device=CPU, dtype=torch.float32)
    with torch.inference_mode():
        expected = model.forward_packed(packed)
        found = fast.forward_packed(packed)
    assert close(found, expected)


@pytest.mark.parametrize("seed", range(15))
def test_some_rows_of_the_last_layer_are_those_of_all(seed):
    model, packed = random_model(seed)
    rows = torch.arange(0, len(packed.input_ids), 3)
    fast = copy.deepcopy(model)
    OneDnnBackend().prepare(fast, device=CPU, dtype=torch.float32)
    with torch.inference_mode():
        expected = model.encoder.forward_packed(packed)[rows]
        torch.testing.assert_close(fast.encoder.forward_packed(packed, rows), expected, atol=1e-5, rtol=1e-5)


@pytest.fixture
def native_bfloat16(monkeypatch) -> Iterator[list[torch.dtype]]:
    """A CPU that has bfloat16: torch's own products for the prepacked ones, which others refuse.

    Collects the formats that attention is given. The int8 operators give bfloat16 on any CPU.
    """
    seen: list[torch.dtype] = []
    attend = SteppedAttention.__call__

    def linear(x, weight, bias, post=NOTHING):
        assert x.dtype == weight.dtype == bias.dtype == torch.bfloat16
        y = F.linear(x, weight, bias)
        return F.gelu(y, approximate=post.algorithm) if post.name == "gelu" else F.relu(y) if post.name == "relu" else y

    def watched(self, q, k, v, **options):
        seen.extend(x.dtype for x in (q, k, v))
        return attend(self, q, k, v, **options)

    monkeypatch.setattr(operators, "bfloat16_is_native", lambda: True)
    monkeypatch.setattr(operators, "pack_linear", lambda weight, *, rows: weight.clone())
    monkeypatch.setattr(operators, "packed_linear", linear)
    monkeypatch.setattr(SteppedAttention, "__call__", watched)
    operators.has_packed_linear.cache_clear()
    yield seen
    operators.has_packed_linear.cache_clear()


def assert_rows_are_near(fast, model, packed: PackedTokens, *, dtype: torch.dtype) -> None:
    """All rows, the first ones, and some, against float32 on the plain kernels."""
    with torch.inference_mode():
        for rows in (None, "first", torch.arange(0, len(packed.input_ids), 3)):
            exact, found = (each.encoder.forward_packed(packed, rows) for each in (model, fast))
            assert found.dtype is dtype
            assert found.shape == exact.shape
            assert (found - exact).abs().mean() < 0.05 * exact.abs().mean()
        head = fast.forward_packed(packed)
        assert (head - model.forward_packed(packed)).abs().mean() < 0.1 * head.abs().mean()


@pytest.mark.parametrize("seed", range(15))
def test_bfloat16_results_are_near_where_the_cpu_has_it(native_bfloat16, seed):
    model, packed = random_model(seed, spread=0.1)
    fast = copy.deepcopy(model)
    backend = choose_backend("bfloat16", CPU, torch.bfloat16)
    assert isinstance(backend, OneDnnBackend)
    backend.prepare(fast, device=CPU, dtype=torch.bfloat16)
    assert_rows_are_near(fast, model, packed, dtype=torch.bfloat16)
    assert set(native_bfloat16) == {torch.bfloat16}


@needs_int8
@pytest.mark.parametrize("right", [True, False], ids=["right", "wrong"])
@pytest.mark.parametrize("seed", range(15))
def test_int8_gives_bfloat16_to_the_attention_where_the_cpu_has_it_and_gets_it_right(
    monkeypatch, native_bfloat16, seed, right
):
    if not right:
        monkeypatch.setattr(operators, "has_int8", lambda dtype, _post: dtype is not torch.bfloat16)
    model, packed = random_model(seed, spread=0.1)
    fast = copy.deepcopy(model)
    OneDnnBackend(int8=True).prepare(fast, device=CPU, dtype=torch.float32)
    assert_rows_are_near(fast, model, packed, dtype=torch.float32)
    assert set(native_bfloat16) == {torch.bfloat16 if right else torch.float32}


@needs_int8
@pytest.mark.parametrize("seed", range(30))
def test_int8_results_are_near(seed):
    model, packed = random_model(seed, spread=0.1)
    fast = copy.deepcopy(model)
    OneDnnBackend(int8=True).prepare(fast, device=CPU, dtype=torch.float32)
    with torch.inference_mode():
        exact, found = model.forward_packed(packed), fast.forward_packed(packed)
    assert (found - exact).abs().mean() < 0.1 * exact.abs().mean()
    assert not torch.equal(found, exact)  # or nothing was quantised


@needs_int8
def test_int8_without_fused_activations_does_not_depend_on_the_batch(monkeypatch):
    monkeypatch.setattr(operators, "fuses", lambda _post: False)
    model, packed = random_model(0, spread=0.1)
    OneDnnBackend(int8=True).prepare(model, device=CPU, dtype=torch.float32)
    first_length = packed.runs[0][1]
    alone = PackedTokens.from_lengths(packed.input_ids[:first_length], [first_length])
    with torch.inference_mode():
        torch.testing.assert_close(
            model.forward_packed(alone)[0], model.forward_packed(packed)[0], atol=1e-5, rtol=1e-5
        )


@needs_int8
@pytest.mark.parametrize("seed", range(10))
def test_int8_with_fused_activations_is_near_too(monkeypatch, seed):
    monkeypatch.setattr(operators, "fuses", lambda _post: True)
    model, packed = random_model(seed, spread=0.1)
    fast = copy.deepcopy(model)
    OneDnnBackend(int8=True).prepare(fast, device=CPU, dtype=torch.float32)
    with torch.inference_mode():
        exact, found = model.forward_packed(packed), fast.forward_packed(packed)
    assert (found - exact).abs().mean() < 0.05 * exact.abs().mean()


@needs_int8
def test_int8_swaps_every_linear_layer_of_the_blocks_and_keeps_their_weights_in_a_quarter_of_the_memory():
    model, _ = random_model(0)
    OneDnnBackend(int8=True).prepare(model, device=CPU, dtype=torch.float32)
    for block in model.encoder.transformer.layer:
        last = block is model.encoder.transformer.layer[-1]
        assert isinstance(block.attention.ordinary if last else block.attention, FusedSelfAttention)
        assert isinstance(block.ffn, FusedFeedForward)
    left = {name.split(".")[-2] for name, _ in model.encoder.transformer.named_parameters()}
    assert left == {"sa_layer_norm", "output_layer_norm"}


def test_a_model_may_be_prepared_twice_and_keeps_its_own_forward():
    model, _ = random_model(1)
    reference = copy.deepcopy(model)
    ids, mask = torch.randint(0, 50, (3, 9)), torch.ones(3, 9)
    mask[0, 4:] = 0
    for _ in range(2):
        OneDnnBackend().prepare(model, device=CPU, dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(model(ids, mask).logits, reference(ids, mask).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(30))
def test_keys_and_values_absorbed_into_the_queries_of_first_tokens_change_rounding_alone(monkeypatch, seed):
    model, packed = random_model(seed)
    fast = copy.deepcopy(model)
    OneDnnBackend().prepare(fast, device=CPU, dtype=torch.float32)
    last = fast.encoder.transformer.layer[-1].attention
    assert isinstance(last, AbsorbedSelfAttention)
    with torch.inference_mode():
        expected = model.encoder.forward_packed(packed, "first")
        assert close(fast.encoder.forward_packed(packed, "first"), expected)
        # The ordinary way is not taken; where several tokens of a document ask, it is.
        monkeypatch.setattr(last.ordinary, "forward", None)
        assert close(fast.encoder.forward_packed(packed, "first"), expected)
        if packed.max_length > 1:
            with pytest.raises(TypeError):
                fast.encoder.forward_packed(packed)


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((found - expected).abs().max() < 1e-5 * expected.abs().max().clamp(min=1))


def test_encoders_are_prepared_by_themselves_or_under_a_head():
    config = DistilBertConfig(vocab_size=50, n_layers=2, n_heads=2, dim=16, hidden_dim=32, max_position_embeddings=16)
    model = DistilBertModel(config)
    OneDnnBackend().prepare(model, device=CPU, dtype=torch.float32)
    assert isinstance(model.transformer.layer[0].attention, FusedSelfAttention)


@pytest.mark.parametrize("only_short", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("seed", range(10))
def test_stepped_attention_is_attention(monkeypatch, dtype, seed, only_short):
    rng = random.Random(seed)
    for name, values in (("_SCORE_BYTES", [1, 10_000, 1 << 20]), ("_SHORT_HEAD", [8, 160]), ("_FEW_DOCUMENTS", [1, 2])):
        monkeypatch.setattr(f"distilbatch.inference.backends.attention.{name}", rng.choice(values))
    attend, n_heads = SteppedAttention(Workspace(), only_short=only_short), rng.choice([1, 3])
    for _ in range(3):  # memory is used again, by larger and by smaller batches
        layout = Layout.of_lengths(sorted((rng.randint(1, 40) for _ in range(rng.randint(1, 9))), reverse=True))
        if rng.random() < 0.5:
            rows = sorted(rng.sample(range(sum(layout.lengths)), k=rng.randint(1, sum(layout.lengths))))
            layout = layout.select(torch.tensor(rows), device=CPU)[1]
        tokens, queries = sum(layout.lengths), sum(run.num_docs * run.q_len for run in layout.runs)
        width = 8 * n_heads
        q, (k, v) = torch.randn(queries, width, dtype=dtype), torch.randn(tokens, 2 * width, dtype=dtype).chunk(2, 1)
        options = {"layout": layout, "n_heads": n_heads, "dropout_p": 0.0}
        given = q.clone()
        found, _ = attend(q, k, v, **options)
        tolerance = 1e-5 if dtype is torch.float32 else 0.05
        torch.testing.assert_close(found, sdpa_attention(q, k, v, **options)[0], atol=tolerance, rtol=tolerance)
        assert torch.equal(q, given)


def test_stepped_attention_leaves_masks_to_the_fused_kernel():
    q, k, v = torch.randn(3, 6, 8)
    mask = torch.tensor([True, True, False, True, True, True])
    options = {"layout": Layout.of_lengths([3, 3], key_mask=mask), "n_heads": 2, "dropout_p": 0.0}
    found, _ = SteppedAttention(Workspace())(q, k, v, **options)
    torch.testing.assert_close(found, sdpa_attention(q, k, v, **options)[0])


def test_runs_of_many_short_documents_take_steps_and_others_the_fused_kernel(monkeypatch):
    stepped = []
    monkeypatch.setattr(SteppedAttention, "_attend", lambda _self, q, *_rest, **_out: stepped.append(tuple(q.shape)))
    layout = Layout.of_lengths([200, 200, 200, 200, 9, 9, 9, 9, 8, 8, 8])
    q, k, v = torch.randn(3, sum(layout.lengths), 32)
    SteppedAttention(Workspace(), only_short=True)(q, k, v, layout=layout, n_heads=2, dropout_p=0.0)
    assert stepped == [(4, 2, 9, 16)]


def test_what_this_machine_lacks_is_computed_by_the_plain_kernels(monkeypatch):
    monkeypatch.setattr(operators, "has_packed_linear", lambda _dtype: False)
    assert isinstance(choose_backend("float32", CPU, torch.float32), ReferenceBackend)
    assert isinstance(choose_backend("bfloat16", torch.device("meta"), torch.bfloat16), ReferenceBackend)


def test_two_threads_never_share_a_workspace():
    workspace, shape = Workspace(), (2, 3)
    mine = workspace.take("scores", shape, torch.float32)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(workspace.take, "scores", shape, torch.float32).result()
    assert other.data_ptr() != mine.data_ptr()
    assert workspace.take("scores", shape, torch.float32).data_ptr() == mine.data_ptr()
