"""``DistilBertTokenizer`` against the tokenizer of ``transformers``, on files, texts and options of every kind."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_folders import (
    FUZZED,
    MINILM,
    ODD,
    SENTENCES,
    SPECIALS,
    copy_minilm,
    reference_of,
    vocabulary_of,
    write_json,
    write_vocab,
)

from distilbatch.errors import ConfigError, RowError, SetupError
from distilbatch.tokenization import DistilBertTokenizer, Encoding

NAMES = [
    "uncased json",
    "uncased vocab",
    "vocab alone",
    "cased",
    "accents kept",
    "accents stripped",
    "no chinese",
]
STRATEGIES = ["longest_first", "only_first", "only_second"]
SIDES = ["right", "left"]
TEXTS = [*SENTENCES, *ODD]
# Every short text beside every long one, and equal lengths.
PAIRS = [(a, b) for a in TEXTS[::3] for b in TEXTS[1::4]] + [("a b c d e f", "g h i j k l")]


class Both:
    """Our tokenizer and the reference's of the same folder."""

    def __init__(self, folder: Path) -> None:
        self.ours = DistilBertTokenizer.from_pretrained(folder)
        self.reference = reference_of(folder)

    def expect(self, texts: list[str], pairs: list[str] | None = None, *, side: str = "right", **options: Any):
        """The reference's answer to a call, with everything that can be asked for."""
        self.reference.truncation_side = side
        return self.reference(
            texts,
            pairs,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
            **options,
        )


@pytest.fixture(scope="module")
def both(folders):
    made: dict[str, Both] = {}

    def make(name: str) -> Both:
        if name not in made:
            made[name] = Both(folders[name])
        return made[name]

    return make


def assert_same(found: list[Encoding], expected: Any) -> None:
    assert [encoding.input_ids.tolist() for encoding in found] == expected["input_ids"]
    assert [encoding.attention_mask.tolist() for encoding in found] == expected["attention_mask"]
    assert [encoding.special_tokens_mask.tolist() for encoding in found] == expected["special_tokens_mask"]
    offsets = [[tuple(pair) for pair in encoding.offsets.tolist()] for encoding in found]
    assert offsets == [[tuple(pair) for pair in pairs] for pairs in expected["offset_mapping"]]
    for index, encoding in enumerate(found):
        sequences = [-1 if number is None else number for number in expected.sequence_ids(index)]
        assert encoding.sequence_ids.tolist() == sequences


@pytest.mark.parametrize("name", NAMES)
def test_ids_masks_and_offsets_equal_the_reference(both, name):
    pair = both(name)
    assert_same(pair.ours(TEXTS, return_offsets=True), pair.expect(TEXTS))
    firsts, seconds = map(list, zip(*PAIRS, strict=True))
    assert_same(pair.ours(firsts, seconds, return_offsets=True), pair.expect(firsts, seconds))


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(NAMES), texts=st.lists(FUZZED, min_size=1, max_size=4))
def test_they_are_equal_on_fuzzed_unicode(both, name, texts):
    pair = both(name)
    assert_same(pair.ours(texts, return_offsets=True), pair.expect(texts))


def test_twenty_thousand_real_texts_have_the_same_ids_and_offsets(both, real_texts, tmp_path):
    cased = write_vocab(tmp_path / "cased", vocabulary_of(real_texts[::7], num_words=8000), do_lower_case=False)
    for pair, count in ((both("uncased json"), 20_000), (Both(cased), 8_000)):
        for start in range(0, count, 2000):
            texts = real_texts[start : start + 2000]
            expected = pair.reference(texts, return_offsets_mapping=True, verbose=False)
            found = pair.ours(texts, return_offsets=True)
            assert [encoding.input_ids.tolist() for encoding in found] == expected["input_ids"]
            for encoding, offsets in zip(found, expected["offset_mapping"], strict=True):
                assert np.array_equal(encoding.offsets, np.array(offsets))


