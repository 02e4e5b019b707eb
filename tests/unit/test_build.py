"""The build: every architecture and task is verified against PyTorch; what misses is not published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.checkpoints import ARCHITECTURES, MAX_LENGTH, make_tokenizer
from tests.pruning import outlier
from tests.unit.conftest import Build
from tritonsmith import artifact as artifacts
from tritonsmith.engines import artifact_predictor
from tritonsmith.errors import CheckpointError, StageError, UsageError, VerificationError
from tritonsmith.inputs import TextInputs, load_tokenizer
from tritonsmith.repository.layout import ModelFolder
from tritonsmith.repository.rendering import parse
from tritonsmith.stages.export import check_inference
from tritonsmith.stages.fp16 import check_overflow
from tritonsmith.stages.loading import load_model
from tritonsmith.tasks import Task
from tritonsmith.verify import TOLERANCES, Tolerance
from tritonsmith.verify.parity import compare


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_and_task(build_tiny: Build, repository: Path, architecture: str) -> None:
    result = build_tiny(architecture)
    task = ARCHITECTURES[architecture]
    assert result.checkpoint.task is task
    model = ModelFolder(repository / "m")
    manifest = model.manifest(1)
    assert manifest is not None
    assert manifest["task"] == task
    assert manifest["stages"][0]["parity"]["max_abs_diff"] < 1e-3
    graph = onnx.load(model.version(1) / "model.onnx")
    assert graph.ir_version <= 10
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [18]
    config = parse(model.config.read_text(), "config.pbtxt")
    assert [tensor.name for tensor in config.input] == [tensor.name for tensor in graph.graph.input]
    assert [tensor.name for tensor in config.output] == [tensor.name for tensor in graph.graph.output]
    assert all(list(tensor.dims)[:1] == [-1] for tensor in config.input)
    assert {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"} <= set(manifest["files"])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_precisions(build_tiny: Build, architecture: str, precision: str) -> None:
    result = build_tiny(architecture, precision=precision)
    assert [stage.stage.removesuffix("-dynamic") for stage in result.stages] == ["export", precision]
    assert result.stages[1].parity["finite"]
    assert result.stages[1].size_bytes < result.stages[0].size_bytes


def test_fp16_keeps_index_arithmetic_exact(build_tiny: Build) -> None:
    """MPNet's relative position buckets come from a logarithm; in FP16 some are off by one."""
    result = build_tiny("mpnet", precision="fp16")
    assert result.stages[1].facts["index_nodes_kept"] > 0
    assert result.stages[1].parity["relative_l2"] < 0.01


def test_published_model_answers_as_pytorch(build_tiny: Build, checkpoint: Callable[[str], Path], repository: Path) -> None:
    import torch
    from transformers import BertForQuestionAnswering

    build_tiny("bert")
    version = repository / "m" / "1"
    names = ["input_ids", "attention_mask", "token_type_ids"]
    feed = TextInputs(load_tokenizer(version / "tokenizer.json"), Task.QUESTION_ANSWERING, names, 0).padded([20, 50, 33])
    answer = onnxruntime.InferenceSession(version / "model.onnx").run(["start_logits", "end_logits"], feed)
    model = BertForQuestionAnswering.from_pretrained(checkpoint("bert")).eval()
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(array) for name, array in feed.items()})
    mask = feed["attention_mask"].astype(bool)
    np.testing.assert_allclose(answer[0][mask], expected.start_logits.numpy()[mask], atol=1e-4)
    np.testing.assert_allclose(answer[1][mask], expected.end_logits.numpy()[mask], atol=1e-4)


def test_rebuild_publishes_nothing_and_a_change_is_version_two(build_tiny: Build, repository: Path) -> None:
    assert build_tiny().published.new
    before = {file: file.stat().st_mtime_ns for file in (repository / "m").rglob("*")}
    again = build_tiny()
    assert (again.published.version, again.published.new) == (1, False)
    assert all(stage.cached for stage in again.stages)
    assert {file: file.stat().st_mtime_ns for file in (repository / "m").rglob("*")} == before
    changed = build_tiny(precision="int8")
    assert (changed.published.version, changed.published.new) == (2, True)
    kept = {file: file.stat().st_mtime_ns for file in (repository / "m" / "1").rglob("*")}
    assert kept.items() <= before.items()


