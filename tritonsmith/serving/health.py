"""Health by real inference: Triton's own readiness stays true when a model's process has died."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from tritonsmith.client import Client
from tritonsmith.errors import ServerError, TritonsmithError
from tritonsmith.inputs import Feed

_NUMPY_TYPES = {
    "TYPE_INT64": np.int64,
    "TYPE_INT32": np.int32,
    "TYPE_FP32": np.float32,
    "TYPE_FP16": np.float16,
    "TYPE_FP64": np.float64,
    "TYPE_BOOL": np.bool_,
}
_PROBE_LENGTH = 8
"""Tokens in a probe: every dynamic dimension but the batch's gets this size."""


def probe(config: dict[str, Any]) -> Feed:
    """Return a small valid request for a model, from its configuration alone.

    Token ids and masks are 1, token types 0: valid for every vocabulary.

    Raises:
        ServerError: an input of a type that no probe can be made for.
    """
    batched = int(config.get("max_batch_size", 0)) > 0
    feed: Feed = {}
    for entry in config["input"]:
        dims = [int(dim) for dim in entry["dims"]]
        shape = [_PROBE_LENGTH if dim < 0 else dim for dim in dims]
        if batched:
            shape = [1, *shape]
        elif dims[0] < 0:
            shape[0] = 1
        if entry["data_type"] not in _NUMPY_TYPES:
            raise ServerError(f"{config['name']}: no probe can be made for an input of {entry['data_type']}")
        value = 0 if entry["name"] == "token_type_ids" else 1
        feed[entry["name"]] = np.full(shape, value, dtype=_NUMPY_TYPES[entry["data_type"]])
    return feed


def check_model(client: Client, model: str) -> None:
    """Ask the model one real question.

    Raises:
        ServerError: it is not there, refuses or does not answer in time.
    """
    try:
        answer = client.infer(model, probe(client.config(model)))
    except TritonsmithError as error:
        raise ServerError(f"{model}: {error}") from error
    if not answer or any(array is None or not array.size for array in answer.values()):
        raise ServerError(f"{model}: answered without content")


def wait_until_ready(
    client: Client, timeout_s: float, is_alive: Callable[[], bool], is_cancelled: Callable[[], bool]
) -> list[str]:
    """Wait for the server, then for one real answer of every model; return the models' names.

    Args:
        client: of the starting server.
        timeout_s: how long to wait for the server to be up, seconds.
        is_alive: whether the server's process still runs; waiting ends when it does not.
        is_cancelled: whether nobody waits any longer; no model is asked then.

    Raises:
        ServerError: the process ended, the time is over, a model failed to load (with Triton's reason) or does not answer.
    """
    deadline = time.monotonic() + timeout_s
    while not client.ready():
        if is_cancelled():
            return []
        if not is_alive():
            raise ServerError("tritonserver ended while it was starting")
        _raise_load_failures(client)
        if time.monotonic() > deadline:
            raise ServerError(f"tritonserver was not ready after {timeout_s:.0f} s")
        time.sleep(0.1)
    _raise_load_failures(client)
    models = client.served_models()
    for model in models:
        check_model(client, model)
    return models


def _raise_load_failures(client: Client) -> None:
    try:
        entries = client.models()
    except ServerError:
        return
    for entry in entries:
        if entry.get("state") == "UNAVAILABLE" and entry.get("reason") not in (None, "", "unloaded"):
            reason = " ".join(str(entry["reason"]).split())
            raise ServerError(f"{entry['name']} version {entry.get('version', '?')} does not load: {reason}")