def test_real_text_is_found_at_its_offsets(both, real_texts):
    ours = both("uncased json").ours
    for text, encoding in zip(real_texts[:500], ours(real_texts[:500], return_offsets=True), strict=True):
        words = [text[start:stop] for start, stop in encoding.offsets[1:-1].tolist()]
        assert all(words)
        tokens = ours.convert_ids_to_tokens(encoding.input_ids[1:-1])
        plain = [(word, token) for word, token in zip(words, tokens, strict=True) if word.isascii()]
        assert all(token in ("[UNK]", word.lower(), f"##{word.lower()}") for word, token in plain)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("strategy", [True, *STRATEGIES[:2]])
@pytest.mark.parametrize("max_length", [3, 4, 5, 8, 13, 64])
def test_single_texts_are_cut_as_by_the_reference(both, strategy, side, max_length):
    pair = both("uncased json")
    expected = pair.expect(TEXTS, side=side, truncation=strategy, max_length=max_length)
    found = pair.ours(TEXTS, truncation=strategy, truncation_side=side, max_length=max_length, return_offsets=True)
    assert_same(found, expected)
    whole = pair.ours(TEXTS)
    assert [cut.truncated for cut in found] == [len(full) > max_length for full in whole]


def truncate_one(pair: Both, texts: tuple[str, str], strategy: str, side: str, max_length: int) -> None:
    first, second = texts
    options = {"truncation": strategy, "max_length": max_length}
    try:
        expected = pair.expect([first], [second], side=side, **options)
    except Exception:  # the binding raises plain Exception when a text is too short to be cut
        with pytest.raises(RowError, match=f"^text 0: truncation {strategy} would leave nothing of it"):
            pair.ours(first, second, truncation_side=side, **options)
        return
    assert_same([pair.ours(first, second, truncation_side=side, return_offsets=True, **options)], expected)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("max_length", [4, 5, 6, 9, 10, 17, 40])
def test_pairs_are_cut_as_by_the_reference(both, strategy, side, max_length):
    for texts in PAIRS:
        truncate_one(both("cased"), texts, strategy, side, max_length)


@settings(max_examples=120, deadline=None)
@given(
    texts=st.tuples(FUZZED, FUZZED),
    strategy=st.sampled_from(STRATEGIES),
    side=st.sampled_from(SIDES),
    max_length=st.integers(4, 30),
)
def test_fuzzed_pairs_are_cut_as_by_the_reference(both, texts, strategy, side, max_length):
    truncate_one(both("uncased json"), texts, strategy, side, max_length)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("max_length", "stride"), [(12, 0), (12, 4), (12, 9), (30, 7), (512, 0)])
def test_windows_of_single_texts_are_those_of_the_reference(both, side, max_length, stride):
    pair = both("uncased json")
    expected = pair.expect(
        TEXTS, side=side, truncation=True, max_length=max_length, stride=stride, return_overflowing_tokens=True
    )
    found = pair.ours.windows(TEXTS, max_length=max_length, stride=stride, truncation_side=side, return_offsets=True)
    flat = [window for windows in found for window in windows]
    assert [window.text for window in flat] == expected["overflow_to_sample_mapping"]
    assert_same(flat, expected)
    assert all(window.truncated == (len(windows) > 1) for windows in found for window in windows)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize(("max_length", "stride"), [(40, 0), (40, 5), (64, 16)])
def test_windows_of_pairs_are_those_of_the_reference(both, strategy, side, max_length, stride):
    pair = both("uncased json")
    short, long = ["who is it?", "", "what"], [" ".join(SENTENCES), "fits", SENTENCES[0] * 9]
    texts, pairs = (short, long) if strategy == "only_second" else (long, short)
    expected = pair.expect(
        texts,
        pairs,
        side=side,
        truncation=strategy,
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
    )
    found = pair.ours.windows(
        texts,
        pairs,
        max_length=max_length,
        stride=stride,
        truncation=strategy,
        truncation_side=side,
        return_offsets=True,
    )
    assert_same([window for windows in found for window in windows], expected)
    assert [len(windows) > 1 for windows in found] == [True, False, True]


