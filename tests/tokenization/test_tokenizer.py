"""Reading tokenizer files: what is damaged is named, and what merely looks odd is read as the reference does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizer_folders import (
    ODD,
    SENTENCES,
    SPECIALS,
    copy_minilm,
    reference_of,
    vocabulary_of,
    write_json,
    write_vocab,
)

from distilbatch.errors import CheckpointError
from distilbatch.tokenization.tokenizer import MIN_MAX_LENGTH, TOKENIZER_FILES, Template, load_tokenizer

TEXTS = [*SENTENCES, *ODD]
BASE = vocabulary_of(SENTENCES)
BERT = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}


def ids_of(folder: Path) -> list[list[int]]:
    return [encoding.ids for encoding in load_tokenizer(folder).encode_batch(TEXTS)]


def expected_of(folder: Path) -> list[list[int]]:
    return reference_of(folder)(TEXTS, verbose=False)["input_ids"]


def write_tokenizer_json(folder: Path, **parts: Any) -> Path:
    """A ``tokenizer.json`` with BERT's pipeline, save for the parts given."""
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: index for index, token in enumerate(BASE)}
    whole = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": False,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": None,
        "model": BERT | {"vocab": vocab},
    }
    write_json(folder / "tokenizer.json", whole | parts)
    return folder


def test_tokenizer_json_and_vocab_txt_of_one_checkpoint_give_the_same_ids(folders):
    assert ids_of(folders["uncased json"]) == ids_of(folders["uncased vocab"]) == ids_of(folders["vocab alone"])


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("tail", ["", "\n", "\n\n \n"], ids=["no end", "end", "blank lines"])
def test_line_ends_of_a_vocabulary_do_not_matter(tmp_path, newline, tail):
    folder = write_vocab(tmp_path / "odd", BASE)
    (folder / "vocab.txt").write_bytes((newline.join(BASE) + tail.replace("\n", newline)).encode())
    assert ids_of(folder) == ids_of(write_vocab(tmp_path / "plain", BASE)) == expected_of(folder)


def test_the_last_of_two_equal_lines_counts_and_empty_lines_take_an_id(tmp_path):
    tokens = [*BASE[:40], "", *BASE[40:], "fox", "The", "quick"]
    folder = write_vocab(tmp_path, tokens)
    write_json(folder / "tokenizer_config.json", {"do_lower_case": False})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.token_to_id("fox") == len(tokens) - 3
    assert tokenizer.token_to_id(BASE[40]) == 41
    assert ids_of(folder) == expected_of(folder)


def test_what_a_tokenizer_json_leaves_out_is_filled_in(tmp_path):
    tokenizer = load_tokenizer(write_tokenizer_json(tmp_path))
    encoding = tokenizer.encode("The fox", "jump")
    assert encoding.tokens == ["[CLS]", "The", "fox", "[SEP]", "jump", "[SEP]"]
    assert tokenizer.decode(encoding.ids) == "The fox jump"
    assert tokenizer.encode("[MASK]").tokens == ["[CLS]", "[MASK]", "[SEP]"]


@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "TokenizersBackend", "DistilBertTokenizer", None])
def test_beside_a_generic_class_tokenizer_json_alone_counts(tmp_path, name):
    folder = copy_minilm(tmp_path, "tokenizer.json")
    settings = {"do_lower_case": False, "strip_accents": False}
    write_json(folder / "tokenizer_config.json", settings | ({"tokenizer_class": name} if name else {}))
    write_json(folder / "config.json", {"model_type": "distilbert"})
    reference = transformers.AutoTokenizer.from_pretrained(str(folder))
    assert ids_of(folder) == reference(TEXTS, verbose=False)["input_ids"]
    lowered = load_tokenizer(folder).encode("Fox").tokens == load_tokenizer(folder).encode("fox").tokens
    assert lowered == (name in {"PreTrainedTokenizerFast", "TokenizersBackend"})


def test_the_stored_padding_and_truncation_are_off(tmp_path):
    folder = copy_minilm(tmp_path, "tokenizer.json")
    stored = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    assert stored["padding"]["strategy"] == {"Fixed": 128}
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.padding, tokenizer.truncation) == (None, None)
    assert len(tokenizer.encode("a").ids) == MIN_MAX_LENGTH


def test_every_file_that_decides_about_ids_is_listed(folders):
    assert {path.name for path in folders["uncased json"].iterdir()} <= set(TOKENIZER_FILES)
    assert "added_tokens.json" in TOKENIZER_FILES


@pytest.mark.parametrize("pair", [False, True])
def test_the_special_tokens_around_texts_are_found(folders, pair):
    template = Template.of(load_tokenizer(folders["uncased json"]), pair=pair)
    assert template.before.tolist() == [101]
    assert template.between.tolist() == ([102] if pair else [])
    assert template.after.tolist() == [102]
    assert template.num_tokens == 2 + pair


def test_a_template_of_another_shape_is_found_too(tmp_path):
    special = {token: {"id": token, "ids": [index], "tokens": [token]} for index, token in enumerate(SPECIALS)}

    def order(*names: str) -> list[dict]:
        return [{"Sequence" if len(name) == 1 else "SpecialToken": {"id": name, "type_id": 0}} for name in names]

    processor = {
        "type": "TemplateProcessing",
        "single": order("A", "[SEP]", "[MASK]"),
        "pair": order("[CLS]", "[CLS]", "A", "[SEP]", "[PAD]", "B"),
        "special_tokens": special,
    }
    tokenizer = load_tokenizer(write_tokenizer_json(tmp_path, post_processor=processor))
    single, pair = Template.of(tokenizer, pair=False), Template.of(tokenizer, pair=True)
    assert [part.tolist() for part in (single.before, single.between, single.after)] == [[], [], [3, 4]]
    assert [part.tolist() for part in (pair.before, pair.between, pair.after)] == [[2, 2], [3, 0], []]