def test_options_reach_the_config(build_tiny: Build, repository: Path) -> None:
    build_tiny(
        max_batch_size=16,
        instances=3,
        dynamic_batching=True,
        max_queue_delay_microseconds=200,
        num_versions=2,
        intra_op_thread_count=1,
        device="gpu",
    )
    config = parse((repository / "m" / "config.pbtxt").read_text(), "config.pbtxt")
    assert config.max_batch_size == 16
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (3, config.instance_group[0].KIND_GPU)
    assert config.dynamic_batching.max_queue_delay_microseconds == 200
    assert config.version_policy.latest.num_versions == 2
    assert config.parameters["intra_op_thread_count"].string_value == "1"


@pytest.mark.parametrize(("device", "expected"), [("cpu", False), ("gpu", True)])
def test_dynamic_batching_by_device(build_tiny: Build, repository: Path, device: str, expected: bool) -> None:
    build_tiny(device=device)
    config = parse((repository / "m" / "config.pbtxt").read_text(), "config.pbtxt")
    assert config.HasField("dynamic_batching") is expected


def test_a_build_that_misses_parity_publishes_nothing(
    build_tiny: Build, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOLERANCES, "int8", Tolerance(max_diff=1e-6, relative_l2=1, top1_agreement=0))
    with pytest.raises(VerificationError, match="largest difference"):
        build_tiny(precision="int8")
    assert not repository.exists()


