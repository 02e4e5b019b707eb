"""Where a benchmark's inputs come from: the tokenizer and the facts that were published beside the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.client import Client
from tritonsmith.errors import UsageError
from tritonsmith.inputs import TextInputs, load_tokenizer
from tritonsmith.repository.layout import ModelFolder
from tritonsmith.tasks import Task, parse_task


@dataclass(frozen=True)
class ServedModel:
    """What must be known of a served model to make inputs for it."""

    name: str
    task: Task
    tokenizer: Path
    pad_token_id: int
    max_length: int | None
    """The model's limit in tokens; None if it is not known here."""
    labels: tuple[str, ...] = ()
    """The names of a classifier's classes or tags by number."""

    def inputs(self, config: dict[str, Any]) -> TextInputs:
        """Return the maker of feeds, for the input names that the server's config gives."""
        names = [entry["name"] for entry in config["input"]]
        return TextInputs(load_tokenizer(self.tokenizer), self.task, names, self.pad_token_id, bucket_lengths(config))

    def check_lengths(self, lengths: list[int]) -> None:
        """Raise UsageError for a length that the model cannot take."""
        for length in lengths:
            if length < 4:
                raise UsageError(f"--sequence-lengths {length}: expected at least 4 tokens, special tokens included")
            if self.max_length is not None and length > self.max_length:
                raise UsageError(f"--sequence-lengths {length}: {self.name} takes at most {self.max_length} tokens")


def bucket_lengths(config: dict[str, Any]) -> list[int]:
    """Return the lengths that a model's requests are padded to, none if it is served as it comes."""
    text = config.get("parameters", {}).get("bucket_lengths", {}).get("string_value", "")
    return [int(part) for part in text.split(",") if part.strip()]


def find(client: Client, model: str, repository: Path, tokenizer: Path | None, task: str | None) -> ServedModel:
    """Return what is known of `model`: from its manifest in the repository, or from `tokenizer` and `task` alone.

    Raises:
        UsageError: neither a published tokenizer nor `--tokenizer`.
    """
    folder = ModelFolder(repository / model)
    served = [version for version in folder.versions if version in _served_versions(client, model)]
    manifest = folder.manifest(served[-1]) if served else None
    if tokenizer is not None:
        file = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
        guessed = task or (manifest or {}).get("task") or _task_of_outputs(client.config(model))
        limit = (manifest or {}).get("model_max_length")
        labels = tuple((manifest or {}).get("labels", ()))
        return ServedModel(model, parse_task(guessed), file, int((manifest or {}).get("pad_token_id", 0)), limit, labels)
    if manifest is None:
        raise UsageError(
            f"--repository {repository}: holds no published version of {model} that is served; "
            "pass the folder that the server serves, or --tokenizer with the model's tokenizer.json"
        )
    file = folder.version(served[-1]) / "tokenizer.json"
    labels = tuple(manifest["labels"])
    return ServedModel(model, Task(manifest["task"]), file, manifest["pad_token_id"], manifest["model_max_length"], labels)


def _served_versions(client: Client, model: str) -> set[int]:
    return {int(entry["version"]) for entry in client.statistics(model)}


def _task_of_outputs(config: dict[str, Any]) -> str:
    """A pair of texts is wanted where a span is answered; one text fits every other model."""
    names = {entry["name"] for entry in config["output"]}
    return Task.QUESTION_ANSWERING if {"start_logits", "end_logits"} <= names else Task.FEATURE_EXTRACTION
