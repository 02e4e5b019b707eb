"""A real embedded Triton on the demo model and on tiny ones, started once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import checkpoints
from tests.checkpoints import MAX_LENGTH
from tritonsmith.build import build
from tritonsmith.client import Client
from tritonsmith.inputs import TextInputs, load_tokenizer
from tritonsmith.options import BuildOptions
from tritonsmith.repository.layout import ModelFolder
from tritonsmith.repository.presets import load_preset, preset_names
from tritonsmith.serving.options import Ports, ServeOptions
from tritonsmith.serving.server import TritonServer, running
from tritonsmith.tasks import Task

CPU_PRESETS = [name for name in preset_names() if "cpu" in load_preset(name).devices]


@dataclass(frozen=True)
class Served:
    """The running server and what it serves."""

    server: TritonServer
    repository: Path

    def client(self, protocol: str = "grpc", timeout_s: float = 60.0) -> Client:
        return self.server.client(protocol, timeout_s)

    def inputs(self, model: str, version: int = 1) -> TextInputs:
        folder = ModelFolder(self.repository / model)
        manifest = folder.manifest(version)
        assert manifest is not None
        with self.client() as client:
            names = [entry["name"] for entry in client.config(model)["input"]]
        tokenizer = load_tokenizer(folder.version(version) / "tokenizer.json")
        return TextInputs(tokenizer, Task(manifest["task"]), names, manifest["pad_token_id"])


@pytest.fixture(scope="session")
def second_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with other weights than the first."""
    return checkpoints.make(tmp_path_factory.mktemp("second") / "bert", "bert", seed=1)


@pytest.fixture(scope="session")
def repository(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path], second_bert: Path, job_cache: Path
) -> Path:
    """demo (dynamic batching), one tiny model of each architecture, `twice` (two instances), `versions` (two versions)."""
    folder = tmp_path_factory.mktemp("served") / "repository"

    def add(model: str, name: str, **options: object) -> None:
        defaults: dict[str, object] = {"max_length": MAX_LENGTH, "intra_op_thread_count": 1}
        build(BuildOptions(model, name=name, repository=folder, cache=job_cache, **(defaults | options)))  # type: ignore[arg-type]

    add("demo", "demo", max_length=384, dynamic_batching=True, max_queue_delay_microseconds=5000, max_batch_size=16)
    for architecture in checkpoints.ARCHITECTURES:
        add(str(checkpoint(architecture)), architecture)
    add(str(checkpoint("bert")), "bert_openvino", recipe="export,openvino")
    add(str(checkpoint("bert")), "twice", instances=2)
    add(str(checkpoint("bert")), "unbatched", max_batch_size=0)
    for preset in CPU_PRESETS:
        lengths = load_preset(preset).lengths
        add(str(checkpoint("bert")), f"preset_{preset}", preset=preset, lengths=tuple(n for n in lengths if n <= MAX_LENGTH))
    limiter = "{resources: [{name: slot, count: 1}], priority: 1}"
    add(str(checkpoint("bert")), "limited", settings=(f"instance_group.0.rate_limiter={limiter}",))
    add(str(checkpoint("bert")), "cached", settings=("response_cache.enable=true",))
    add(str(checkpoint("bert")), "versions", num_versions=2)
    add(str(second_bert), "versions", num_versions=2)
    return folder


@pytest.fixture(scope="session")
def served(repository: Path) -> Iterator[Served]:
    options = ServeOptions(repository=repository, runtime="embedded", ports=Ports(0, 0, 0))
    with running(options) as server:
        yield Served(server, repository)