@settings(max_examples=60, deadline=None)
@given(text=FUZZED, max_length=st.integers(3, 20), stride=st.integers(0, 17), side=st.sampled_from(SIDES))
def test_windows_cover_every_token_with_the_overlap_asked_for(both, text, max_length, stride, side):
    ours = both("cased").ours
    room = max_length - 2
    whole = ours(text).input_ids[1:-1].tolist()
    if stride >= room:
        if len(whole) > room:
            with pytest.raises(ConfigError, match=r"^stride; expected 0 to"):
                ours.windows([text], max_length=max_length, stride=stride)
        return
    (windows,) = ours.windows([text], max_length=max_length, stride=stride, truncation_side=side)
    parts = [window.input_ids[1:-1].tolist() for window in windows]
    parts = parts if side == "right" else parts[::-1]
    assert all(len(part) <= room for part in parts)
    joined = parts[0]
    for part in parts[1:]:
        if side == "right":
            assert joined[len(joined) - stride :] == part[:stride]
            joined = joined + part[stride:]
        else:
            overlap = stride if len(joined) >= stride else len(joined)
            assert joined[len(joined) - overlap :] == part[:overlap]
            joined = joined + part[overlap:]
    assert joined == whole


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("padding", [True, "longest", "max_length"])
def test_padding_equals_the_reference(folders, tmp_path, padding, side):
    folder = tmp_path / side
    shutil.copytree(folders["cased"], folder)
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    write_json(folder / "tokenizer_config.json", config | {"padding_side": side})
    pair = Both(folder)
    options = {"padding": padding, "truncation": True, "max_length": 24}
    assert_same(pair.ours(TEXTS, return_offsets=True, **options), pair.expect(TEXTS, **options))
    assert_same(
        pair.ours(TEXTS, TEXTS[::-1], return_offsets=True, **options), pair.expect(TEXTS, TEXTS[::-1], **options)
    )
    assert len({len(encoding) for encoding in pair.ours(TEXTS, padding=padding)}) == 1


def test_one_text_gives_one_encoding_and_many_a_list(both):
    ours = both("uncased json").ours
    one = ours("hello world")
    assert isinstance(one, Encoding)
    assert one.input_ids.dtype == np.int64
    assert one.offsets is None
    (listed,) = ours(["hello world"])
    assert listed.input_ids.tolist() == one.input_ids.tolist() == [101, 7592, 2088, 102]
    assert (len(one), one.text, one.truncated) == (4, 0, False)
    assert ours("who", "me").input_ids.tolist() == [101, 2040, 102, 2033, 102]
    assert ours([]) == []
    assert [encoding.text for encoding in ours(("a", "b", "c"))] == [0, 1, 2]


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_of_pairs_is_one_as_in_the_reference(both, kind):
    pair = both("uncased json")
    pairs = [kind(texts) for texts in PAIRS]
    options = {"truncation": True, "max_length": 16}
    assert_same(pair.ours(pairs, return_offsets=True, **options), pair.expect(pairs, **options))
    assert pair.ours([kind(("who", "me"))])[0].sequence_ids.tolist() == [-1, 0, -1, 1, -1]
    long = [kind(("who is it?", " ".join(SENTENCES))), kind(("what", "fits"))]
    options = {"max_length": 40, "truncation": "only_second", "stride": 4}
    found = [window for windows in pair.ours.windows(long, return_offsets=True, **options) for window in windows]
    assert_same(found, pair.expect(long, return_overflowing_tokens=True, **options))
    assert len(found) > 2


@pytest.mark.parametrize(
    ("texts", "pairs", "message"),
    [
        ([["a", "b", "c"]], None, "text 0; expected a string, or pairs of strings in all places; found list ['a', "),
        (["a b", ["c", "d"]], None, "text 1; expected a string, or pairs of strings in all places; found list ['c', "),
        ([("a", None)], None, "text 0; expected a string, or pairs of strings in all places; found NoneType None"),
        (["a", 5], None, "text 1; expected a string, or pairs of strings in all places; found int 5"),
        (None, None, "text 0; expected a string, or pairs of strings in all places; found NoneType None"),
        ([("a", "b")], ["c"], "text 0; expected a string, or pairs of strings in all places; found tuple ('a', 'b')"),
        (["a"], [None], "text 0; expected a string, or pairs of strings in all places; found NoneType None"),
    ],
    ids=str,
)
def test_what_is_neither_text_nor_pair_is_refused(both, texts, pairs, message):
    ours = both("uncased json").ours
    for call in (ours, lambda *groups: ours.windows(*groups, max_length=9)):
        with pytest.raises(ConfigError) as caught:
            call(texts, pairs)
        assert str(caught.value).startswith(message)


