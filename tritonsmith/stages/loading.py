"""Loads a checkpoint with PyTorch for the stages that need it, and refuses one whose task head is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tritonsmith.errors import CheckpointError
from tritonsmith.stages.layers import COMPACT_KEY, resize
from tritonsmith.tasks import Task


def load_model(path: Path, task: Task, trust_remote_code: bool) -> Any:
    """Return the checkpoint's model for `task`, in eval mode and FP32.

    transformers fills weights that a checkpoint lacks with random numbers and only logs it; here that is an error.

    Raises:
        CheckpointError: weights are missing, unreadable or of another shape, or the architecture has no such head.
    """
    import transformers

    auto_class = getattr(transformers, task.auto_class)
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    if COMPACT_KEY in config:
        return _load_compacted(path, auto_class, config[COMPACT_KEY])
    try:
        model, info = auto_class.from_pretrained(
            path, use_safetensors=True, trust_remote_code=trust_remote_code, dtype="float32", output_loading_info=True
        )
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be loaded for {task}: {str(error).strip().splitlines()[0]}") from error
    missing = [name for name in sorted(info["missing_keys"]) if not _unused(name, task)]
    if missing:
        raise CheckpointError(
            f"{path}: has no weights for {', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}, "
            f"so a {task} model of it would answer at random; choose the task that it was trained for"
        )
    if info["mismatched_keys"]:
        raise CheckpointError(f"{path}: weights of another shape than config.json says: {info['mismatched_keys'][0]}")
    return model.eval()


def _load_compacted(path: Path, auto_class: Any, layers: list[dict[str, int]]) -> Any:
    """Load what the compact stage wrote: transformers knows one FFN width for all layers, so the shapes are made here."""
    import transformers
    from safetensors.torch import load_file

    model = auto_class.from_config(transformers.AutoConfig.from_pretrained(path))
    resize(model, layers)
    weights: dict[str, Any] = {}
    for file in path.glob("*.safetensors"):
        weights |= load_file(file)
    outcome = model.load_state_dict(weights, strict=False)
    # Tied weights are saved once.
    missing = set(outcome.missing_keys) - set(getattr(model, "_tied_weights_keys", None) or ())
    if missing or outcome.unexpected_keys:
        raise CheckpointError(f"{path}: compacted weights do not fit: {sorted(missing | set(outcome.unexpected_keys))[0]}")
    model.tie_weights()
    return model.eval()


def load_tokenizer(path: Path, trust_remote_code: bool) -> Any:
    """Return the checkpoint's fast tokenizer.

    Raises:
        CheckpointError: it has none.
    """
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, use_fast=True, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise CheckpointError(f"{path}: its tokenizer cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    if not tokenizer.is_fast:
        raise CheckpointError(f"{path}: its tokenizer has no fast version (tokenizer.json), which serving needs")
    return tokenizer


def _unused(name: str, task: Task) -> bool:
    """A pooler's output is not exported for embeddings, so its weights may be missing."""
    return task is Task.FEATURE_EXTRACTION and ".pooler." in f".{name}"
