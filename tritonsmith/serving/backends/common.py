"""What our Triton Python-based backends share: the model's file, the checks of its tensors, and the answering of requests.

The file is copied beside each backend's model.py and runs in the embedded environment: it imports nothing of tritonsmith.
Source of the interface: the python_backend README.
"""

from __future__ import annotations

import collections
import gc
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

Feed = dict[str, npt.NDArray[Any]]
Tensors = Mapping[str, tuple[str, list[int]]]
"""Triton's data type and the dims, -1 where dynamic, of a graph's inputs or outputs by name."""


class Backend:
    """A loaded model and how its requests are answered."""

    def __init__(self, config: Mapping[str, Any], inputs: Tensors, outputs: Tensors, run: Callable[[Feed], list[Any]]) -> None:
        """Hold config.pbtxt against the graph.

        Args:
            config: the model's configuration.
            inputs: the graph's.
            outputs: the graph's.
            run: answers a feed with the arrays of the config's outputs, in their order.
        """
        check_tensors("input", config["input"], inputs, config["max_batch_size"])
        check_tensors("output", config["output"], outputs, config["max_batch_size"])
        required = set(inputs) - {entry["name"] for entry in config["input"]}
        if required:
            raise RuntimeError(f"config.pbtxt lacks the graph's input {sorted(required)[0]}")
        self._inputs = [entry["name"] for entry in config["input"]]
        self._outputs = [entry["name"] for entry in config["output"]]
        self._batches = config["max_batch_size"] > 0
        self._run = run
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
            return self._response(self._run(feed))
        except Exception as error:
            return pb_utils.InferenceResponse(error=triton_error(error))

    def _answer_merged(self, feeds: Sequence[Feed]) -> list[Any]:
        if len(feeds) == 1:
            return [self._answer(feeds[0])]
        try:
            outputs = self._run({name: np.concatenate([feed[name] for feed in feeds]) for name in self._inputs})
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


def read_config(args: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the model's configuration and its parameters as strings."""
    if int(np.__version__.partition(".")[0]) >= 2:
        raise RuntimeError(f"numpy {np.__version__} gives this backend wrong inputs; it needs numpy < 2")
    config = json.loads(args["model_config"])
    return config, {key: entry["string_value"] for key, entry in config.get("parameters", {}).items()}


def model_path(args: Mapping[str, str], config: Mapping[str, Any], default: str) -> Path:
    """Return the model's file inside the version folder; a name that leads out of the folder is refused."""
    name = config.get("default_model_filename") or default
    folder = Path(args["model_repository"], args["model_version"]).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise RuntimeError(f"default_model_filename {name} leads out of the version folder")
    if not path.is_file():
        raise RuntimeError(f"unable to find {name} in version {args['model_version']} of {args['model_name']}")
    return path


def integer(parameters: Mapping[str, str], key: str) -> int:
    """Return a parameter that is a whole number, 0 if it is not given."""
    value = parameters.get(key, "0")
    try:
        return int(value)
    except ValueError:
        raise RuntimeError(f"parameter {key}: expected a whole number, found {value!r}") from None


def check_tensors(side: str, entries: Sequence[Any], graph: Tensors, max_batch_size: int) -> None:
    """Refuse what the C++ backends refuse: names, types and dims that the graph does not have."""
    for entry in entries:
        name = entry["name"]
        if name not in graph:
            raise RuntimeError(f"unexpected {side} '{name}': the graph has {', '.join(sorted(graph))}")
        data_type, expected = graph[name]
        if entry["data_type"] != data_type:
            raise RuntimeError(f"{side} '{name}': config.pbtxt says {entry['data_type']}, the graph {data_type}")
        dims = [int(dim) for dim in (entry.get("reshape") or {}).get("shape", entry["dims"])]
        if max_batch_size > 0:
            if expected and expected[0] != -1:
                raise RuntimeError(f"{side} '{name}': the graph's batch dimension is fixed at {expected[0]}, so no batching")
            dims = [-1, *dims]
        agrees = len(dims) == len(expected) and all(want in (-1, have) for have, want in zip(dims, expected, strict=True))
        if not agrees:
            raise RuntimeError(f"{side} '{name}': config.pbtxt gives the shape {dims}, the graph {expected}")


# What a request's content can cause: ids out of range are InvalidArgument, too long a sequence or inputs of unequal length
# make an operator fail to broadcast.
_CLIENT_ERRORS = ("INVALID_ARGUMENT", "broadcast", "out of bounds", "out of data bounds", "out of range", "dimension", "shape")


def triton_error(error: Exception) -> Any:
    """Return the error that a request is answered with: the client's fault or the server's."""
    message = str(error)
    status = pb_utils.TritonError.INTERNAL
    if any(sign in message for sign in _CLIENT_ERRORS):
        status = pb_utils.TritonError.INVALID_ARG
    return pb_utils.TritonError(first_line(error), status)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return str(error).strip().split("\n")[0]