def test_an_empty_second_text_still_is_one(both):
    assert both("uncased json").ours("who", "").input_ids.tolist() == [101, 2040, 102, 102]


def test_settings_stored_in_tokenizer_json_do_not_pad_or_cut(both):
    stored = json.loads((MINILM / "tokenizer.json").read_text("utf-8"))
    assert stored["padding"]["strategy"] == {"Fixed": 128}
    assert stored["truncation"]["max_length"] == 128
    ours = both("uncased json").ours
    assert len(ours("a")) == 3
    assert len(ours("a " * 1000)) == 1002


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("clean", [None, False, True])
@pytest.mark.parametrize("name", ["uncased json", "cased"])
def test_decoding_equals_the_reference(both, name, skip, clean):
    pair = both(name)
    options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
    for encoding in pair.ours(TEXTS + [f"{a} [MASK] {b}" for a, b in PAIRS[:20]]):
        ids = encoding.input_ids
        assert pair.ours.decode(ids, **options) == pair.reference.decode(ids.tolist(), **options)
        assert pair.ours.convert_ids_to_tokens(ids) == pair.reference.convert_ids_to_tokens(ids.tolist())


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.integers(0, 30_521), max_size=20), skip=st.booleans(), clean=st.booleans())
def test_any_ids_decode_as_by_the_reference(both, ids, skip, clean):
    pair = both("uncased json")
    options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
    assert pair.ours.decode(ids, **options) == pair.reference.decode(ids, **options)


