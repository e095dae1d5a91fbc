"""``DocumentTokenizer`` against the tokenizer of ``transformers``: the same ids, laid end to end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_folders import FUZZED, ODD, SENTENCES, copy_minilm, reference_of, write_json

from distilbatch.errors import CheckpointError, RowError
from distilbatch.records import TokenBatch
from distilbatch.tokenization import DocumentTokenizer

TEXTS = [*SENTENCES, *ODD]
LONG = [" ".join(SENTENCES[number:] + SENTENCES[:number]) * (1 + number) for number in range(6)]
NO_TOKENS = ["", " ", "\x00", "\u200b\u00ad", "\t\r\n", "\ufffd"]


@pytest.fixture(scope="module")
def reference(folders) -> Any:
    return reference_of(folders["uncased json"])


@pytest.fixture(scope="module")
def make(folders):
    made: dict[tuple[str, int], DocumentTokenizer] = {}

    def tokenizer(name: str = "uncased json", *, max_length: int = 512) -> DocumentTokenizer:
        key = (name, max_length)
        if key not in made:
            made[key] = DocumentTokenizer.from_folder(folders[name], max_length=max_length)
        return made[key]

    return tokenizer


def documents(tokens: TokenBatch) -> dict[int, list[int]]:
    """Sequence to ids, where each has one document."""
    assert not tokens.windows.any()
    return dict(zip(tokens.sequences.tolist(), laid_out(tokens), strict=True))


def laid_out(tokens: TokenBatch) -> list[list[int]]:
    parts = np.split(tokens.input_ids, tokens.cu_seqlens[1:-1]) if len(tokens) else []
    return [part.tolist() for part in parts]


def assert_equal_to_reference(tokens: TokenBatch, texts: list[str], reference: Any, max_length: int) -> None:
    expected = reference(texts, truncation=True, max_length=max_length, verbose=False)["input_ids"]
    with_tokens = {index: ids for index, ids in enumerate(expected) if len(ids) > 2}
    assert documents(tokens) == with_tokens
    whole = reference([texts[index] for index in with_tokens], verbose=False)["input_ids"] if with_tokens else []
    assert tokens.truncated.tolist() == [len(ids) > max_length for ids in whole]


@pytest.mark.parametrize("max_length", [3, 4, 16, 128, 512])
def test_ids_equal_the_reference_on_real_texts(make, reference, real_texts, max_length):
    texts = real_texts[:240] + real_texts[240::16] if max_length != 128 else real_texts[::4]
    tokens = make(max_length=max_length).encode(texts)
    assert (tokens.input_ids.dtype, tokens.cu_seqlens.dtype) == (np.int32, np.int64)
    assert_equal_to_reference(tokens, texts, reference, max_length)


@pytest.mark.parametrize("name", ["uncased json", "uncased vocab", "vocab alone"])
@pytest.mark.parametrize("max_length", [3, 8, 512])
def test_ids_equal_the_reference_on_odd_texts_from_either_file(make, reference, name, max_length):
    assert_equal_to_reference(make(name, max_length=max_length).encode(TEXTS), TEXTS, reference, max_length)


@settings(max_examples=80, deadline=None)
@given(texts=st.lists(FUZZED, min_size=1, max_size=6), max_length=st.integers(3, 40))
def test_ids_equal_the_reference_on_fuzzed_unicode(make, reference, texts, max_length):
    assert_equal_to_reference(make(max_length=max_length).encode(texts), texts, reference, max_length)


@pytest.mark.parametrize("text", NO_TOKENS, ids=repr)
def test_a_text_that_yields_no_token_is_left_out(make, text):
    tokens = make().encode(["a", text, text, "b"])
    assert tokens.sequences.tolist() == [0, 3]
    assert tokens.cu_seqlens.tolist() == [0, 3, 6]


def test_nothing_to_encode_gives_no_documents(make):
    for texts in ([], NO_TOKENS):
        tokens = make().encode(texts)
        assert (len(tokens), len(tokens.input_ids), tokens.cu_seqlens.tolist()) == (0, 0, [0])


# --- Pairs, text windows, and where tokens come from -----------------------------------------------------------------


@pytest.mark.parametrize("max_length", [6, 17, 64, 512])
def test_pairs_equal_the_references(make, reference, real_texts, max_length):
    count = 30 if max_length == 6 else 120  # the reference takes one token off at a time
    first, second = real_texts[:count:2], real_texts[1:count:2]
    tokens = make(max_length=max_length).encode(first, second)
    expected = reference(first, second, truncation="longest_first", max_length=max_length, verbose=False)["input_ids"]
    assert documents(tokens) == dict(enumerate(expected))
    whole = reference(first, second, verbose=False)["input_ids"]
    assert tokens.truncated.tolist() == [len(ids) > max_length for ids in whole]


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(FUZZED, FUZZED), min_size=1, max_size=4), max_length=st.integers(5, 40))
def test_fuzzed_pairs_equal_the_references_where_both_have_tokens(make, reference, pairs, max_length):
    first, second = map(list, zip(*pairs, strict=True))
    expected = reference(first, second, truncation="longest_first", max_length=max_length, verbose=False)["input_ids"]
    lengths = [[len(ids) - 2 for ids in reference(texts, verbose=False)["input_ids"]] for texts in (first, second)]
    both = {index: ids for index, ids in enumerate(expected) if lengths[0][index] and lengths[1][index]}
    found = documents(make(max_length=max_length).encode(first, second))
    assert {index: found[index] for index in both} == both
    assert not {index for index in found if not lengths[1][index]}  # nothing to read beside the first text


@pytest.mark.parametrize(("max_length", "stride"), [(3, 0), (16, 0), (16, 5), (64, 61), (128, 32)])
def test_text_windows_equal_the_references(folders, reference, real_texts, max_length, stride):
    texts = [*real_texts[:40], *NO_TOKENS, "a", "a " * (max_length - 2), "a " * (max_length - 1)]
    if max_length - stride < 4:
        texts = texts[-60:-6:9] + texts[-3:]
    tokens = DocumentTokenizer.from_folder(folders["uncased json"], max_length=max_length, stride=stride).encode(texts)
    expected = reference(
        texts, truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True, verbose=False
    )
    owners = zip(expected["overflow_to_sample_mapping"], expected["input_ids"], strict=True)
    kept = [(owner, ids) for owner, ids in owners if len(ids) > 2]
    assert list(zip(tokens.sequences.tolist(), laid_out(tokens), strict=True)) == kept
    assert not tokens.truncated.any()  # every token is in some window
    for sequence in set(tokens.sequences.tolist()):
        windows = tokens.windows[tokens.sequences == sequence]
        assert windows.tolist() == list(range(len(windows)))


@pytest.mark.parametrize("pairs", [False, True], ids=["single", "pairs"])
@pytest.mark.parametrize("stride", [None, 4])
def test_details_say_which_characters_of_which_text_a_token_is(folders, reference, real_texts, pairs, stride):
    first, second = real_texts[:60:2], real_texts[1:60:2] if pairs else None
    tokenizer = DocumentTokenizer.from_folder(folders["uncased json"], max_length=32, stride=stride)
    plain, tokens = tokenizer.encode(first, second), tokenizer.encode(first, second, details=True)
    assert plain.details is None
    assert laid_out(plain) == laid_out(tokens)
    assert tokens.details is not None
    assert tokens.details.offsets.shape == (len(tokens.input_ids), 2)
    for document, sequence in enumerate(tokens.sequences.tolist()):
        span = slice(int(tokens.cu_seqlens[document]), int(tokens.cu_seqlens[document + 1]))
        places = zip(tokens.input_ids[span], tokens.details.parts[span], tokens.details.offsets[span], strict=True)
        for token_id, part, (start, end) in places:
            if part == 0:
                assert token_id in {101, 102}
                assert (start, end) == (0, 0)
                continue
            text = first[sequence] if part == 1 else second[sequence]
            word = reference.convert_ids_to_tokens(int(token_id)).removeprefix("##")
            read = reference.backend_tokenizer.normalizer.normalize_str(text[start:end]).replace(" ", "")
            assert word in {read, "[UNK]"}


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose texts lose their beginning."""
    folder = copy_minilm(tmp_path_factory.mktemp("left"), "tokenizer.json")
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "truncation_side": "left"})
    return folder


