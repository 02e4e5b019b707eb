"""The preflight finds each fault, and nothing in what is right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig as ModelConfigMessage

from tests import spoiled
from tests.conftest import RunTool, one_error_line
from tests.spoiled import Case
from tests.unit.conftest import Build
from tools.check_repo import parse_device
from tritonsmith.artifact import TensorSpec
from tritonsmith.errors import RepositoryError, UsageError
from tritonsmith.preflight.check import check_model, check_repository
from tritonsmith.preflight.findings import Finding, Severity
from tritonsmith.preflight.model import Graph, Model, Target
from tritonsmith.releases import find_release

CPU = Target(find_release("24.10"))


@pytest.fixture
def spoil(build_tiny: Build, repository: Path) -> Callable[[Case], list[Finding]]:
    """Spoil a copy of a tiny BERT that lies beside the original; return what is found in the copy."""
    build_tiny(name="unspoiled", intra_op_thread_count=1)

    def run(case: Case) -> list[Finding]:
        copy = repository / "copy"
        shutil.copytree(repository / "unspoiled", copy)
        for file in copy.rglob("*"):
            file.chmod(0o755)
        config = copy / "config.pbtxt"
        case.spoil(copy)
        if config.is_file():
            config.write_text(config.read_text().replace('name: "unspoiled"\n', 'name: "copy"\n', 1))
        found = check_repository(repository, CPU)
        assert all(finding.model == "copy" for finding in found)
        return found

    return run


@pytest.mark.parametrize(
    "case", [*spoiled.CASES, *spoiled.WARMUPS, *spoiled.ENSEMBLES], ids=lambda case: f"{case.rule}-{case.name}"
)
def test_each_fault_is_found(spoil: Callable[[Case], list[Finding]], case: Case) -> None:
    found = [finding for finding in spoil(case) if finding.rule == case.rule]
    assert [finding.severity.value for finding in found][:1] == [case.severity]
    assert found[0].file.startswith("copy/")
    assert found[0].fix
    assert found[0].message in str(found[0])


def test_nothing_is_found_in_what_is_right(build_tiny: Build, repository: Path) -> None:
    build_tiny(preset="latency", lengths=(16, 32))
    build_tiny(name="ir", recipe="export,openvino")
    build_tiny(name="same_again", max_batch_size=0)
    assert check_repository(repository, CPU) == []


def test_a_model_of_another_tool(spoil: Callable[[Case], list[Finding]]) -> None:
    """No manifest, no tokenizer, a comment, the old way to write lists: only the tokenizer is missed."""

    def strip(model: Path) -> None:
        for file in (model / "1").iterdir():
            if file.name != "model.onnx":
                file.unlink()

    assert [finding.rule for finding in spoil(Case("foreign", "", strip))] == ["tokenizer"]


def test_stray_things(build_tiny: Build, repository: Path, tmp_path: Path) -> None:
    build_tiny()
    (repository / ".git").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (repository / "link").symlink_to(tmp_path / "elsewhere")
    assert [(finding.file, finding.rule) for finding in check_repository(repository, CPU)] == [
        (".git", "stray"),
        ("link", "path"),
        ("link/config.pbtxt", "config-missing"),
    ]


GPU_MODEL = """
name: "m" backend: "onnxruntime" max_batch_size: 8
input { name: "ids" data_type: TYPE_INT64 dims: -1 } output { name: "logits" data_type: TYPE_FP32 dims: -1 }
instance_group { kind: KIND_GPU count: 1 gpus: 0 }
"""
GRAPH = Graph((TensorSpec("ids", "INT64", (-1, -1)),), (TensorSpec("logits", "FP32", (-1, -1)),), opset=18, ir_version=10)


def tensorrt(low: str = "ids:1x1", opt: str = "ids:8x64", high: str = "ids:8x128", more: str = "") -> str:
    options = {"trt_engine_cache_enable": "1", "trt_profile_min_shapes": low, "trt_profile_opt_shapes": opt}
    options |= {"trt_profile_max_shapes": high}
    lines = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in options.items() if value)
    return f'optimization {{ execution_accelerators {{ gpu_execution_accelerator {{ name: "tensorrt" {lines} {more} }} }} }}'


def on_gpus(text: str, graph: Graph = GRAPH, gpus: int = 1, lengths: tuple[int, ...] = (32, 128)) -> list[str]:
    config = text_format.Parse(GPU_MODEL + text, ModelConfigMessage())
    found = check_model(Model("m", config, {0: graph}), Target(find_release("24.10"), gpus, lengths))
    return [finding.rule for finding in found]


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("", []),
        (tensorrt(), []),
        ("dynamic_batching { }", []),
        ("instance_group { kind: KIND_GPU count: 1 gpus: 3 }", ["gpu-index"]),
        ("instance_group { kind: KIND_CPU count: 1 }", ["gpu-unused"]),
        (tensorrt("", "", ""), ["tensorrt-profiles"]),
        (tensorrt("", "ids:8x64"), ["tensorrt-profiles"]),
        (tensorrt("ids=1x1"), ["tensorrt-profiles"]),
        (tensorrt("x:1x1"), ["tensorrt-profiles"]),
        (tensorrt("ids:1x100"), ["tensorrt-profiles"]),
        (tensorrt("ids:1x64"), ["tensorrt-coverage"]),
        (tensorrt(high="ids:8x100"), ["tensorrt-coverage"]),
        (tensorrt(opt="ids:4x64", high="ids:4x128"), ["tensorrt-coverage"]),
        (tensorrt(more='parameters { key: "precision_mode" value: "BF16" }'), ["precision-mode"]),
        (tensorrt(more='parameters { key: "trt_fp16" value: "1" }'), ["accelerator-option"]),
        (tensorrt().replace("trt_engine_cache_enable", "trt_dump_subgraphs"), ["engine-cache"]),
        ('optimization { execution_accelerators { gpu_execution_accelerator { name: "trt" } } }', ["accelerator"]),
        ('batch_output { target_name: [ "logits", "x" ] source_input: "ids" }', []),
    ],
)
def test_what_only_a_server_with_gpus_has(text: str, rules: list[str]) -> None:
    assert on_gpus(text) == rules


def test_what_tensorrt_cannot_run() -> None:
    graph = Graph(GRAPH.inputs, GRAPH.outputs, opset=18, ir_version=10, operators=frozenset({"com.microsoft.Attention"}))
    assert on_gpus(tensorrt(), graph) == ["tensorrt-operators"]
    dynamic = Graph(GRAPH.inputs, GRAPH.outputs, opset=18, ir_version=10, operators=frozenset({"DynamicQuantizeLinear"}))
    assert on_gpus("dynamic_batching { }", dynamic) == ["batch-variant"]


def test_one_scatter_of_two_outputs_is_found() -> None:
    ragged = GPU_MODEL.replace('name: "ids"', 'name: "ids" allow_ragged_batch: true')
    config = text_format.Parse(
        ragged + 'batch_output { target_name: [ "logits", "x" ] source_input: "ids" }', ModelConfigMessage()
    )
    found = check_model(Model("m", config, {0: GRAPH}), Target(find_release("24.10"), 1))
    assert [finding.rule for finding in found] == ["ragged-output"]


@pytest.mark.parametrize(("text", "gpus"), [("cpu", 0), ("gpu", 1), ("gpu:4", 4)])
def test_device(text: str, gpus: int) -> None:
    assert parse_device(text) == gpus


@pytest.mark.parametrize("text", ["", "gpu:0", "gpu:x", "tpu", "cpu:2"])
def test_wrong_device(text: str) -> None:
    with pytest.raises(UsageError, match="--device"):
        parse_device(text)


def test_a_release_that_is_not_in_the_table_is_told(repository: Path) -> None:
    repository.mkdir()
    (found,) = check_repository(repository, Target(find_release("26.07")))
    assert (found.severity, found.rule) == (Severity.NOTE, "release")
    assert "held to ONNX Runtime 1.20.1" in found.message


def test_no_repository(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="no such folder"):
        check_repository(tmp_path / "nowhere", CPU)


def test_the_tool(run_tool: RunTool, build_tiny: Build, repository: Path) -> None:
    build_tiny()
    clean = run_tool("check_repo", "--repository", repository)
    assert (clean.returncode, clean.stdout) == (0, "")
    config = repository / "m" / "config.pbtxt"
    config.write_text(config.read_text() + "dynamic_batching { preferred_batch_size: [ 4, 16 ] }\n")
    done = run_tool("check_repo", "--repository", repository, "--json")
    assert done.returncode == 1
    assert "1 error in 3 findings" in one_error_line(done)
    entries = json.loads(done.stdout)
    assert [entry["rule"] for entry in entries if entry["severity"] == Severity.ERROR] == ["preferred-batch-size"]
    told = run_tool("check_repo", "--repository", repository)
    assert "dynamic_batching.preferred_batch_size: found 16, expected 1 to max_batch_size (8)" in told.stdout