def test_a_checkpoint_can_ask_for_clean_text(tmp_path):
    folder = copy_minilm(tmp_path, "tokenizer.json")
    write_json(folder / "tokenizer_config.json", {"clean_up_tokenization_spaces": True})
    pair = Both(folder)
    ids = pair.ours("it ' s a test : isn ' t it ?").input_ids
    assert pair.ours.decode(ids) == pair.reference.decode(ids.tolist())
    assert pair.ours.decode(ids) != pair.ours.decode(ids, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", NAMES)
def test_the_vocabulary_is_that_of_the_reference(both, name):
    pair = both(name)
    assert pair.ours.vocab_size == pair.reference.vocab_size
    assert len(pair.ours) == len(pair.reference)
    assert pair.ours.get_vocab() == pair.reference.get_vocab()
    for role in ("unk", "cls", "sep", "pad", "mask"):
        assert getattr(pair.ours, f"{role}_token_id") == getattr(pair.reference, f"{role}_token_id")
    tokens = ["hello", "##s", "[MASK]", "no such token", "狐"]
    assert pair.ours.convert_tokens_to_ids(tokens) == pair.reference.convert_tokens_to_ids(tokens)
    assert pair.ours.convert_ids_to_tokens([10**6]) == [None]
    assert pair.ours.tokenize(SENTENCES[0]) == pair.reference.tokenize(SENTENCES[0])


def test_one_token_or_id_gives_one(both):
    pair = both("uncased json")
    for token in ("red", "##s", "no such token"):
        index = pair.ours.convert_tokens_to_ids(token)
        assert index == pair.reference.convert_tokens_to_ids(token)
        for one in (index, np.int64(index)):
            assert pair.ours.convert_ids_to_tokens(one) == pair.reference.convert_ids_to_tokens(index)
            assert pair.ours.decode(one) == pair.reference.decode(index)
    assert pair.ours.convert_ids_to_tokens(10**6) is None


@pytest.mark.parametrize("options", [{"truncation": "do_not_truncate", "max_length": 4}, {"padding": "do_not_pad"}])
def test_doing_nothing_has_the_references_names(both, options):
    pair = both("uncased json")
    assert_same(pair.ours(TEXTS, return_offsets=True, **options), pair.expect(TEXTS, **options))


def test_a_length_alone_cuts_nothing(both):
    # Where the reference cuts, and warns that it was not told to.
    assert len(both("uncased json").ours("a b c d", max_length=4)) == 6


def added(content: str, *, special: bool = False, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": not special}
    return {"content": content, "special": special, **plain, **flags}


WITH_ADDED = ["one <new> two", "<NEW>x[X]  y", "a two words b", "[SPEC] [ SPEC ]", "x <|m|> y", "anova nova new", *ODD]
ADDED = ["<new>", "[X]", "two words", "nova", "[SPEC]", "<|m|>"]
BASE = [token for token in vocabulary_of([*SENTENCES, *WITH_ADDED]) if token not in ADDED]
NEXT = len(BASE)
ADDED_FILES = {
    "decoder": {
        "tokenizer_config.json": {
            "do_lower_case": True,
            "added_tokens_decoder": {
                **{str(i): added(token, special=True) for i, token in enumerate(SPECIALS)},
                str(NEXT): added("<new>"),
                str(NEXT + 1): added("[X]", special=True, lstrip=True, rstrip=True),
                str(NEXT + 2): added("two words", normalized=False),
                str(NEXT + 3): added("nova", single_word=True),
            },
            "mask_token": "[MASK]",
        }
    },
    "legacy": {
        "added_tokens.json": {"<new>": NEXT, "[SPEC]": NEXT + 1},
        "special_tokens_map.json": {"unk_token": "[UNK]", "mask_token": "[SPEC]"},
        "tokenizer_config.json": {"do_lower_case": True},
    },
    "mapped mask": {
        "special_tokens_map.json": {
            "mask_token": {
                "content": "<|m|>",
                "lstrip": True,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
            },
            "sep_token": {
                "content": "[SEP]",
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "single_word": False,
            },
        },
        "tokenizer_config.json": {"do_lower_case": False},
    },
    "additional": {
        "tokenizer_config.json": {"do_lower_case": False, "additional_special_tokens": ["<new>", "two words"]}
    },
    "typed": {
        "tokenizer_config.json": {
            "do_lower_case": False,
            "unk_token": {"__type": "AddedToken", **added("[UNK]", special=True)},
            "pad_token": {"__type": "AddedToken", **added("[PAD]", special=True)},
        }
    },
    "bos and eos": {
        "tokenizer_config.json": {
            "do_lower_case": True,
            "bos_token": "<new>",
            "eos_token": {"__type": "AddedToken", **added("<|m|>", special=True)},
        }
    },
    "other names": {
        "tokenizer_config.json": {"cls_token": "new", "sep_token": "x", "pad_token": "y", "unk_token": "one"}
    },
}


@pytest.mark.parametrize("kind", list(ADDED_FILES))
def test_added_and_special_tokens_are_those_of_the_reference(tmp_path, kind):
    folder = write_vocab(tmp_path / "a", BASE)
    for name, content in ADDED_FILES[kind].items():
        write_json(folder / name, content)
    pair = Both(folder)
    assert_same(pair.ours(WITH_ADDED, return_offsets=True), pair.expect(WITH_ADDED))
    assert_same(pair.ours(WITH_ADDED, WITH_ADDED, return_offsets=True), pair.expect(WITH_ADDED, WITH_ADDED))
    assert len(pair.ours) == len(pair.reference)
    for role in ("unk", "cls", "sep", "pad", "mask"):
        assert getattr(pair.ours, f"{role}_token_id") == getattr(pair.reference, f"{role}_token_id")
    for encoding in pair.ours(WITH_ADDED):
        ids = encoding.input_ids.tolist()
        for skip in (False, True):
            ours = pair.ours.decode(ids, skip_special_tokens=skip)
            assert ours == pair.reference.decode(ids, skip_special_tokens=skip)
    # And again from what we write, by us and by the reference.
    pair.ours.save_pretrained(tmp_path / "b")
    again = Both(tmp_path / "b")
    assert_same(again.ours(WITH_ADDED, return_offsets=True), pair.expect(WITH_ADDED))
    assert_same(again.ours(WITH_ADDED, return_offsets=True), again.expect(WITH_ADDED))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_loads_as_the_same_tokenizer_here_and_in_the_reference(both, tmp_path, name):
    pair = both(name)
    pair.ours.save_pretrained(tmp_path / "new" / "folder")
    again = Both(tmp_path / "new" / "folder")
    assert_same(again.ours(TEXTS, TEXTS[::-1], return_offsets=True), pair.expect(TEXTS, TEXTS[::-1]))
    assert_same(again.ours(TEXTS, return_offsets=True), again.expect(TEXTS))
    assert again.ours.max_length == pair.ours.max_length


def test_saving_keeps_keys_that_we_do_not_know(tmp_path):
    folder = write_vocab(tmp_path / "a", BASE, never_heard="of it", do_lower_case=False, model_max_length=77)
    DistilBertTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "b")
    config = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text("utf-8"))
    assert config["never_heard"] == "of it"
    assert config["do_lower_case"] is False
    assert config["model_max_length"] == 77
    assert config["tokenizer_class"] == "DistilBertTokenizer"


