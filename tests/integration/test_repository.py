"""The repository on a real Triton: every preset answers, what the preflight finds is refused, versions move without a gap."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests import spoiled
from tests.checkpoints import MAX_LENGTH
from tests.conftest import RunTool, one_error_line
from tests.integration.conftest import CPU_PRESETS, Served
from tests.spoiled import Case
from tritonsmith.build import build
from tritonsmith.client import Client
from tritonsmith.errors import ServerError, TritonsmithError
from tritonsmith.inputs import Feed
from tritonsmith.options import BuildOptions
from tritonsmith.preflight.check import check_repository
from tritonsmith.preflight.model import Target
from tritonsmith.releases import find_release
from tritonsmith.repository import versions
from tritonsmith.repository.layout import ModelFolder
from tritonsmith.repository.model_config import validate
from tritonsmith.repository.rendering import render
from tritonsmith.serving.health import check_model
from tritonsmith.serving.options import Ports, ServeOptions
from tritonsmith.serving.server import TritonServer, plan, running


def executions(client: Client, model: str) -> int:
    return sum(int(entry.get("execution_count", 0)) for entry in client.statistics(model))


@pytest.mark.parametrize("preset", CPU_PRESETS)
def test_each_preset_answers_and_is_warmed_up(served: Served, preset: str) -> None:
    model = f"preset_{preset}"
    with served.client() as client:
        warmed = len(client.config(model).get("model_warmup", []))
        assert executions(client, model) >= warmed
        assert (warmed > 0) is (preset in ("latency", "throughput", "bucketed"))
        feed = served.inputs("bert").exact(48)
        expected = client.infer("bert", feed)
        answer = client.infer(model, feed)
    for name, array in expected.items():
        np.testing.assert_allclose(answer[name], array, atol=1e-4)


def test_the_response_cache_is_switched_on_where_a_model_asks_for_it(served: Served) -> None:
    feed = served.inputs("bert").exact(40)
    with served.client() as client:
        first = client.infer("cached", feed)
        before = executions(client, "cached")
        again = client.infer("cached", feed)
        assert executions(client, "cached") == before
        hits = sum(int(entry["inference_stats"]["cache_hit"]["count"]) for entry in client.statistics("cached"))
    assert hits == 1
    np.testing.assert_array_equal(first["start_logits"], again["start_logits"])


def test_rate_limits_are_switched_on_where_a_model_asks_for_them(served: Served) -> None:
    assert "--rate-limit=execution_count" in served.server.launch.command
    with served.client() as client:
        assert client.infer("limited", served.inputs("bert").exact(24))


def spoil_copy(source: Path, target: Path, case: Case) -> None:
    """Copy a model, spoil it, and give its configuration the copy's name where it had the original's."""
    shutil.copytree(source, target)
    for file in target.rglob("*"):
        file.chmod(0o755)
    config = target / "config.pbtxt"
    config.write_text(config.read_text().replace(f'name: "{source.name}"', 'name: "unspoiled"', 1))
    case.spoil(target)
    if config.is_file():
        config.write_text(config.read_text().replace('name: "unspoiled"\n', f'name: "{target.name}"\n', 1))


@pytest.fixture(scope="module")
def spoiled_repository(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a tiny BERT for every fault, and one that is right."""
    folder = tmp_path_factory.mktemp("spoiled") / "repository"
    folder.mkdir()
    shutil.copytree(repository / "bert", folder / "unspoiled")
    config = folder / "unspoiled" / "config.pbtxt"
    config.chmod(0o644)
    config.write_text(config.read_text().replace('name: "bert"', 'name: "unspoiled"'))
    for group, cases in (("case", spoiled.CASES), ("ensemble", spoiled.ENSEMBLES)):
        for case in cases:
            spoil_copy(folder / "unspoiled", folder / f"{group}_{case.name}", case)
    return folder


@pytest.fixture(scope="module")
def spoiled_server(spoiled_repository: Path) -> Iterator[TritonServer]:
    """A server of that repository that has loaded nothing yet."""
    planned = plan(ServeOptions(spoiled_repository, runtime="embedded", ports=Ports(0, 0, 0), check=False))
    command = [part for part in planned.command if part != "--load-model=*"]
    server = TritonServer(dataclasses.replace(planned, command=command))
    try:
        server.wait_until_ready(60)
        yield server
    finally:
        server.stop(5)


