"""The engines whose answers can be scored: a served model, and the PyTorch checkpoint itself."""

from __future__ import annotations

from tritonsmith.checkpoint import Checkpoint
from tritonsmith.client import Client
from tritonsmith.inputs import Feed
from tritonsmith.metrics.extractive import Predictor


def triton_predictor(client: Client, model: str) -> Predictor:
    """Return a predictor that asks a served model."""

    def predict(feed: Feed) -> Feed:
        return client.infer(model, feed)

    return predict


def pytorch_predictor(checkpoint: Checkpoint) -> tuple[Predictor, list[str]]:
    """Return a predictor that runs the checkpoint in PyTorch, FP32, and the input names that it takes."""
    import inspect

    import torch

    from tritonsmith.stages.loading import load_model

    model = load_model(checkpoint.path, checkpoint.task, checkpoint.trust_remote_code)
    accepted = inspect.signature(model.forward).parameters
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in accepted]

    def predict(feed: Feed) -> Feed:
        with torch.inference_mode():
            output = model(**{name: torch.from_numpy(value) for name, value in feed.items()})
        return {"start_logits": output.start_logits.numpy(), "end_logits": output.end_logits.numpy()}

    return predict, names
