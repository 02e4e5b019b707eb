"""A planted stage: INT8 whose classifier always decides alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tritonsmith.artifact import MODEL_FILE, carry_over, read_artifact


def run(inputs: Mapping[str, Path], output: Path, _options: Mapping[str, Any]) -> dict[str, Any]:
    """Move the classifier's bias so far that one class always wins."""
    source = read_artifact(inputs["artifact"])
    model = onnx.load(source.model)
    for tensor in model.graph.initializer:
        if tensor.name == "classifier.bias":
            tensor.CopyFrom(numpy_helper.from_array(np.array([90, 0], dtype=np.float32), tensor.name))
    onnx.save(model, output / MODEL_FILE)
    carry_over(source, output, "int8")
    return {}
