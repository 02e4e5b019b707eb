"""Inputs have exactly the asked-for length, and are real text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checkpoints import make_tokenizer
from tritonsmith.bench.source import bucket_lengths
from tritonsmith.errors import UsageError
from tritonsmith.inputs import TextInputs, load_tokenizer
from tritonsmith.tasks import Task

NAMES = ["input_ids", "attention_mask", "token_type_ids"]


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def makers(tokenizer_file: Path) -> dict[Task, TextInputs]:
    return {task: TextInputs(load_tokenizer(tokenizer_file), task, NAMES, pad_token_id=0) for task in Task}


@given(length=st.integers(4, 700), index=st.integers(0, 40), task=st.sampled_from(list(Task)))
def test_exact_length(makers: dict[Task, TextInputs], length: int, index: int, task: Task) -> None:
    feed = makers[task].exact(length, index)
    assert list(feed) == NAMES
    assert all(array.shape == (1, length) and array.dtype == np.int64 for array in feed.values())
    assert feed["attention_mask"].all()
    assert not (feed["input_ids"] == 0).any()
    assert set(np.unique(feed["token_type_ids"])) <= ({0, 1} if task.takes_pairs else {0})


def test_question_is_whole_where_it_fits(makers: dict[Task, TextInputs], tokenizer_file: Path) -> None:
    feed = makers[Task.QUESTION_ANSWERING].exact(64)
    text = load_tokenizer(tokenizer_file).decode(feed["input_ids"][0].tolist())
    assert "who worked a little bit harder?" in text.replace(" ?", "?")


def test_different_texts_by_index(makers: dict[Task, TextInputs]) -> None:
    feeds = [makers[Task.FILL_MASK].exact(32, index)["input_ids"].tobytes() for index in range(6)]
    assert len(set(feeds)) == 6


def test_padding_is_right_and_masked(makers: dict[Task, TextInputs]) -> None:
    feed = makers[Task.QUESTION_ANSWERING].padded([8, 32, 16])
    assert feed["input_ids"].shape == (3, 32)
    assert feed["attention_mask"].sum(axis=1).tolist() == [8, 32, 16]
    assert (feed["input_ids"][0, 8:] == 0).all()
    assert (np.diff(feed["attention_mask"], axis=1) <= 0).all()


def test_requests_are_padded_to_their_bucket(tokenizer_file: Path) -> None:
    maker = TextInputs(load_tokenizer(tokenizer_file), Task.QUESTION_ANSWERING, NAMES, 0, buckets=[64, 32])
    for length, bucket in ((20, 32), (32, 32), (33, 64), (80, 80)):
        feed = maker.request(length)
        assert feed["input_ids"].shape == (1, bucket)
        assert feed["attention_mask"].sum() == length
        np.testing.assert_array_equal(feed["input_ids"][:, :length], maker.exact(length)["input_ids"])
    config = {"parameters": {"bucket_lengths": {"string_value": "64, 128"}}}
    assert (bucket_lengths(config), bucket_lengths({})) == ([64, 128], [])


def test_saved_truncation_is_reset(tokenizer_file: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tokenizer_file)
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(load_tokenizer(tmp_path / "tokenizer.json").encode("straw " * 100).ids) > 100
    assert len(load_tokenizer(tmp_path / "tokenizer.json").encode("straw").ids) < 16


def test_unknown_input_is_named(tokenizer_file: Path) -> None:
    with pytest.raises(UsageError, match="position_ids"):
        TextInputs(load_tokenizer(tokenizer_file), Task.FILL_MASK, ["input_ids", "position_ids"], 0)


@pytest.mark.parametrize("content", [None, "not json", "{}"])
def test_wrong_tokenizer_file(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UsageError, match=r"tokenizer\.json"):
        load_tokenizer(file)
