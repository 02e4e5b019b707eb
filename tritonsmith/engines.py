"""The engines that answer a feed: a served model, an artifact in its own runtime on the CPU, the checkpoint in PyTorch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tritonsmith.artifact import Artifact, read_artifact
from tritonsmith.errors import StageError
from tritonsmith.inputs import Feed
from tritonsmith.tasks import Task

if TYPE_CHECKING:
    from tritonsmith.client import Client

Predictor = Callable[[Feed], Feed]
"""Answers a feed, arrays [batch, sequence] by input name, with arrays [batch, ...] by output name."""


def triton_predictor(client: Client, model: str) -> Predictor:
    """Return a predictor that asks a served model."""

    def predict(feed: Feed) -> Feed:
        return client.infer(model, feed)

    return predict


def artifact_predictor(path: Path, threads: int = 0) -> Predictor:
    """Return the artifact in `path` in the runtime that serves it, on the CPU, as the embedded Triton runs it.

    Args:
        path: the artifact's folder.
        threads: of one inference; 0: every core.

    Raises:
        StageError: the runtime does not load the model.
    """
    artifact = read_artifact(path)
    load = _openvino if artifact.backend == "openvino" else _onnxruntime
    try:
        return load(artifact, threads)
    except Exception as error:  # neither runtime's exceptions have a public base class
        reason = str(error).strip().splitlines()[0]
        raise StageError(
            f"{artifact.model.name}: {artifact.backend} does not load the {artifact.precision} model: {reason}"
        ) from error


def _onnxruntime(artifact: Artifact, threads: int) -> Predictor:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(artifact.model, options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in artifact.outputs]

    def predict(feed: Feed) -> Feed:
        return dict(zip(names, session.run(names, feed), strict=True))

    return predict


def _openvino(artifact: Artifact, threads: int) -> Predictor:
    import openvino

    core = openvino.Core()
    properties: dict[str, object] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    properties["INFERENCE_PRECISION_HINT"] = openvino_precision()
    if threads:
        properties["INFERENCE_NUM_THREADS"] = threads
    request = core.compile_model(core.read_model(artifact.model), "CPU", properties).create_infer_request()
    names = [spec.name for spec in artifact.outputs]

    def predict(feed: Feed) -> Feed:
        request.infer(feed, share_inputs=True)
        # The request writes its next answer to the same memory.
        return {name: np.array(request.get_tensor(name).data) for name in names}

    return predict


def openvino_precision() -> str:
    """Return the precision of what is not quantised: bf16 where the processor computes in it, else f32."""
    import openvino

    return "bf16" if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def pytorch_predictor(
    path: Path, task: Task, threads: int | None = None, bfloat16: bool = False, compiled: bool = False
) -> Predictor:
    """Return a checkpoint in PyTorch eager; inputs that the model does not take are left out.

    Args:
        path: the checkpoint's folder.
        task: the head to load.
        threads: for the whole process; None leaves them as they are.
        bfloat16: weights and arithmetic in BF16 instead of FP32.
        compiled: by torch.compile, for any length; its compiler runs at the first answers.
    """
    import torch

    from tritonsmith.stages.loading import load_model

    if threads is not None:
        torch.set_num_threads(threads)
    model = load_model(path, task, trust_remote_code=False)
    accepted = inspect.signature(model.forward).parameters
    if bfloat16:
        model = model.to(torch.bfloat16)
    if compiled:
        model = torch.compile(model, dynamic=True)

    def predict(feed: Feed) -> Feed:
        with torch.inference_mode():
            output = model(**{name: torch.from_numpy(value) for name, value in feed.items() if name in accepted})
        return {name: value.float().numpy() for name, value in output.items() if torch.is_tensor(value)}

    return predict