@pytest.mark.parametrize("max_length", [6, 17, 64])
def test_the_checkpoint_says_which_end_of_texts_and_pairs_is_cut_off(left, max_length):
    reference, tokenizer = reference_of(left), DocumentTokenizer.from_folder(left, max_length=max_length)
    assert_equal_to_reference(tokenizer.encode(TEXTS), TEXTS, reference, max_length)
    first, second = LONG[::2], LONG[1::2]
    expected = reference(first, second, truncation=True, max_length=max_length, return_offsets_mapping=True)
    tokens = tokenizer.encode(first, second, details=True)
    assert documents(tokens) == dict(enumerate(expected["input_ids"]))
    assert tokens.details.offsets.tolist() == [list(span) for spans in expected["offset_mapping"] for span in spans]


@pytest.mark.parametrize(("max_length", "stride"), [(16, 0), (16, 5), (64, 61)])
def test_windows_begin_at_the_end_that_is_kept_and_are_in_reading_order(left, max_length, stride):
    reference, texts = reference_of(left), LONG
    tokens = DocumentTokenizer.from_folder(left, max_length=max_length, stride=stride).encode(texts)
    for sequence, text in enumerate(texts):
        expected = reference(
            text, truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True
        )
        found = [ids for ids, owner in zip(laid_out(tokens), tokens.sequences, strict=True) if owner == sequence]
        assert found == expected["input_ids"][::-1]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_second_text_may_be_kept_whole(folders, left, side):
    folder = left if side == "left" else folders["uncased json"]
    tokenizer = DocumentTokenizer.from_folder(folder, max_length=24, whole_second=True)
    first, second = LONG, ["is it about the river or the red fish", "red"] * (len(LONG) // 2)
    expected = reference_of(folder)(first, second, truncation="only_first", max_length=24, verbose=False)["input_ids"]
    assert documents(tokenizer.encode(first, second)) == dict(enumerate(expected))
    with pytest.raises(RowError, match="truncation only_first would leave nothing of it"):
        tokenizer.encode(["red"], ["river " * 21])


def test_nothing_is_padded_or_cut_by_the_settings_of_the_file(make):
    tokens = make().encode(["a", "a " * 300])
    assert tokens.lengths.tolist() == [3, 302]
    assert tokens.truncated.tolist() == [False, False]


def test_a_document_of_exactly_the_limit_is_whole(make):
    tokens = make(max_length=16).encode(["a " * 14, "a " * 15])
    assert tokens.lengths.tolist() == [16, 16]
    assert tokens.truncated.tolist() == [False, True]


def test_a_megabyte_is_one_document(make):
    text = "word " * 200_000
    tokens = make().encode([text, "\u732b" * 300_000, "x" * 1_000_000])
    assert tokens.lengths.tolist() == [512, 512, 3]
    assert tokens.truncated.tolist() == [True, True, False]


def test_threads_that_share_a_tokenizer_get_their_own_documents(make):
    tokenizer = make(max_length=20)
    batches = [[f"{text} {i}" for text in TEXTS] for i in range(24)]
    expected = [documents(tokenizer.encode(batch)) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        assert [documents(tokens) for tokens in pool.map(tokenizer.encode, batches)] == expected


@pytest.mark.parametrize("max_length", [-1, 0, 2])
def test_a_length_without_room_for_a_token_is_refused(make, max_length):
    with pytest.raises(CheckpointError, match=f"^max_length is too small; expected at least 3; found {max_length}$"):
        make(max_length=max_length)


def test_the_vocabulary_size_counts_up_to_the_largest_id(make, tmp_path):
    assert make().vocab_size == 30_522
    folder = copy_minilm(tmp_path, "vocab.txt")
    with (folder / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("the\n")  # a duplicate: the last line counts
    assert DocumentTokenizer.from_folder(folder, max_length=8).vocab_size == 30_523
