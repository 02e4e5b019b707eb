"""footprint: a process that loads an engine and answers one text; what it peaks at is what serving the engine takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.artifact import read_artifact
from tritonsmith.engines import artifact_predictor, pytorch_predictor
from tritonsmith.inputs import TextInputs, load_tokenizer


def run(inputs: Mapping[str, Path], _output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Answer a text of `options["length"]` tokens with `inputs["artifact"]`, or with `inputs["checkpoint"]` in PyTorch.

    Options:
        length: in tokens; bfloat16: of a checkpoint.
    """
    artifact = read_artifact(inputs["artifact"])
    names = [spec.name for spec in artifact.inputs]
    texts = TextInputs(load_tokenizer(artifact.path / "tokenizer.json"), artifact.task, names, artifact.pad_token_id)
    if "checkpoint" in inputs:
        predict = pytorch_predictor(inputs["checkpoint"], artifact.task, bfloat16=bool(options["bfloat16"]))
    else:
        predict = artifact_predictor(inputs["artifact"])
    predict(texts.exact(int(options["length"])))
    return {}
