"""A stage's output folder: the model (ONNX or OpenVINO IR), the tokenizer, config.json, and `meta.json` about them."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritonsmith.errors import StageError
from tritonsmith.tasks import Task

MODEL_FILE = "model.onnx"
IR_FILE = "model.xml"
"""OpenVINO's Intermediate Representation; its weights lie beside it in model.bin."""
MODEL_FILES = {"onnxruntime": MODEL_FILE, "openvino": IR_FILE}
"""What Triton's backends load by default, by their names."""
MESSAGE_LIMIT = 2**31 - 2**20
"""Bytes that a protobuf message can hold, less some room."""
_EXTERNAL_BYTES = 1024
"""Smaller tensors stay in the message: shape inference reads them there."""
META_FILE = "meta.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
CARRIED_FILES = (*TOKENIZER_FILES, "config.json")
"""What a stage that only changes the graph hands on as it is."""

# Triton's names without the TYPE_ prefix by ONNX's element types (onnx.TensorProto.DataType).
_DATA_TYPES = {1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "STRING", 9: "BOOL"}
_DATA_TYPES |= {10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16"}
_SERVED_TYPES = frozenset({"FP32", "INT32", "INT64", "BOOL", "FP16", "FP64"})


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph."""

    name: str
    data_type: str
    """Triton's name: INT64, FP32, ..."""
    dims: tuple[int, ...]
    """The shape, batch dimension first, -1 where it is dynamic."""


@dataclass(frozen=True)
class Artifact:
    """What one stage made, read from its folder."""

    path: Path
    task: Task
    model_type: str
    max_length: int
    pad_token_id: int
    precision: str
    backend: str
    """The Triton backend that serves it: onnxruntime or openvino."""
    opset: int | None
    """Of the ONNX operators; None for an OpenVINO IR, as `ir_version`."""
    ir_version: int | None
    labels: tuple[str, ...]
    """The names of a classifier's classes or tags by number; empty for other tasks."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def model(self) -> Path:
        """The file that the backend loads."""
        return self.path / MODEL_FILES[self.backend]

    @property
    def files(self) -> list[str]:
        """The names of the files that are published: the model, its external data if any, the tokenizer, meta.json."""
        names = sorted(file.name for file in self._model_files())
        return names + [name for name in (*TOKENIZER_FILES, META_FILE) if (self.path / name).is_file()]

    @property
    def size_bytes(self) -> int:
        """The size of the model on disk, external data included."""
        return sum(file.stat().st_size for file in self._model_files())

    def _model_files(self) -> list[Path]:
        stem = self.model.stem if self.backend == "openvino" else self.model.name
        return [file for file in self.path.iterdir() if file.name.startswith(stem)]


def read_artifact(path: Path) -> Artifact:
    """Read the artifact in the folder `path`.

    Raises:
        StageError: the folder is not an artifact.
    """
    try:
        meta = json.loads((path / META_FILE).read_text(encoding="utf-8"))
        inputs, outputs = (_read_specs(meta.pop(side)) for side in ("inputs", "outputs"))
        task, labels = Task(meta.pop("task")), tuple(meta.pop("labels"))
        return Artifact(path=path, task=task, labels=labels, inputs=inputs, outputs=outputs, **meta)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageError(f"{path}: not an artifact: {error}") from error


def save_model(model: Any, folder: Path) -> None:
    """Save an ONNX model into an artifact's folder, its weights beside it where one protobuf message cannot hold them.

    onnx.save needs four times the model's size for that; here the weights go to the file one by one. The model is used up.
    """
    import onnx

    if sum(_tensor_bytes(tensor) for tensor in model.graph.initializer) > MESSAGE_LIMIT:
        name = f"{MODEL_FILE}.data"
        with (folder / name).open("wb") as file:
            for tensor in model.graph.initializer:
                if len(tensor.raw_data) >= _EXTERNAL_BYTES:
                    offset = file.tell()
                    length = file.write(tensor.raw_data)
                    onnx.external_data_helper.set_external_data(tensor, name, offset, length)
                    tensor.ClearField("raw_data")
    onnx.save(model, folder / MODEL_FILE)


def _tensor_bytes(tensor: Any) -> int:
    import onnx

    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(math.prod(tensor.dims) * itemsize)


def write_meta(path: Path, **fields: Any) -> None:
    """Describe the ONNX artifact in `path`: `fields` are those that the graph itself does not tell."""
    import onnx

    model = onnx.load(path / MODEL_FILE, load_external_data=False)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    document = {
        **fields,
        "backend": "onnxruntime",
        "opset": opset,
        "ir_version": model.ir_version,
        "inputs": [dataclasses.asdict(_served_spec(value)) for value in model.graph.input],
        "outputs": [dataclasses.asdict(_served_spec(value)) for value in model.graph.output],
    }
    _write(path, document)


def carry_over(source: Artifact, target: Path, precision: str) -> None:
    """Complete the folder `target`, whose model.onnx was made from `source`'s, to an artifact."""
    write_meta(target, **_carried(source, target, precision))


def carry_over_to_openvino(source: Artifact, target: Path, precision: str) -> None:
    """Complete the folder `target`, whose OpenVINO IR was made from `source`'s graph, to an artifact."""
    specs = {
        "inputs": [dataclasses.asdict(spec) for spec in source.inputs],
        "outputs": [dataclasses.asdict(spec) for spec in source.outputs],
    }
    fields = _carried(source, target, precision)
    _write(target, {**fields, "backend": "openvino", "opset": None, "ir_version": None, **specs})


def _carried(source: Artifact, target: Path, precision: str) -> dict[str, Any]:
    """Copy the files that stay as they are; return the fields that stay, and the precision."""
    for name in CARRIED_FILES:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, target / name)
    return {
        "task": source.task,
        "model_type": source.model_type,
        "max_length": source.max_length,
        "pad_token_id": source.pad_token_id,
        "labels": list(source.labels),
        "precision": precision,
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    (path / META_FILE).write_text(json.dumps(document, indent=2), encoding="utf-8")


def _read_specs(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(entry["name"], entry["data_type"], tuple(entry["dims"])) for entry in entries)


def read_spec(value: Any) -> TensorSpec:
    """Return an input or output of an ONNX graph (a ValueInfoProto); a type that Triton lacks keeps ONNX's number."""
    tensor = value.type.tensor_type
    dims = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return TensorSpec(value.name, _DATA_TYPES.get(tensor.elem_type, f"ONNX_{tensor.elem_type}"), dims)


def _served_spec(value: Any) -> TensorSpec:
    spec = read_spec(value)
    if spec.data_type not in _SERVED_TYPES:
        raise StageError(f"{MODEL_FILE}: tensor {spec.name} has the element type {spec.data_type}, which is not served")
    return spec