def test_a_head_that_the_checkpoint_lacks_is_not_invented(build_tiny: Build, repository: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights for .*qa_outputs"):
        build_tiny("mpnet", task="question-answering")
    assert not repository.exists()


def test_tokenizer_that_does_not_match_the_model(
    build_tiny: Build, checkpoint: Callable[[str], Path], tmp_path: Path, repository: Path
) -> None:
    other = shutil.copytree(checkpoint("bert"), tmp_path / "other")
    make_tokenizer(vocab_size=900).save_pretrained(other)
    with pytest.raises(CheckpointError, match="does not match"):
        build_tiny(model=other)
    assert not repository.exists()


def test_truncated_weights_are_one_line(
    build_tiny: Build, checkpoint: Callable[[str], Path], tmp_path: Path, repository: Path
) -> None:
    broken = Path(shutil.copytree(checkpoint("bert"), tmp_path / "broken"))
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be loaded") as raised:
        build_tiny(model=broken)
    assert "\n" not in str(raised.value)
    assert not repository.exists()


def test_weight_beyond_fp16_is_named(build_tiny: Build, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    large = Path(shutil.copytree(checkpoint("bert"), tmp_path / "large"))
    weights = load_file(large / "model.safetensors")
    weights["qa_outputs.weight"][0, 0] = 1e6
    save_file(weights, large / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(StageError, match=r"fp16: weight .* reaches 1e\+06"):
        build_tiny(model=large, precision="fp16")


def test_activations_beyond_fp16_stay_in_fp32(build_tiny: Build, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """A CPU computes FP16 graphs in FP32 and would not show it: the values are found on text, and kept out of FP16."""
    result = build_tiny(model=outlier(checkpoint("bert"), tmp_path / "large", factor=1e5), precision="fp16")
    facts = result.stages[1].facts
    assert facts["largest_activation"] > 65504
    assert "/bert/encoder/layer.0/attention/self/value/MatMul" in facts["overflow_nodes_kept"]
    assert any("FP16 ends at 65504" in note for note in result.notes)
    graph = onnx.load(result.published.folder / "model.onnx")
    halves = {value.name for value in graph.graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16}
    kept = {name for node in graph.graph.node if node.name in facts["overflow_nodes_kept"] for name in node.output}
    assert not kept & halves
    assert build_tiny(precision="fp16").stages[1].facts["overflow_nodes_kept"] == []


@pytest.mark.parametrize("recipe", ["export,fuse,fp16", "export,fuse"])
def test_weights_beside_the_model(
    build_tiny: Build, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """What is done for models beyond 2 GB, on a small one: the same answers, and both files are part of the artifact."""
    folder = build_tiny(recipe=recipe, name="whole").published.folder
    monkeypatch.setattr(artifacts, "MESSAGE_LIMIT", 1000)
    split = tmp_path / "split"
    split.mkdir()
    for name in ("tokenizer.json", "meta.json"):
        shutil.copyfile(folder / name, split / name)
    artifacts.save_model(onnx.load(folder / "model.onnx"), split)
    found = artifacts.read_artifact(split)
    assert {"model.onnx", "model.onnx.data"} <= set(found.files)
    assert found.size_bytes == (split / "model.onnx").stat().st_size + (split / "model.onnx.data").stat().st_size
    assert (split / "model.onnx").stat().st_size < 0.5 * found.size_bytes
    names = [spec.name for spec in found.inputs]
    feed = TextInputs(load_tokenizer(split / "tokenizer.json"), Task.QUESTION_ANSWERING, names, 0).exact(32)
    whole, apart = (artifact_predictor(path)(feed) for path in (folder, split))
    np.testing.assert_array_equal(whole["start_logits"], apart["start_logits"])


def test_an_overflow_that_reaches_fp16_is_named() -> None:
    nodes = [
        onnx.helper.make_node("Cast", ["big"], ["half"], to=onnx.TensorProto.FLOAT16),
        onnx.helper.make_node("Relu", ["half"], ["out"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [])
    with pytest.raises(StageError, match="values of big overflow"):
        check_overflow(graph, {"big"})
    del graph.node[1]
    check_overflow(graph, {"big"})


def test_training_mode_is_caught(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    """ONNX Runtime happens to skip dropout when it infers; another runtime drops values at random."""
    import torch

    model = load_model(checkpoint("bert"), Task.QUESTION_ANSWERING, trust_remote_code=False)
    feed = {name: torch.ones((1, 16), dtype=torch.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for mode in (torch.onnx.TrainingMode.EVAL, torch.onnx.TrainingMode.TRAINING):
        model.train(mode is torch.onnx.TrainingMode.TRAINING)
        file = tmp_path / f"{mode.name}.onnx"
        torch.onnx.export(
            model, (), file, kwargs=feed, opset_version=18, training=mode, do_constant_folding=False, dynamo=False
        )
    check_inference(onnx.load(tmp_path / "EVAL.onnx").graph)
    with pytest.raises(StageError, match=r"Dropout operators: .* training mode"):
        check_inference(onnx.load(tmp_path / "TRAINING.onnx").graph)


def test_dynamic_int8_depends_on_its_batch_mates_and_says_so(build_tiny: Build) -> None:
    moved = {}
    for precision in ("fp32", "int8"):
        result = build_tiny(precision=precision, dynamic_batching=True)
        moved[precision] = result.stages[-1].parity["batch_max_abs_diff"]
    assert moved["fp32"] < 1e-4 < 1e-3 < moved["int8"]
    assert f"logits moved by up to {moved['int8']:.2g}" in result.notes[0]


def test_length_above_the_model_s(build_tiny: Build) -> None:
    with pytest.raises(UsageError, match=f"--max-length {MAX_LENGTH + 1}"):
        build_tiny(max_length=MAX_LENGTH + 1)


def test_manifest_tells_what_a_version_was_made_from(build_tiny: Build, repository: Path) -> None:
    result = build_tiny(precision="int8")
    manifest = json.loads((repository / "m" / "1" / "manifest.json").read_text())
    assert manifest["source"]["sha256"] == result.checkpoint.sha256
    assert [stage["stage"] for stage in manifest["stages"]] == ["export", "int8-dynamic"]
    assert manifest["triton"]["release"] == "24.10"
    assert {"torch", "onnxruntime", "transformers"} <= set(manifest["libraries"])
    assert manifest["precision"] == "int8"
    assert manifest["stages"][1]["parity"]["top1_agreement"] <= 1


def test_comparison_ignores_padding_and_sees_the_rest() -> None:
    feed = {"attention_mask": np.array([[1, 1, 1, 0]])}
    reference = {"start_logits": np.array([[1.0, 5.0, 2.0, 0.0]]), "end_logits": np.array([[1.0, 2.0, 4.0, 0.0]])}
    padding = {name: array + np.array([[0, 0, 0, 99.0]]) for name, array in reference.items()}
    figures = compare(Task.QUESTION_ANSWERING, [(feed, padding, reference)])
    assert (figures["max_abs_diff"], figures["top1_agreement"], figures["values"]) == (0, 1, 6)
    moved = {**reference, "start_logits": np.array([[1.0, 1.5, 2.0, 0.0]])}
    figures = compare(Task.QUESTION_ANSWERING, [(feed, moved, reference)])
    assert (figures["max_abs_diff"], figures["top1_agreement"]) == (3.5, 0.5)
    nan = {**reference, "start_logits": np.array([[np.nan, 1.5, 2.0, 0.0]])}
    assert not compare(Task.QUESTION_ANSWERING, [(feed, nan, reference)])["finite"]