def test_saving_where_nothing_can_be_written_is_our_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    ours = DistilBertTokenizer.from_pretrained(MINILM)
    with pytest.raises(SetupError, match="cannot write a tokenizer to"):
        ours.save_pretrained(tmp_path / "file" / "folder")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, ["hello", "uber"]),  # as stored in tokenizer.json
        ({"do_lower_case": True}, ["hello", "uber"]),
        ({"do_lower_case": False}, ["[UNK]", "[UNK]"]),
        ({"do_lower_case": True, "strip_accents": False}, ["hello", "über"]),
        ({"strip_accents": None}, ["hello", "uber"]),
    ],
    ids=str,
)
def test_options_that_are_spelled_out_win_over_tokenizer_json(tmp_path, config, expected):
    folder = copy_minilm(tmp_path, "tokenizer.json")
    if config is not None:
        write_json(folder / "tokenizer_config.json", config)
    tokens = DistilBertTokenizer.from_pretrained(folder).tokenize("Hello Über")
    assert tokens == reference_of(folder).tokenize("Hello Über")
    assert tokens[0] == expected[0]
    assert (tokens[1] == "uber") == (expected[1] == "uber")


def test_flags_of_a_token_beside_tokenizer_json_win_over_those_in_it(tmp_path):
    folder = copy_minilm(tmp_path, "tokenizer.json")
    stored = json.loads((folder / "tokenizer.json").read_text("utf-8"))["added_tokens"]
    decoder = {str(token["id"]): {key: token[key] for key in token if key != "id"} for token in stored}
    decoder["103"]["lstrip"] = True
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "added_tokens_decoder": decoder})
    pair = Both(folder)
    texts = ["a  [MASK] b", *ODD]
    assert_same(pair.ours(texts, return_offsets=True), pair.expect(texts))
    assert pair.ours("a  [MASK] b", return_offsets=True).offsets.tolist()[2] == [1, 9]  # with the blanks before it


def test_a_cased_tokenizer_json_stays_cased_when_nothing_else_is_said(tmp_path):
    write_vocab(tmp_path / "a", BASE, do_lower_case=False)
    DistilBertTokenizer.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    (tmp_path / "b" / "tokenizer_config.json").unlink()
    assert DistilBertTokenizer.from_pretrained(tmp_path / "b").tokenize("The fox") == ["The", "fox"]


@pytest.mark.parametrize("stored", [512, 512.0, 1e30, None, 0])
def test_the_checkpoints_limit_is_used_where_it_is_one(tmp_path, stored):
    folder = copy_minilm(tmp_path, "vocab.txt")
    write_json(folder / "tokenizer_config.json", {"model_max_length": stored})
    ours = DistilBertTokenizer.from_pretrained(folder)
    if stored == 512:
        assert ours.max_length == 512
        assert len(ours("a " * 600, truncation=True)) == len(ours("a", padding="max_length")) == 512
    else:
        assert ours.max_length is None
        with pytest.raises(ConfigError, match=r"^max_length; expected a number: the checkpoint has no"):
            ours("a", truncation=True)