def test_a_folder_without_a_tokenizer_says_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: no tokenizer; expected tokenizer.json or vocab.txt; found neither; "
        "copy the tokenizer files of the checkpoint into the folder"
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'"text"', b"\xff\xfe", b'{"version": "9.9"}', b'{"model": {"type": "Other"}}'],
    ids=repr,
)
def test_a_damaged_tokenizer_json_is_named(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    (tmp_path / "vocab.txt").write_text("\n".join(BASE))  # no excuse: a damaged file is not silently passed over
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: (not a tokenizer file|cannot be read); found "):
        load_tokenizer(tmp_path)


def test_a_tokenizer_json_cut_off_in_the_middle_is_named(tmp_path):
    folder = copy_minilm(tmp_path, "tokenizer.json")
    data = (folder / "tokenizer.json").read_bytes()
    (folder / "tokenizer.json").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer file; found .*EOF"):
        load_tokenizer(folder)


def test_a_tokenizer_json_without_a_token_for_unknown_words_is_named(tmp_path):
    folder = write_tokenizer_json(tmp_path, model=BERT | {"vocab": {"[CLS]": 0, "[SEP]": 1, "b": 2}})
    with pytest.raises(CheckpointError, match=r"the token for unknown words is missing; expected \[UNK\]$"):
        load_tokenizer(folder)


def test_a_tokenizer_that_cannot_encode_a_letter_is_named(tmp_path):
    gone = {"type": "Replace", "pattern": {"Regex": "[a-z]"}, "content": ""}
    tokenizer = load_tokenizer(write_tokenizer_json(tmp_path, normalizer=gone))
    with pytest.raises(CheckpointError, match="the tokenizer does not work; expected a token for a letter; found none"):
        Template.of(tokenizer, pair=False)
    model = {"type": "WordLevel", "vocab": {"b": 0}, "unk_token": "[UNK]"}
    tokenizer = load_tokenizer(write_tokenizer_json(tmp_path, model=model))
    with pytest.raises(CheckpointError, match="the tokenizer does not work; found "):
        Template.of(tokenizer, pair=False)


@pytest.mark.parametrize("missing", ["[UNK]", "[CLS]", "[SEP]"])
def test_a_vocabulary_without_a_special_token_is_named(tmp_path, missing):
    folder = write_vocab(tmp_path, [token for token in BASE if token != missing])
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(folder)
    assert str(caught.value).startswith(
        f"{folder / 'vocab.txt'}: a special token is missing; expected {missing}; name the right one in "
    )


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe[UNK]\n"], ids=["empty", "blank", "UTF-16"])
def test_a_damaged_vocabulary_is_named(tmp_path, content):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"vocab\.txt: (a special token is missing|cannot be read)"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON; found "),
        (b"[1]", "wrong content; expected a mapping; found list"),
        (b"\xff", "cannot be read; found "),
        (b"[" * 100_000, "not JSON; found "),
    ],
    ids=["cut off", "list", "bytes", "deep"],
)
def test_a_damaged_file_of_options_is_named(tmp_path, name, content, message):
    folder = write_vocab(tmp_path, BASE)
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(folder)
    assert str(caught.value).startswith(f"{folder / name}: {message}")


DAMAGE = {
    "decoder is a list": ({"added_tokens_decoder": []}, "added_tokens_decoder: wrong content; expected a mapping"),
    "token without text": ({"added_tokens_decoder": {"7": {}}}, "token 7: wrong content; expected a token's text"),
    "id is a word": ({"added_tokens_decoder": {"x": "y"}}, "wrong id of an added token; expected a number; found 'x'"),
    "wrong id": (
        {"added_tokens_decoder": {"99999": "<new>"}},
        f"added token '<new>' does not belong to this vocabulary; expected id 99999, as stated beside it; "
        f"found id {len(BASE)}; fetch all tokenizer files of the checkpoint again",
    ),
    "another token's id": ({"added_tokens_decoder": {"7": "[CLS]"}}, "expected id 7, as stated beside it; found id 2"),
    "lower case is a word": ({"do_lower_case": "no"}, "do_lower_case: wrong content; expected true or false"),
    "accents are a number": ({"strip_accents": 1}, "strip_accents: wrong content; expected true or false; found 1"),
    "side": ({"padding_side": "top"}, "padding_side: wrong content; expected right or left; found 'top'"),
    "token is a number": ({"cls_token": 5}, "cls_token: wrong content; expected a token's text; found 5"),
    "more is a number": ({"extra_special_tokens": 5}, "additional_special_tokens; expected a list; found int"),
    "missing token": ({"sep_token": "<none>"}, "a special token is missing; expected <none>; name the right one"),
}


@pytest.mark.parametrize("kind", list(DAMAGE))
def test_damaged_options_are_named(tmp_path, kind):
    config, message = DAMAGE[kind]
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(write_vocab(tmp_path, BASE, **config))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)
