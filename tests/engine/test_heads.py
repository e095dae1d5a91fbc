from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from engine_samples import MAX_POSITIONS, WORDS, random_texts, topic_spec, write_checkpoint

from distilbatch import schema
from distilbatch.engine import preparation
from distilbatch.engine.annotated import AnnotatedBuffer, TokenizedBuffer, row_array
from distilbatch.engine.heads import Heads
from distilbatch.engine.spec import DeviceSpec, HeadSpec
from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.inference import predictor
from distilbatch.inference.streams import Streams
from distilbatch.model.modeling import DistilBertForSequenceClassification, DistilBertModel
from distilbatch.model.packed import PackedTokens
from distilbatch.tokenization import DocumentTokenizer

CPU = DeviceSpec(device="cpu", threads=1, max_batch_tokens=256)


def load(*specs: HeadSpec, max_doc_bytes: int = 4096, **device: object) -> Heads:
    return Heads(specs, device=replace(CPU, **device), max_doc_bytes=max_doc_bytes)


def annotate(heads: Heads, texts: Sequence[str | bytes | None]) -> AnnotatedBuffer:
    values = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text for text in texts]
    buffer = heads.tokenize({"text": pa.array(values, pa.binary())})
    return heads.decode(buffer, heads.predict(buffer))


def tokenize(heads: Heads, texts: Sequence[str | None]) -> TokenizedBuffer:
    return heads.tokenize({"text": pa.array(texts)})


def scores(annotated: AnnotatedBuffer, head: int = 0) -> list[tuple[str, float] | None]:
    return [item and (item["label"], item["score"]) for item in annotated.columns[head].to_pylist()]


@pytest.fixture
def forward(monkeypatch) -> Callable[..., list[list[int]]]:
    """Put something around the encoder's forward; gives the lengths of the documents of each call."""
    original = DistilBertModel.forward_packed

    def install(change: Callable[[list[int], torch.Tensor], torch.Tensor]) -> list[list[int]]:
        calls: list[list[int]] = []

        def around(self, packed: PackedTokens, *args: object, **kwargs: object) -> torch.Tensor:
            calls.append(packed.layout.lengths)
            return change(packed.layout.lengths, original(self, packed, *args, **kwargs))

        monkeypatch.setattr(DistilBertModel, "forward_packed", around)
        return calls

    return install


@pytest.fixture
def topic(checkpoint: Path) -> HeadSpec:
    return topic_spec(checkpoint)


# --- What becomes of each text ---------------------------------------------------------------------------------------


def test_every_kind_of_text_has_a_status(topic):
    texts = {
        "a plain one": ("bada kego", "ok", 4, False),
        "nothing": (None, "null", 0, False),
        "an empty one": ("", "empty", 0, False),
        "blanks": (" \t\n\u3000", "empty", 0, False),
        "NUL only": ("\0\0", "empty", 0, False),
        "NUL inside": ("ba\0da", "ok", 3, False),
        "a byte order mark": ("\ufeffbada", "ok", 3, False),
        "unknown words": ("☃", "ok", 3, False),
        "invalid UTF-8": (b"bada \xff kego", "repaired", 4, False),  # the tokenizer drops U+FFFD
        "a lone surrogate": ("bada \ud800 kego", "repaired", None, False),
        "over the model's positions": (" ".join(WORDS), "truncated", MAX_POSITIONS, True),
        "exactly the positions": (" ".join(WORDS[: MAX_POSITIONS - 2]), "ok", MAX_POSITIONS, False),
    }
    found = annotate(load(topic), [text for text, *_ in texts.values()])
    for row, (name, (_, status, num_tokens, truncated)) in enumerate(texts.items()):
        assert found.statuses[row].value == status, name
        assert found.errors[row] is None, name
        assert num_tokens is None or found.num_tokens[row] == num_tokens, name
        assert found.truncated[row] == truncated, name
        assert found.columns[0][row].is_valid == (status not in {"null", "empty"}), name


def test_a_huge_document_is_cut_before_it_is_tokenized(topic):
    found = annotate(load(topic, max_doc_bytes=1 << 20), ["kego " * (2 << 20), "bada"])
    assert [status.value for status in found.statuses] == ["truncated", "ok"]
    assert found.num_tokens.tolist() == [MAX_POSITIONS, 3]


def test_bytes_over_the_limit_are_a_truncation_even_when_the_tokens_fit(topic):
    found = annotate(load(topic, max_doc_bytes=9), ["bada kego limo"])
    assert (found.statuses[0].value, found.num_tokens[0], bool(found.truncated[0])) == ("truncated", 4, True)