@pytest.mark.parametrize(
    ("model", "case"),
    [
        (f"{group}_{case.name}", case)
        for group, cases in (("case", spoiled.CASES), ("ensemble", spoiled.ENSEMBLES))
        for case in cases
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_preflight_finds_is_refused_by_triton_or_silent(
    spoiled_server: TritonServer, spoiled_repository: Path, model: str, case: Case
) -> None:
    target = Target(find_release("24.10"))
    assert case.rule in {found.rule for found in check_repository(spoiled_repository, target) if found.model == model}
    with spoiled_server.client() as client:
        try:
            client.load(model)
        except TritonsmithError:
            refused = True
        else:
            refused = False
            check_model(client, model)
            client.unload(model)
    assert refused is case.refused


def test_a_rendered_ensemble_answers(spoiled_server: TritonServer, spoiled_repository: Path, served: Served) -> None:
    ids = {"data_type": "TYPE_INT64", "dims": [-1]}
    step = {
        "model_name": "unspoiled",
        "model_version": -1,
        "input_map": {name: name for name in ("input_ids", "attention_mask", "token_type_ids")},
        "output_map": {"start_logits": "START"},
    }
    document = {
        "name": "rendered_ensemble",
        "platform": "ensemble",
        "max_batch_size": 8,
        "input": [{"name": name, **ids} for name in step["input_map"]],  # type: ignore[attr-defined]
        "output": [{"name": "START", "data_type": "TYPE_FP32", "dims": [-1]}],
        "ensemble_scheduling": {"step": [step]},
    }
    folder = spoiled_repository / "rendered_ensemble"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(render(validate(document, "test")))
    target = Target(find_release("24.10"))
    assert "rendered_ensemble" not in {found.model for found in check_repository(spoiled_repository, target)}
    feed = served.inputs("bert").exact(24)
    with spoiled_server.client() as client, served.client() as other:
        client.load("rendered_ensemble")
        answer = client.infer("rendered_ensemble", feed)["START"]
        np.testing.assert_allclose(answer, other.infer("bert", feed)["start_logits"], atol=1e-5)


@pytest.mark.parametrize(
    "case", [case for case in spoiled.WARMUPS if case.name in ("length", "no_file", "lost_input")], ids=str
)
def test_a_wrong_warmup_is_refused(repository: Path, tmp_path: Path, case: Case) -> None:
    """Such a server sometimes ends altogether, so each has its own."""
    spoil_copy(repository / "bert", tmp_path / "repository" / "m", case)
    options = ServeOptions(tmp_path / "repository", runtime="embedded", ports=Ports(0, 0, 0), check=False)
    with pytest.raises(ServerError), running(options):
        pass


def test_serve_checks_first(run_tool: RunTool, repository: Path, tmp_path: Path) -> None:
    spoil_copy(
        repository / "bert", tmp_path / "repository" / "m", next(case for case in spoiled.CASES if case.rule == "checksum")
    )
    done = run_tool("serve", "--repository", tmp_path / "repository", "--runtime", "embedded")
    assert done.returncode == 1
    assert "m/1/tokenizer.json: changed since it was published" in one_error_line(done)


class Clients:
    """Clients in closed loop, and what they were answered."""

    def __init__(self, server: TritonServer, model: str, feed: Feed, count: int = 8) -> None:
        self.answers: list[float] = []
        self.failures: list[str] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(server, model, feed)) for _ in range(count)]

    def _run(self, server: TritonServer, model: str, feed: Feed) -> None:
        with server.client() as client:
            send = client.prepare(model, feed)
            while not self._end.is_set():
                try:
                    self.answers.append(float(send()["start_logits"][0, 0]))
                except TritonsmithError as error:
                    self.failures.append(str(error))

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize("control", ["explicit", "poll"])
def test_rollover_under_load(
    checkpoint: Callable[[str], Path], second_bert: Path, job_cache: Path, tmp_path: Path, served: Served, control: str
) -> None:
    """Publish, load, retire, roll back: no request fails, and every answer is one version's or the other's."""
    folder = tmp_path / "repository"

    def publish(model: Path, preset: str) -> None:
        options = {"max_length": MAX_LENGTH, "intra_op_thread_count": 1, "cache": job_cache, "repository": folder}
        # Another preset: the configurations of the two versions differ as well.
        build(BuildOptions(str(model), name="m", preset=preset, lengths=(16,), **options))  # type: ignore[arg-type]

    publish(checkpoint("bert"), "cpu")
    feed = served.inputs("bert").exact(24)
    with (
        running(ServeOptions(folder, runtime="embedded", ports=Ports(0, 0, 0), model_control=control)) as server,
        server.client() as client,
    ):
        first = float(client.infer("m", feed)["start_logits"][0, 0])
        with Clients(server, "m", feed) as clients:
            wait_for(lambda: len(clients.answers) > 50)
            publish(second_bert, "latency")
            if control == "explicit":
                client.load("m")
            wait_for(lambda: abs(clients.answers[-1] - first) > 1e-3)
            second = clients.answers[-1]
            moved = len(clients.answers)
            wait_for(lambda: len(clients.answers) > moved + 50)
            assert versions.rollback(ModelFolder(folder / "m")) == 1
            if control == "explicit":
                client.load("m")
            wait_for(lambda: abs(clients.answers[-1] - first) < 1e-3)
            back = len(clients.answers)
            wait_for(lambda: len(clients.answers) > back + 50)
    assert clients.failures == []
    distances = np.minimum(*(np.abs(np.array(clients.answers) - value) for value in (first, second)))
    assert distances.max() < 1e-3


def test_the_tool_moves_the_served_version(run_tool: RunTool, served: Served, repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(repository / "versions", folder / "versions")
    feed = served.inputs("bert").exact(24)
    with running(ServeOptions(folder, runtime="embedded", ports=Ports(0, 0, 0))) as server, server.client() as client:
        newest = client.infer("versions", feed)
        oldest = client.infer("versions", feed, version="1")
        here = ("--repository", folder, "--url", server.launch.grpc_url)
        for command, expected in ((("promote", "versions", "1"), oldest), (("promote", "versions", "2"), newest)):
            done = run_tool("versions", *command, *here)
            assert done.returncode == 0, done.stderr
            np.testing.assert_array_equal(client.infer("versions", feed)["start_logits"], expected["start_logits"])
            with pytest.raises(TritonsmithError):
                client.infer("versions", feed, version="2" if command[-1] == "1" else "1")
