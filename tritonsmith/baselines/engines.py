"""The baselines' engines: PyTorch eager, ONNX Runtime as anyone calls it, and ONNX Runtime with IOBinding."""

from __future__ import annotations

import collections
import functools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tritonsmith.artifact import read_artifact
from tritonsmith.checkpoint import resolve
from tritonsmith.engines import artifact_predictor, pytorch_predictor
from tritonsmith.errors import UsageError
from tritonsmith.inputs import Feed
from tritonsmith.jobs import JobRunner
from tritonsmith.metrics.model import Model
from tritonsmith.paths import cache_folder
from tritonsmith.tasks import Task

ENGINES = ("pytorch", "onnxruntime", "onnxruntime-iobinding")
_SHAPES_KEPT = 16


@dataclass(frozen=True)
class Served:
    """What a baseline serves."""

    engine: str
    source: str
    task: Task
    model: Model

    @functools.cached_property
    def vocabulary(self) -> int:
        """How many token ids there are; to ask the tokenizer takes milliseconds."""
        return int(self.model.tokenizer.get_vocab_size())


def load(engine: str, checkpoint: str | None, artifact: Path | None, threads: int) -> Served:
    """Return the engine with its model: `pytorch` takes a checkpoint, the others an artifact (a version folder is one).

    Args:
        engine: one of ENGINES.
        checkpoint: demo, a local folder, or a hub id.
        artifact: a stage's folder in the cache, or a version folder of a repository.
        threads: of one inference; 0: every core.

    Raises:
        UsageError: an unknown engine, or not what it takes.
        TritonsmithError: the model cannot be loaded.
    """
    if engine not in ENGINES:
        raise UsageError(f"--engine {engine}: unknown; expected one of {', '.join(ENGINES)}")
    if threads < 0:
        raise UsageError(f"--threads {threads}: expected 0 (every core) or more")
    if engine == "pytorch":
        if checkpoint is None or artifact is not None:
            raise UsageError("--engine pytorch: takes --checkpoint, and no --artifact")
        resolved = resolve(checkpoint, JobRunner(cache_folder()))
        predict = pytorch_predictor(resolved.path, resolved.task, threads or None)
        return Served(engine, checkpoint, resolved.task, Model.of_checkpoint(resolved, predict))
    if artifact is None or checkpoint is not None:
        raise UsageError(f"--engine {engine}: takes --artifact, and no --checkpoint")
    if not artifact.is_dir():
        raise UsageError(f"--artifact {artifact}: no such folder")
    found = read_artifact(artifact)
    if found.backend != "onnxruntime":
        raise UsageError(f"--artifact {artifact}: is for {found.backend}; expected one with a model.onnx")
    predict = artifact_predictor(artifact, threads) if engine == "onnxruntime" else BoundSession(found.model, threads)
    return Served(engine, str(artifact), found.task, Model.of_artifact(found, predict))


class BoundSession:
    """An ONNX Runtime session whose inputs and outputs live in buffers on the device that are used again by shape."""

    def __init__(self, path: Path, threads: int = 0) -> None:
        """Load the model: on the GPU where ONNX Runtime has one, else on the CPU."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [provider for provider in wanted if provider in onnxruntime.get_available_providers()]
        self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        self.device = "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        self._names = [node.name for node in self._session.get_outputs()]
        self._bindings: collections.OrderedDict[tuple[tuple[int, ...], ...], _Binding] = collections.OrderedDict()
        # One set of buffers serves one request at a time.
        self._lock = threading.Lock()

    def __call__(self, feed: Feed) -> Feed:
        """Return the outputs [batch, ...] by name."""
        key = tuple(array.shape for array in feed.values())
        with self._lock:
            binding = self._bindings.get(key)
            if binding is None:
                binding = self._bindings[key] = self._bind(feed)
                if len(self._bindings) > _SHAPES_KEPT:
                    self._bindings.popitem(last=False)
            self._bindings.move_to_end(key)
            for name, array in feed.items():
                binding.inputs[name].update_inplace(np.ascontiguousarray(array))
            self._session.run_with_iobinding(binding.binding)
            # The next request of this shape writes to the same memory.
            return {name: np.array(value.numpy()) for name, value in binding.outputs.items()}

    def _bind(self, feed: Feed) -> _Binding:
        """Bind buffers for the feed's shapes; the outputs' shapes are those that a first run gives."""
        import onnxruntime

        first = self._session.io_binding()
        for name, array in feed.items():
            first.bind_cpu_input(name, np.ascontiguousarray(array))
        for name in self._names:
            first.bind_output(name, self.device)
        self._session.run_with_iobinding(first)
        outputs = dict(zip(self._names, first.get_outputs(), strict=True))
        binding = self._session.io_binding()
        # On a CPU the value shares the array's memory, and the caller's must not be written to.
        inputs = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array.copy(), self.device) for name, array in feed.items()}
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return _Binding(binding, inputs, outputs)


@dataclass(frozen=True)
class _Binding:
    binding: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]