def test_a_truncated_and_repaired_text_says_repaired_and_is_marked_as_truncated(topic):
    found = annotate(load(topic), [b"\xff " + " ".join(WORDS).encode()])
    assert (found.statuses[0].value, bool(found.truncated[0])) == ("repaired", True)


def test_a_buffer_without_any_text_gives_rows_all_the_same(topic):
    found = annotate(load(topic), [None, "", None])
    assert [status.value for status in found.statuses] == ["null", "empty", "null"]
    assert found.columns[0].null_count == 3


def test_max_length_is_the_heads_own(topic):
    found = annotate(load(replace(topic, max_length=5)), ["bada kego limo nupi"])
    assert (found.statuses[0].value, found.num_tokens[0]) == ("truncated", 5)


@pytest.mark.parametrize("max_length", [2, MAX_POSITIONS + 1])
def test_a_max_length_the_model_cannot_have_is_refused(topic, max_length):
    with pytest.raises(ConfigError, match=f"'topic': max_length; expected 3 to {MAX_POSITIONS}, .*found {max_length}"):
        load(replace(topic, max_length=max_length))


def test_a_text_that_breaks_the_tokenizer_is_an_error_row_and_the_others_are_not(topic, monkeypatch):
    encode = DocumentTokenizer.encode

    def fragile(self, texts, second=None, **options):
        if any("zu" in text for text in texts):
            raise RuntimeError("normalizer gave up")
        return encode(self, texts, second, **options)

    heads = load(topic)
    expected = scores(annotate(heads, ["bada", "kego"]))
    monkeypatch.setattr(DocumentTokenizer, "encode", fragile)
    found = annotate(heads, ["bada", "zu", None, "kego"])
    assert [status.value for status in found.statuses] == ["ok", "error", "null", "ok"]
    assert found.errors == [None, "tokenizer: normalizer gave up", None, None]
    assert [item for item in scores(found) if item] == expected


def test_a_tokenizer_that_fails_for_no_row_in_particular_is_no_row_error(topic, monkeypatch):
    encode = DocumentTokenizer.encode

    def fails_for_many(self, texts, second=None, **options):
        if len(texts) > 1:
            raise RuntimeError("pool exhausted")
        return encode(self, texts, second, **options)

    monkeypatch.setattr(DocumentTokenizer, "encode", fails_for_many)
    with pytest.raises(RuntimeError, match="pool exhausted"):
        annotate(load(topic), ["bada", "kego"])


# --- Order and batches -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [16, 100, 4096])
@pytest.mark.parametrize("seed", range(4))
def test_results_do_not_depend_on_what_else_is_in_the_buffer(topic, seed, budget):
    rng = random.Random(seed)
    texts: list[str | None] = [*random_texts(60, seed=seed), None, "", "\0", "☃"]
    rng.shuffle(texts)
    heads, alone = load(topic, max_batch_tokens=budget), load(topic)
    together = annotate(heads, texts)
    for row, text in enumerate(texts):
        single = annotate(alone, [text])
        assert single.statuses[0] is together.statuses[row]
        assert single.num_tokens[0] == together.num_tokens[row]
        expected, found = scores(single)[0], scores(together)[row]
        assert (expected is None) == (found is None)
        if expected is not None and found is not None:
            assert found[0] == expected[0]
            assert found[1] == pytest.approx(expected[1], abs=5e-6)


def test_token_batches_run_in_the_calling_thread_where_a_profiler_asks_for_it(topic, monkeypatch):
    monkeypatch.setattr(predictor, "suitable_streams", lambda _device: Streams(2))
    heads = load(topic, max_batch_tokens=16)
    buffer = tokenize(heads, random_texts(20))
    threads: set[str] = set()
    original = DistilBertModel.forward_packed

    def noting(self, *args: object) -> torch.Tensor:
        threads.add(threading.current_thread().name.partition("_")[0])
        return original(self, *args)

    monkeypatch.setattr(DistilBertModel, "forward_packed", noting)
    here = threading.current_thread().name
    with heads.in_turn():
        heads.predict(buffer)
    assert threads == {here}
    heads.predict(buffer)
    assert "stream" in threads


def test_the_rows_of_each_token_batch_are_told_before_it_runs(topic, forward):
    calls = forward(lambda lengths, states: states)
    heads = load(topic, max_batch_tokens=40)
    buffer = tokenize(heads, [None, *random_texts(30, most_words=12)])
    told: list[list[int]] = []

    def observe(rows):
        assert len(calls) == len(told)
        told.append(rows.tolist())

    heads.predict(buffer, on_batch=observe)
    assert sorted(row for rows in told for row in rows) == list(range(1, 31))
    assert [len(rows) for rows in told] == [len(lengths) for lengths in calls]
    assert all(sum(lengths) <= 40 for lengths in calls)


