"""The embedded runtime's `onnxruntime` backend: a Triton Python-based backend on pip's onnxruntime.

It serves the same repository as the NGC container's C++ backend, so it reads the same config.pbtxt keys and refuses what that
one refuses. Source: the onnxruntime_backend README (parameters, graph level).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime
from common import Backend, Feed, first_line, integer, model_path, read_config

ALLOW_SPINNING = "TRITONSMITH_ORT_ALLOW_SPINNING"
"""Environment variable: 1 lets ORT's threads spin between two operators; the C++ backend has no parameter for it."""

_TRITON_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
}
_GRAPH_LEVELS = {
    "": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "0": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "-1": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "1": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "2": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


class TritonPythonModel:
    """One instance of a model: an ONNX Runtime session."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the model; raising here is Triton's way to say that it cannot be loaded."""
        config, parameters = read_config(args)
        path = model_path(args, config, "model.onnx")
        _check_accelerators(config)
        options, run_options = _session_options(config, parameters)
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise RuntimeError(f"ONNX Runtime cannot load {path.name}: {first_line(error)}") from None
        names = [entry["name"] for entry in config["output"]]

        def run(feed: Feed) -> list[Any]:
            outputs: list[Any] = session.run(names, feed, run_options)
            return outputs

        self._backend = Backend(config, _tensors(session.get_inputs()), _tensors(session.get_outputs()), run)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer requests in their order."""
        responses: list[Any] = self._backend.execute(requests)
        return responses


def _check_accelerators(config: Mapping[str, Any]) -> None:
    """Refuse what the C++ backend refuses of a CPU instance; OpenVINO's answers are this provider's, in another time."""
    accelerators = config.get("optimization", {}).get("execution_accelerators", {}).get("cpu_execution_accelerator", [])
    for accelerator in accelerators:
        if accelerator["name"] != "openvino":
            raise RuntimeError(f"unknown cpu_execution_accelerator {accelerator['name']!r}: expected openvino")


def _tensors(nodes: Sequence[Any]) -> dict[str, tuple[str, list[int]]]:
    return {
        node.name: (_TRITON_TYPES.get(node.type, node.type), [dim if isinstance(dim, int) else -1 for dim in node.shape])
        for node in nodes
    }


def _session_options(config: Mapping[str, Any], parameters: Mapping[str, str]) -> tuple[Any, Any]:
    options = onnxruntime.SessionOptions()
    level = str(config.get("optimization", {}).get("graph", {}).get("level", ""))
    options.graph_optimization_level = _GRAPH_LEVELS.get(level, _GRAPH_LEVELS[""])
    options.intra_op_num_threads = integer(parameters, "intra_op_thread_count")
    options.inter_op_num_threads = integer(parameters, "inter_op_thread_count")
    mode = integer(parameters, "execution_mode")
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


def _switch(parameters: Mapping[str, str], key: str, default: bool) -> bool:
    value = parameters.get(key, "1" if default else "0").lower()
    if value not in ("0", "1", "true", "false"):
        raise RuntimeError(f"parameter {key}: expected 0 or 1, found {value!r}")
    return value in ("1", "true")
