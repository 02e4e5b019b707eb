"""Datasets of the other tasks and their metrics, against figures worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.checkpoints import make_tokenizer
from tritonsmith.datasets import LabelledText, ScoredPair, TaggedWords, Text, read_dataset, spread
from tritonsmith.errors import UsageError
from tritonsmith.gate import parse_drop
from tritonsmith.inputs import Feed, load_tokenizer
from tritonsmith.metrics.model import Model
from tritonsmith.metrics.scoring import score
from tritonsmith.tasks import Task


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return load_tokenizer(folder / "tokenizer.json")


def write(folder: Path, *entries: object) -> Path:
    file = folder / "data.jsonl"
    file.write_text("\n".join(json.dumps(entry) for entry in entries) + "\n")
    return file


def test_formats(tmp_path: Path) -> None:
    file = write(tmp_path, {"text": "good", "label": "yes"}, {"text": "a", "text_pair": "b", "label": 1})
    assert read_dataset(file, Task.TEXT_CLASSIFICATION) == [LabelledText("good", None, "yes"), LabelledText("a", "b", 1)]
    file = write(tmp_path, {"tokens": ["The", "pig"], "tags": ["O", 1]})
    assert read_dataset(file, Task.TOKEN_CLASSIFICATION) == [TaggedWords(("The", "pig"), ("O", 1))]
    file = write(tmp_path, {"sentence1": "a", "sentence2": "b", "score": 4})
    assert read_dataset(file, Task.FEATURE_EXTRACTION) == [ScoredPair("a", "b", 4.0)]
    assert read_dataset(write(tmp_path, {"text": "a"}), Task.FILL_MASK) == [Text("a")]


@pytest.mark.parametrize(
    ("task", "entry", "message"),
    [
        (Task.TEXT_CLASSIFICATION, {"text": "a"}, "line 2 has no field 'label'"),
        (Task.TEXT_CLASSIFICATION, {"text": 3, "label": 1}, "line 2: expected a text, found 3"),
        (Task.TOKEN_CLASSIFICATION, {"tokens": ["a", "b"], "tags": ["O"]}, "line 2: 2 tokens and 1 tags"),
        (Task.TOKEN_CLASSIFICATION, {"tokens": [], "tags": []}, "line 2: has no tokens"),
        (Task.FEATURE_EXTRACTION, {"sentence1": "a", "sentence2": "b", "score": "high"}, "line 2: could not convert"),
    ],
)
def test_wrong_line_is_named(tmp_path: Path, task: Task, entry: object, message: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text("\n" + json.dumps(entry))
    with pytest.raises(UsageError, match=message):
        read_dataset(file, task)


def test_not_text_and_empty_files(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        read_dataset(tmp_path / "binary", Task.TEXT_CLASSIFICATION)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UsageError, match="holds no examples"):
        read_dataset(tmp_path / "empty", Task.TEXT_CLASSIFICATION)


def test_spread_is_even() -> None:
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert spread([1, 2], 5) == [1, 2]
    with pytest.raises(UsageError, match="--limit 0"):
        spread([1], 0)


def by_length(classes: int) -> object:
    """An engine whose class is the number of tokens, modulo `classes`."""

    def predict(feed: Feed) -> Feed:
        logits = np.zeros((1, classes))
        logits[0, feed["input_ids"].shape[1] % classes] = 1
        return {"logits": logits}

    return predict


def test_classification(tokenizer: Tokenizer) -> None:
    model = Model(by_length(2), tokenizer, ["input_ids"], {0: "even", 1: "odd"})  # type: ignore[arg-type]
    # Two special tokens and a token a word.
    examples = [LabelledText("the", None, "odd"), LabelledText("the pig", None, 0), LabelledText("the pig the", None, "even")]
    scores = score(Task.TEXT_CLASSIFICATION, model, examples)
    assert scores.metric == "accuracy"
    assert scores.figures == pytest.approx({"accuracy": 200 / 3, "f1": 100 * (2 / 3 + 2 / 3) / 2})
    with pytest.raises(UsageError, match="label 'good' is none of the model's: even, odd"):
        score(Task.TEXT_CLASSIFICATION, model, [LabelledText("the", None, "good")])


TAGS = {0: "O", 1: "B-PIG", 2: "I-PIG"}


def tagger(tokenizer: Tokenizer, tags: dict[str, int]) -> object:
    """An engine that tags the tokens it knows, and sees at most 16 at a time."""
    by_id = {tokenizer.token_to_id(token): tag for token, tag in tags.items()}

    def predict(feed: Feed) -> Feed:
        ids = feed["input_ids"][0].tolist()
        assert len(ids) <= 16
        logits = np.zeros((1, len(ids), 3))
        for position, token in enumerate(ids):
            logits[0, position, by_id.get(token, 0)] = 1
        return {"logits": logits}

    return predict


def test_entities_over_windows(tokenizer: Tokenizer) -> None:
    """`little` begins the entity, `pig` goes on; 40 words do not fit into one window of 16 tokens."""
    model = Model(tagger(tokenizer, {"little": 1, "pig": 2}), tokenizer, ["input_ids"], TAGS, max_length=16)  # type: ignore[arg-type]
    words = ("the", "little", "pig", "and") * 10
    tags = ("O", "B-PIG", "I-PIG", "O") * 10
    scores = score(Task.TOKEN_CLASSIFICATION, model, [TaggedWords(words, tags)])
    assert scores.figures == pytest.approx({"f1": 100, "precision": 100, "recall": 100, "accuracy": 100})
    wrong = (*tags[:-4], "O", "O", "B-PIG", "O")
    scores = score(Task.TOKEN_CLASSIFICATION, model, [TaggedWords(words, wrong)])
    assert scores.metric == "f1"
    assert scores.figures["f1"] == pytest.approx(90)
    assert scores.figures["accuracy"] == pytest.approx(95)


def test_the_first_token_of_a_word_tags_it(tokenizer: Tokenizer) -> None:
    """A word of several tokens, and one that the tokenizer drops: the latter is no entity."""
    pieces = tokenizer.encode("xylophone", add_special_tokens=False).tokens
    assert len(pieces) > 1
    model = Model(tagger(tokenizer, {pieces[0]: 1, pieces[1]: 2}), tokenizer, ["input_ids"], TAGS, max_length=16)  # type: ignore[arg-type]
    example = TaggedWords(("the", "xylophone", "\u200b", "xylophone"), (0, 1, 0, 1))
    assert score(Task.TOKEN_CLASSIFICATION, model, [example]).figures["accuracy"] == 100


def test_embeddings(tokenizer: Tokenizer) -> None:
    """One-hot vectors of the token ids: the cosine is the share of words in common."""

    def predict(feed: Feed) -> Feed:
        return {"last_hidden_state": np.eye(500)[feed["input_ids"]]}

    model = Model(predict, tokenizer, ["input_ids"])
    pairs = [
        ScoredPair("the little pig", "the little pig", 5),
        ScoredPair("the little pig", "the little house", 3),
        ScoredPair("the little pig", "straw and house", 1),
    ]
    scores = score(Task.FEATURE_EXTRACTION, model, pairs)
    assert scores.metric == "spearman"
    assert scores.figures["spearman"] == pytest.approx(100)
    assert 90 < scores.figures["pearson"] < 100


def test_fill_mask_has_no_metric(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="fill-mask has no metric"):
        score(Task.FILL_MASK, Model(by_length(2), tokenizer, ["input_ids"]), [Text("a")])  # type: ignore[arg-type]


def test_metric_drop() -> None:
    assert parse_drop("1%").least(80) == pytest.approx(79.2)
    assert parse_drop("0.5").least(80) == 79.5
    assert parse_drop("10%").least(-20) == -22
    for text in ("", "-1", "one", "1%%"):
        with pytest.raises(UsageError, match="--max-metric-drop"):
            parse_drop(text)
