"""The engines that answer a feed: a served model, an artifact in ONNX Runtime, the checkpoint in PyTorch."""

from __future__ import annotations

import inspect
from pathlib import Path

from tritonsmith.artifact import read_artifact
from tritonsmith.client import Client
from tritonsmith.inputs import Feed
from tritonsmith.metrics.extractive import Predictor
from tritonsmith.tasks import Task


def triton_predictor(client: Client, model: str) -> Predictor:
    """Return a predictor that asks a served model."""

    def predict(feed: Feed) -> Feed:
        return client.infer(model, feed)

    return predict


def onnx_predictor(path: Path, threads: int) -> Predictor:
    """Return an artifact in ONNX Runtime on the CPU."""
    import onnxruntime

    artifact = read_artifact(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(artifact.model, options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in artifact.outputs]

    def predict(feed: Feed) -> Feed:
        return dict(zip(names, session.run(names, feed), strict=True))

    return predict


def pytorch_predictor(path: Path, task: Task, threads: int | None = None, bfloat16: bool = False) -> Predictor:
    """Return a checkpoint in PyTorch eager; inputs that the model does not take are left out.

    Args:
        path: the checkpoint's folder.
        task: the head to load.
        threads: for the whole process; None leaves them as they are.
        bfloat16: weights and arithmetic in BF16 instead of FP32.
    """
    import torch

    from tritonsmith.stages.loading import load_model

    if threads is not None:
        torch.set_num_threads(threads)
    model = load_model(path, task, trust_remote_code=False)
    accepted = inspect.signature(model.forward).parameters
    if bfloat16:
        model = model.to(torch.bfloat16)

    def predict(feed: Feed) -> Feed:
        with torch.inference_mode():
            output = model(**{name: torch.from_numpy(value) for name, value in feed.items() if name in accepted})
        return {name: value.float().numpy() for name, value in output.items() if torch.is_tensor(value)}

    return predict