def test_no_token_is_computed_twice_or_padded(topic, forward):
    calls = forward(lambda lengths, states: states)
    heads = load(topic, max_batch_tokens=64)
    buffer = tokenize(heads, random_texts(50))
    (output,) = heads.predict(buffer)
    assert (
        sum(map(sum, calls))
        == output.tokens_computed
        == len(buffer.questions[0].tokens.input_ids)
        == heads.tokens_to_compute(buffer)
    )


# --- Several heads ---------------------------------------------------------------------------------------------------


def test_heads_with_the_same_tokenizer_and_length_share_one_tokenization(topic, tmp_path):
    other = topic_spec(write_checkpoint(tmp_path / "tone", seed=1, labels=("up", "down")), name="tone")
    short = replace(other, name="short", max_length=8)
    heads = load(topic, other, short)
    buffer = tokenize(heads, random_texts(10))
    whole, cut = buffer.questions
    assert whole.tokens.lengths.max() > cut.tokens.lengths.max() == 8
    # Their encoders differ: each reads the shared tokens for itself.
    assert heads.tokens_to_compute(buffer) == 2 * len(whole.tokens.input_ids) + len(cut.tokens.input_ids)


def test_heads_on_equal_encoders_share_one_forward_and_answer_as_if_alone(topic, tmp_path, forward):
    torch.manual_seed(5)
    shared = DistilBertForSequenceClassification.from_pretrained(topic.model)
    torch.nn.init.normal_(shared.classifier.weight)
    folder = tmp_path / "tone"
    shared.save_pretrained(folder)
    (folder / "vocab.txt").write_bytes((topic.model / "vocab.txt").read_bytes())
    tone, texts = topic_spec(folder, name="tone"), [*random_texts(20), None]
    heads = load(topic, tone)
    calls = forward(lambda lengths, states: states)
    buffer = tokenize(heads, texts)
    outputs = heads.predict(buffer)
    assert sum(map(sum, calls)) == outputs[0].tokens_computed == heads.tokens_to_compute(buffer)
    assert (outputs[1].tokens_computed, outputs[1].seconds) == (0, 0.0)
    both = heads.decode(buffer, outputs)
    assert not both.columns[0].equals(both.columns[1])
    for index, spec in enumerate((topic, tone)):
        assert both.columns[index].equals(annotate(load(spec), texts).columns[0])


def test_heads_of_other_columns_or_tokenizers_ask_for_themselves(topic, tmp_path):
    renamed = replace(topic, name="title", columns=(("text", "title"),))
    folder = write_checkpoint(tmp_path / "cased")
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    heads = load(topic, renamed, topic_spec(folder, name="cased"))
    buffer = heads.tokenize({"text": pa.array(["Bada kego", None]), "title": pa.array(["limo", "bada"])})
    ids = [question.tokens.input_ids.tolist() for question in buffer.questions]
    assert len(ids) == 3
    assert len({tuple(each) for each in ids}) == 3
    found = heads.decode(buffer, heads.predict(buffer))
    assert [status.value for status in found.statuses] == ["ok", "null"]  # of the first head's text
    assert [column.is_valid().to_pylist() for column in found.columns] == [[True, False], [True, True], [True, False]]


def test_each_head_answers_as_if_it_were_alone(topic, tmp_path):
    other = topic_spec(
        write_checkpoint(tmp_path / "tone", seed=1, labels=("up", "down")), name="tone", options={"top_k": 2}
    )
    texts = [*random_texts(20), None]
    both = annotate(load(topic, other), texts)
    for index, spec in enumerate((topic, other)):
        assert both.columns[index].equals(annotate(load(spec), texts).columns[0])
    assert load(topic, other).fields == [
        pa.field("topic", schema.classification_type(with_scores=False)),
        pa.field("tone", schema.classification_type(with_scores=True)),
    ]


def test_a_row_counts_the_tokens_of_its_longest_head(topic):
    found = annotate(load(replace(topic, max_length=4), replace(topic, name="long")), ["bada kego limo"])
    assert (found.num_tokens[0], bool(found.truncated[0]), found.statuses[0].value) == (5, True, "truncated")


# --- Failures inside the model ---------------------------------------------------------------------------------------


