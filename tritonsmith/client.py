"""One client for Triton over gRPC or HTTP: tritonclient, with its errors turned into ours."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format

from tritonsmith.errors import RequestError, ServerError, UnknownModelError, UnreachableError, UsageError
from tritonsmith.inputs import Feed

PROTOCOLS = ("grpc", "http")
_TRITON_TYPES = {"int64": "INT64", "int32": "INT32", "float32": "FP32", "float16": "FP16", "float64": "FP64", "bool": "BOOL"}
_NUMPY_TYPES = {triton: np.dtype(name) for name, triton in _TRITON_TYPES.items()}
# No limit of gRPC's own on message sizes; Triton sets none either.
_CHANNEL_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


class Client:
    """A connection to one Triton server; use it as a context manager.

    Every method may raise UnreachableError (nobody answers), UnknownModelError (no such model or version), RequestError
    (refused as wrong) or ServerError (anything else).
    """

    def __init__(self, url: str, protocol: str = "grpc", timeout_s: float = 60.0) -> None:
        """Connect to `url` (host:port, an http:// in front is accepted); no request is sent yet.

        Raises:
            UsageError: unknown protocol, or a URL that names no host and port.
        """
        if protocol not in PROTOCOLS:
            raise UsageError(f"--protocol {protocol}: unknown; expected one of {', '.join(PROTOCOLS)}")
        self.url = url.removeprefix("http://").removeprefix("grpc://").rstrip("/")
        host, _, port = self.url.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise UsageError(f"--url {url}: expected host:port, such as localhost:{8001 if protocol == 'grpc' else 8000}")
        self.protocol = protocol
        self._timeout = timeout_s
        # Both modules have the same classes; only the asked-for one is imported.
        self._module = importlib.import_module(f"tritonclient.{protocol}")
        options = {} if protocol == "grpc" else {"connection_timeout": timeout_s, "network_timeout": timeout_s}
        self._client = self._module.InferenceServerClient(self.url, **options)
        if protocol == "grpc":
            self._channel = grpc.insecure_channel(self.url, options=_CHANNEL_OPTIONS)
            self._stub = self._module.service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
        if self.protocol == "grpc":
            self._channel.close()

    def ready(self) -> bool:
        """Whether the server says that it is ready; it says so too when a model's process has died."""
        try:
            with self._errors():
                return bool(self._client.is_server_ready(**self._deadline()))
        except ServerError:
            return False

    def models(self) -> list[dict[str, Any]]:
        """Return the repository index: name, version, state and reason of every model."""
        with self._errors():
            if self.protocol == "http":
                entries: list[dict[str, Any]] = self._client.get_model_repository_index()
                return entries
            index = self._client.get_model_repository_index(as_json=True, **self._deadline())
            return list(index.get("models", []))

    def served_models(self) -> list[str]:
        """Return the names of the models that are ready."""
        return sorted({entry["name"] for entry in self.models() if entry.get("state") == "READY"})

    def choose_model(self, name: str | None) -> str:
        """Return `name` if it is served, or the only served model if `name` is None.

        Raises:
            UnknownModelError: it is not served, or there is not exactly one to choose.
        """
        served = self.served_models()
        listed = ", ".join(served) or "none"
        if name is None:
            if len(served) == 1:
                return served[0]
            raise UnknownModelError(f"--model: {self.url} serves {listed}; name one")
        if name not in served:
            raise UnknownModelError(f"--model {name}: not served at {self.url}; served models: {listed}")
        return name

    def config(self, model: str) -> dict[str, Any]:
        """Return the model's configuration with the proto's field names."""
        with self._errors(model):
            if self.protocol == "http":
                config: dict[str, Any] = self._client.get_model_config(model)
                return config
            message = self._client.get_model_config(model, **self._deadline()).config
            return dict(json_format.MessageToDict(message, preserving_proto_field_name=True))

    def infer(self, model: str, feed: Feed, version: str = "") -> Feed:
        """Send one request and return the outputs by name."""
        return self.prepare(model, feed, version)()

    def prepare(self, model: str, feed: Feed, version: str = "") -> Callable[[], Feed]:
        """Return a function that sends the same request at every call, with the serialising of inputs done once."""
        return self._prepare_grpc(model, feed, version) if self.protocol == "grpc" else self._prepare_http(model, feed, version)

    def _prepare_http(self, model: str, feed: Feed, version: str) -> Callable[[], Feed]:
        inputs = []
        for name, array in feed.items():
            tensor = self._module.InferInput(name, array.shape, _TRITON_TYPES[str(array.dtype)])
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)

        def send() -> Feed:
            with self._errors(model):
                result = self._client.infer(model, inputs, model_version=version)
                return {output["name"]: result.as_numpy(output["name"]) for output in result.get_response()["outputs"]}

        return send

    def _prepare_grpc(self, model: str, feed: Feed, version: str) -> Callable[[], Feed]:
        """Keep the message itself: tritonclient's `infer` builds it anew at every call, which costs 0.2 ms."""
        request = self._module.service_pb2.ModelInferRequest(model_name=model, model_version=version)
        for name, array in feed.items():
            request.inputs.add(name=name, datatype=_TRITON_TYPES[str(array.dtype)], shape=array.shape)
            request.raw_input_contents.append(np.ascontiguousarray(array).tobytes())

        def send() -> Feed:
            with self._errors(model):
                return _read_outputs(self._stub.ModelInfer(request, timeout=self._timeout))

        return send

    def statistics(self, model: str) -> list[dict[str, Any]]:
        """Return the server's statistics of each version of the model."""
        with self._errors(model):
            options = self._deadline() | ({"as_json": True} if self.protocol == "grpc" else {})
            entries: list[dict[str, Any]] = self._client.get_inference_statistics(model, **options)["model_stats"]
            return entries

    def load(self, model: str) -> None:
        """Load or reload a model (explicit model control)."""
        with self._errors(model):
            self._client.load_model(model)

    def unload(self, model: str) -> None:
        """Unload a model (explicit model control)."""
        with self._errors(model):
            self._client.unload_model(model)

    def _deadline(self) -> dict[str, float]:
        return {"client_timeout": self._timeout} if self.protocol == "grpc" else {}

    @contextlib.contextmanager
    def _errors(self, model: str = "") -> Iterator[None]:
        try:
            yield
        except self._module.InferenceServerException as error:
            raise self._translate(str(error.status() or ""), str(error.message()), model) from error
        except grpc.RpcError as error:
            raise self._translate(str(error.code()), str(error.details()), model) from error
        except (OSError, TimeoutError) as error:
            # The HTTP client lets the socket's errors through.
            raise UnreachableError(f"--url {self.url}: no Triton answers there ({error}); is it running?") from error

    def _translate(self, status: str, message: str, model: str) -> ServerError | RequestError:
        message = " ".join(message.split())
        if "Request for unknown model" in message or "unknown model" in message:
            return UnknownModelError(f"--model {model}: not served at {self.url}: {message}")
        if status == "StatusCode.UNAVAILABLE" and "failed to connect" in message.lower():
            return UnreachableError(f"--url {self.url}: no Triton answers there over {self.protocol}; is it running?")
        if status in ("StatusCode.INVALID_ARGUMENT", "400"):
            return RequestError(f"refused by {self.url}: {message}", status.removeprefix("StatusCode."))
        return ServerError(f"{self.url}: {status.removeprefix('StatusCode.')} {message}".strip())


def _read_outputs(response: Any) -> Feed:
    return {
        output.name: np.frombuffer(content, dtype=_NUMPY_TYPES[output.datatype]).reshape(output.shape)
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }
