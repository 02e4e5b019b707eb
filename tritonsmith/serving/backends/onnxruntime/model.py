"""The embedded runtime's `onnxruntime` backend: a Triton Python-based backend on pip's onnxruntime.

It serves the same repository as the NGC container's C++ backend, so it reads the same config.pbtxt keys and refuses what that
one refuses. Sources: the onnxruntime_backend README (parameters, graph level) and the python_backend README (this interface).
The file is copied into a backend folder of its own and runs in the embedded environment: it imports nothing of tritonsmith.
"""

from __future__ import annotations

import collections
import gc
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import triton_python_backend_utils as pb_utils

ALLOW_SPINNING = "TRITONSMITH_ORT_ALLOW_SPINNING"
"""Environment variable: 1 lets ORT's threads spin between two operators; the C++ backend has no parameter for it."""

Feed = dict[str, npt.NDArray[Any]]

_ONNX_TYPES = {
    "TYPE_BOOL": "tensor(bool)",
    "TYPE_INT32": "tensor(int32)",
    "TYPE_INT64": "tensor(int64)",
    "TYPE_FP16": "tensor(float16)",
    "TYPE_FP32": "tensor(float)",
    "TYPE_FP64": "tensor(double)",
}
_GRAPH_LEVELS = {
    "": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "0": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "-1": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "1": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "2": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
# What a request's content can cause: ids out of range are InvalidArgument, too long a sequence or inputs of unequal length
# make an operator fail to broadcast.
_CLIENT_ERRORS = ("INVALID_ARGUMENT", "broadcast", "out of bounds", "out of data bounds", "dimension", "shape")


class TritonPythonModel:
    """One instance of a model: an ONNX Runtime session."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model; raising here is Triton's way to say that it cannot be loaded."""
        if int(np.__version__.partition(".")[0]) >= 2:
            raise RuntimeError(f"numpy {np.__version__} gives this backend wrong inputs; it needs numpy < 2")
        config = json.loads(args["model_config"])
        path = _model_path(args, config)
        options, self._run_options = _session_options(config)
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise RuntimeError(f"ONNX Runtime cannot load {path.name}: {_first_line(error)}") from None
        _check_tensors("input", config["input"], self._session.get_inputs(), config["max_batch_size"])
        _check_tensors("output", config["output"], self._session.get_outputs(), config["max_batch_size"])
        required = {tensor.name for tensor in self._session.get_inputs()} - {entry["name"] for entry in config["input"]}
        if required:
            raise RuntimeError(f"config.pbtxt lacks the graph's input {sorted(required)[0]}")
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        self._batches = config["max_batch_size"] > 0
        # What is alive now stays alive; the collector need not walk it between two requests.
        gc.collect()
        gc.freeze()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests in their order; those of equal shapes run as one batch."""
        feeds = [self._feed(request) for request in requests]
        if len(feeds) == 1:
            return [self._answer(feeds[0])]
        responses: list[Any] = [None] * len(requests)
        for indices in self._groups(feeds):
            merged = self._answer_merged([feeds[index] for index in indices])
            for index, response in zip(indices, merged, strict=True):
                responses[index] = response
        return responses

    def _feed(self, request: Any) -> Feed:
        tensors = {tensor.name(): tensor for tensor in request.inputs()}
        return {name: tensors[name].as_numpy() for name in self._inputs}

    def _groups(self, feeds: Sequence[Feed]) -> Iterable[list[int]]:
        """Yield the positions of feeds that can run together: of equal shapes but for the batch dimension."""
        groups: dict[object, list[int]] = collections.defaultdict(list)
        for index, feed in enumerate(feeds):
            key: object = tuple(array.shape[1:] for array in feed.values()) if self._batches else index
            groups[key].append(index)
        return groups.values()

    def _answer(self, feed: Feed) -> Any:
        try:
            return self._response(self._session.run(self._outputs, feed, self._run_options))
        except Exception as error:
            return pb_utils.InferenceResponse(error=_triton_error(error))

    def _answer_merged(self, feeds: Sequence[Feed]) -> list[Any]:
        if len(feeds) == 1:
            return [self._answer(feeds[0])]
        try:
            merged = {name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs}
            outputs = self._session.run(self._outputs, merged, self._run_options)
        except Exception:
            # One bad request must not fail its batch mates: each answers for itself.
            return [self._answer(feed) for feed in feeds]
        sizes = [next(iter(feed.values())).shape[0] for feed in feeds]
        starts = np.cumsum([0, *sizes])
        return [
            self._response([output[start : start + size] for output in outputs])
            for start, size in zip(starts[:-1], sizes, strict=True)
        ]

    def _response(self, outputs: Sequence[npt.NDArray[Any]]) -> Any:
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, output) for name, output in zip(self._outputs, outputs, strict=True)]
        )


def _model_path(args: Mapping[str, str], config: Mapping[str, Any]) -> Path:
    """Return the ONNX file inside the version folder; a name that leads out of the folder is refused."""
    name = config.get("default_model_filename") or "model.onnx"
    folder = Path(args["model_repository"], args["model_version"]).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise RuntimeError(f"default_model_filename {name} leads out of the version folder")
    if not path.is_file():
        raise RuntimeError(f"unable to find {name} in version {args['model_version']} of {args['model_name']}")
    return path


def _session_options(config: Mapping[str, Any]) -> tuple[Any, Any]:
    parameters = {key: entry["string_value"] for key, entry in config.get("parameters", {}).items()}
    options = onnxruntime.SessionOptions()
    level = str(config.get("optimization", {}).get("graph", {}).get("level", ""))
    options.graph_optimization_level = _GRAPH_LEVELS.get(level, _GRAPH_LEVELS[""])
    options.intra_op_num_threads = _integer(parameters, "intra_op_thread_count")
    options.inter_op_num_threads = _integer(parameters, "inter_op_thread_count")
    mode = _integer(parameters, "execution_mode")
    if mode not in (0, 1):
        raise RuntimeError(f"parameter execution_mode: expected 0 or 1, found {mode}")
    options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL if mode else onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = _switch(parameters, "enable_mem_arena", True)
    options.enable_mem_pattern = _switch(parameters, "enable_mem_pattern", True)
    allocator = "session.use_device_allocator_for_initializers"
    if allocator in parameters:
        options.add_session_config_entry(allocator, parameters[allocator])
    options.add_session_config_entry("session.intra_op.allow_spinning", os.environ.get(ALLOW_SPINNING, "0"))
    shrinkage = "memory.enable_memory_arena_shrinkage"
    run_options = None
    if parameters.get(shrinkage):
        run_options = onnxruntime.RunOptions()
        run_options.add_run_config_entry(shrinkage, parameters[shrinkage])
    return options, run_options


def _integer(parameters: Mapping[str, str], key: str) -> int:
    value = parameters.get(key, "0")
    try:
        return int(value)
    except ValueError:
        raise RuntimeError(f"parameter {key}: expected a whole number, found {value!r}") from None


def _switch(parameters: Mapping[str, str], key: str, default: bool) -> bool:
    value = parameters.get(key, "1" if default else "0").lower()
    if value not in ("0", "1", "true", "false"):
        raise RuntimeError(f"parameter {key}: expected 0 or 1, found {value!r}")
    return value in ("1", "true")


def _check_tensors(side: str, entries: Sequence[Any], graph: Sequence[Any], max_batch_size: int) -> None:
    """Refuse what the C++ backend refuses: names, types and dims that the graph does not have."""
    known = {tensor.name: tensor for tensor in graph}
    for entry in entries:
        name = entry["name"]
        if name not in known:
            raise RuntimeError(f"unexpected {side} '{name}': the graph has {', '.join(sorted(known))}")
        tensor = known[name]
        if _ONNX_TYPES.get(entry["data_type"]) != tensor.type:
            raise RuntimeError(f"{side} '{name}': config.pbtxt says {entry['data_type']}, the graph {tensor.type}")
        dims = [int(dim) for dim in (entry.get("reshape") or {}).get("shape", entry["dims"])]
        expected = [dim if isinstance(dim, int) else -1 for dim in tensor.shape]
        if max_batch_size > 0:
            if expected and expected[0] not in (-1,):
                raise RuntimeError(f"{side} '{name}': the graph's batch dimension is fixed at {expected[0]}, so no batching")
            dims = [-1, *dims]
        agrees = len(dims) == len(expected) and all(want in (-1, have) for have, want in zip(dims, expected, strict=True))
        if not agrees:
            raise RuntimeError(f"{side} '{name}': config.pbtxt gives the shape {dims}, the graph {expected}")


def _triton_error(error: Exception) -> Any:
    message = str(error)
    status = pb_utils.TritonError.INTERNAL
    if any(sign in message for sign in _CLIENT_ERRORS):
        status = pb_utils.TritonError.INVALID_ARG
    return pb_utils.TritonError(_first_line(error), status)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
