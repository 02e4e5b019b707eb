"""What the rules look at: one model of a repository, or one that is about to be published, and what shall serve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritonclient.grpc.model_config_pb2 import ModelConfig as ModelConfigMessage
from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from tritonsmith.artifact import TensorSpec
from tritonsmith.preflight.findings import Finding, Severity
from tritonsmith.releases import Release
from tritonsmith.repository.layout import served_versions

ORT_PLATFORM = "onnxruntime_onnx"
"""The name that Triton gave the onnxruntime backend before there were backends."""


@dataclass(frozen=True)
class Target:
    """What the repository is checked for."""

    release: Release
    gpus: int = 0
    """How many GPUs the server has."""
    lengths: tuple[int, ...] = ()
    """Tokens that are served; empty: what each model was built for."""


@dataclass(frozen=True)
class Graph:
    """What a model's file tells of itself."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    optional_inputs: frozenset[str] = frozenset()
    """Those with a default of their own (an initializer of the same name)."""
    opset: int | None = None
    ir_version: int | None = None
    operators: frozenset[str] = frozenset()
    """`domain.Operator`, without the domain for ONNX's own."""
    data_files: frozenset[str] = frozenset()
    """Where the weights lie that are not in the file itself, relative to its folder."""

    def tensors(self, side: str) -> dict[str, TensorSpec]:
        """Return the tensors of a side (`input`, `output`) by name."""
        return {spec.name: spec for spec in (self.inputs if side == "input" else self.outputs)}


@dataclass(frozen=True)
class Model:
    """One model: its folder's name, its configuration, and what its versions hold."""

    name: str
    config: ModelConfigMessage
    graphs: Mapping[int, Graph] = field(default_factory=dict)
    """By version, of those whose file could be read."""
    manifests: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    """By version, of those that tritonsmith published."""
    versions: tuple[int, ...] = ()
    """Every version folder, served or not."""
    folder: Path | None = None
    """None for a model that is not in a repository yet."""

    @property
    def backend(self) -> str:
        """The backend's name, also where the config names only the old platform."""
        platform = str(self.config.platform)
        return str(self.config.backend) or {ORT_PLATFORM: "onnxruntime"}.get(platform, platform)

    @property
    def served(self) -> list[int]:
        """The versions that the policy serves."""
        return served_versions(self.config, self.versions)

    @property
    def max_length(self) -> int | None:
        """The most tokens that the served versions were built for, None if they do not say."""
        lengths = [self.manifests[version].get("max_length") for version in self.served if version in self.manifests]
        return min((length for length in lengths if length), default=None)

    @property
    def kinds(self) -> set[int]:
        """The kinds of its instance groups."""
        return {group.kind for group in self.config.instance_group}

    def on_gpu(self, target: Target) -> bool:
        """Whether an instance runs on a GPU of the target."""
        usual = ModelInstanceGroup.KIND_AUTO
        return bool(target.gpus) and bool({ModelInstanceGroup.KIND_GPU, usual} & (self.kinds or {usual}))

    def finding(
        self, severity: Severity, rule: str, message: str, fix: str, field: str = "", file: str | None = None
    ) -> Finding:
        """Return a finding about this model; its config.pbtxt unless `file` says otherwise."""
        return Finding(rule, severity, self.name, f"{self.name}/{file or 'config.pbtxt'}", field, message, fix)

    def error(self, rule: str, message: str, fix: str, field: str = "", file: str | None = None) -> Finding:
        """Return an error."""
        return self.finding(Severity.ERROR, rule, message, fix, field, file)

    def warning(self, rule: str, message: str, fix: str, field: str = "", file: str | None = None) -> Finding:
        """Return a warning."""
        return self.finding(Severity.WARNING, rule, message, fix, field, file)