def test_sides_are_the_checkpoints_unless_the_call_says_otherwise(tmp_path):
    folder = copy_minilm(tmp_path, "vocab.txt")
    write_json(folder / "tokenizer_config.json", {"truncation_side": "left"})
    ours = DistilBertTokenizer.from_pretrained(folder)
    assert ours.decode(ours("a b c", truncation=True, max_length=4).input_ids) == "[CLS] b c [SEP]"
    cut = ours("a b c", truncation=True, max_length=4, truncation_side="right")
    assert ours.decode(cut.input_ids) == "[CLS] a b [SEP]"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("a",),
            {"truncation": "shortest"},
            "truncation; expected longest_first or only_first or only_second or do_not_",
        ),
        (("a",), {"truncation": "only_second", "max_length": 9}, "truncation only_second; expected text pairs; found"),
        (("a",), {"truncation": True, "max_length": 2}, "max_length is too small; expected at least 3; found 2"),
        (("a", "b"), {"truncation": True, "max_length": 3}, "max_length is too small; expected at least 4; found 3"),
        (("a",), {"truncation_side": "up"}, "truncation_side; expected right or left; found 'up'"),
        (("a",), {"padding": "some"}, "padding; expected longest or max_length or do_not_pad; found 'some'"),
        ((["a", "b"], ["c"]), {}, "text_pair; expected one string for one string, or as many as there are texts; "),
        (("a", ["c"]), {}, "found a string and a sequence of 1"),
        ((["a"], "c"), {}, "found a sequence of 1 and a string"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_together_are_refused(both, arguments, options, message):
    with pytest.raises(ConfigError) as caught:
        both("vocab alone").ours(*arguments, **options)
    assert message in str(caught.value)


def test_windows_need_one_text_to_cut(both):
    ours = both("uncased json").ours
    with pytest.raises(ConfigError, match="truncation of windows; expected only_first or only_second; found 'longest"):
        ours.windows(["a"], ["b"], max_length=9, truncation="longest_first")
    with pytest.raises(ConfigError, match="truncation only_second; expected text pairs"):
        ours.windows(["a"], max_length=9, truncation="only_second")
    with pytest.raises(RowError, match=r"^text 1: truncation only_second would leave nothing of it"):
        ours.windows(["a", "b " * 20], ["c", "d"], max_length=9, truncation="only_second")


def test_padding_needs_a_token_to_pad_with(tmp_path):
    tokens = [token for token in BASE if token != "[PAD]"]
    ours = DistilBertTokenizer.from_pretrained(write_vocab(tmp_path, tokens))
    assert ours.pad_token_id is None
    with pytest.raises(ConfigError, match=r"^padding; expected a \[PAD\] token in the vocabulary; found none$"):
        ours(["a", "b c"], padding=True)


def test_threads_that_share_a_tokenizer_get_their_own_answers(both):
    ours = both("uncased json").ours
    calls = [
        {"truncation": strategy, "max_length": length, "truncation_side": side}
        for strategy in (True, "only_first")
        for length in (5, 9, 30)
        for side in SIDES
    ]

    def call(options: dict[str, Any]) -> list[list[int]]:
        return [encoding.input_ids.tolist() for encoding in ours(TEXTS, **options)]

    expected = [call(options) for options in calls]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, calls * 5)) == expected * 5


def test_cutting_two_huge_texts_takes_no_longer_than_reading_them(both):
    ours = both("uncased json").ours
    text = " ".join(islice(SENTENCES * 400, 4000))  # 100,000 tokens
    start = time.process_time()
    whole = len(ours(text, text))
    middle = time.process_time()
    assert len(ours(text, text, truncation=True, max_length=512)) == 512
    assert whole > 100_000
    assert time.process_time() - middle < 2 * (middle - start) + 0.5