def test_a_document_without_a_finite_score_is_an_error_row_in_its_head(topic, tmp_path, monkeypatch):
    other = topic_spec(write_checkpoint(tmp_path / "tone", seed=1, labels=("up", "down")), name="tone")
    heads = load(topic, other)
    texts = ["bada", "bada kego", "limo", None]
    expected = annotate(heads, texts)

    head = DistilBertForSequenceClassification.head

    def spoil_two_words(self, first):
        logits = head(self, first)
        # Longest first, so the text of two words leads its batch. Only the two-class head overflows.
        return (
            torch.where(torch.arange(len(logits))[:, None] == 0, float("inf"), logits)
            if len(logits[0]) == 2
            else logits
        )

    monkeypatch.setattr(DistilBertForSequenceClassification, "head", spoil_two_words)
    found = annotate(heads, texts)
    assert [status.value for status in found.statuses] == ["ok", "error", "ok", "null"]
    assert found.errors[1] == "tone: the model gave no finite value for this text (number format overflow)"
    assert found.columns[0].equals(expected.columns[0])  # what the other head says stands
    assert found.columns[1].is_valid().to_pylist() == [True, False, True, False]
    assert found.columns[1].take([0, 2]).equals(expected.columns[1].take([0, 2]))


def test_a_row_that_fails_in_two_heads_says_so_of_both(topic, forward, monkeypatch):
    def too_large(lengths: list[int], states: torch.Tensor) -> torch.Tensor:
        if 4 in lengths:
            raise torch.OutOfMemoryError
        return states

    monkeypatch.setattr(predictor.Predictor, "canary_tokens", 1)
    forward(too_large)
    found = annotate(load(topic, replace(topic, name="again")), ["bada", "bada kego"])
    reason = "out of memory: this document does not fit even alone; lower max_length"
    assert found.errors == [None, f"topic: {reason}; again: {reason}"]
    assert [column.is_valid().to_pylist() for column in found.columns] == [[True, False]] * 2


def out_of_memory_above(limit: int, error: Callable[[], BaseException]) -> Callable[..., torch.Tensor]:
    def change(lengths: list[int], logits: torch.Tensor) -> torch.Tensor:
        if sum(lengths) > limit:
            raise error()
        return logits

    return change


@pytest.mark.parametrize(
    "error",
    [
        lambda: torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError,
        lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"),
    ],
)
def test_out_of_memory_splits_the_batch_and_the_next_ones_are_smaller(topic, forward, error):
    texts = random_texts(80, most_words=20)
    expected = scores(annotate(load(topic), texts))
    calls = forward(out_of_memory_above(600, error))
    heads = load(topic, max_batch_tokens=1000)
    found = scores(annotate(heads, texts))
    assert [item and item[0] for item in found] == [item and item[0] for item in expected]
    assert [item and item[1] for item in found] == pytest.approx([item and item[1] for item in expected], abs=5e-6)
    assert max(map(sum, calls)) > 600
    calls.clear()
    annotate(heads, texts)
    assert 0 < max(map(sum, calls)) <= 600  # the wall is known by now


def test_a_document_that_does_not_fit_even_alone_is_an_error_row(topic, forward, monkeypatch):
    monkeypatch.setattr(predictor.Predictor, "canary_tokens", 1)
    forward(out_of_memory_above(10, lambda: torch.OutOfMemoryError("CUDA out of memory")))
    found = annotate(load(topic), ["bada", " ".join(WORDS[:12]), "kego limo"])
    assert [status.value for status in found.statuses] == ["ok", "error", "ok"]
    assert found.errors[1] is not None
    assert "out of memory" in found.errors[1]


def test_any_other_error_of_the_model_is_passed_on(topic, forward):
    def broken(lengths, logits):
        raise RuntimeError("shape mismatch")

    forward(broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        annotate(load(topic), ["bada"])


# --- Loading ---------------------------------------------------------------------------------------------------------


def test_a_tokenizer_that_is_too_large_for_the_model_is_refused(checkpoint, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_bytes((checkpoint / name).read_bytes())
    (folder / "vocab.txt").write_text((checkpoint / "vocab.txt").read_text() + "extra\n")
    with pytest.raises(CheckpointError, match="do not belong together; expected at most 37 entries"):
        load(topic_spec(folder))


def test_the_row_column_has_its_published_type(topic):
    annotated = annotate(load(topic), ["bada", None, b"\xff"])
    column = row_array(annotated, source_file="a/b.parquet", source_rows=np.array([7, 8, 9]))
    assert column.type == schema.ROW_TYPE
    assert column.to_pylist()[1] == {
        "status": "null",
        "error": None,
        "n_tokens": 0,
        "n_windows": 0,
        "truncated": False,
        "source_file": "a/b.parquet",
        "source_row": 8,
    }


def test_the_default_length_has_a_limit_of_its_own(topic, monkeypatch):
    monkeypatch.setattr(preparation, "DEFAULT_MAX_LENGTH", 6)
    assert annotate(load(topic), ["bada " * 20]).num_tokens[0] == 6
