"""Recipes: compact, fuse and what they promise; every planted fault is caught."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from tests.checkpoints import ARCHITECTURES, MAX_LENGTH
from tests.pruning import prune
from tritonsmith.build import BuildResult, build
from tritonsmith.checkpoint import resolve
from tritonsmith.errors import StageError, UsageError, VerificationError
from tritonsmith.jobs import JobRunner
from tritonsmith.options import BuildOptions, check_options
from tritonsmith.recipes import parse_recipe
from tritonsmith.repository.layout import ModelFolder
from tritonsmith.repository.rendering import parse
from tritonsmith.stage_runs import run_stages
from tritonsmith.stages import compact, export, fuse
from tritonsmith.stages.fuse import check_counts, correct_head_counts
from tritonsmith.verify import judge, parity, reference

CUTTABLE = ["bert", "roberta", "distilbert"]


@pytest.fixture
def build_recipe(job_cache: Path, tmp_path: Path) -> Callable[..., BuildResult]:
    def run(model: Path, recipe: str) -> BuildResult:
        repository = tmp_path / "repository"
        return build(
            BuildOptions(str(model), "m", recipe=recipe, max_length=MAX_LENGTH, repository=repository, cache=job_cache)
        )

    return run


@pytest.fixture(scope="module")
def pruned(checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A checkpoint with 2 and 3 of 4 heads, 10 and 33 of 64 neurons left in its two layers, the rest zeroed."""
    folder = tmp_path_factory.mktemp("pruned")

    def get(architecture: str) -> Path:
        target = folder / architecture
        if not target.is_dir():
            prune(checkpoint(architecture), target, ARCHITECTURES[architecture], [[0, 2], [3]], [10, 33])
        return target

    return get


@pytest.mark.parametrize("architecture", CUTTABLE)
def test_compact_cuts_uneven_layers_and_answers_the_same(
    build_recipe: Callable[..., BuildResult], pruned: Callable[[str], Path], architecture: str
) -> None:
    cut, exported = build_recipe(pruned(architecture), "compact,export").stages
    assert cut.facts["layers"] == [{"heads": 2, "neurons": 10}, {"heads": 3, "neurons": 33}]
    assert cut.facts["diff"] <= 1e-6
    assert cut.facts["parameters"] < 0.8 * cut.facts["parameters_before"]
    assert exported.parity is not None
    assert exported.parity["relative_l2"] < 1e-5


@pytest.mark.parametrize("architecture", CUTTABLE)
def test_fuse_gives_each_layer_its_own_heads(
    build_recipe: Callable[..., BuildResult], pruned: Callable[[str], Path], architecture: str
) -> None:
    fused = build_recipe(pruned(architecture), "compact,export,fuse").stages[-1]
    assert fused.facts["heads"] == [2, 3]
    assert fused.facts["fused"]["Attention"] == 2
    assert fused.facts["fused"]["SkipLayerNormalization"] == 4
    assert fused.parity is not None
    assert fused.parity["relative_l2"] < 1e-5


@pytest.mark.parametrize(
    ("level", "operators"),
    [
        ("basic", {"Gelu": 2, "LayerNormalization": 5}),
        ("extended", {"Attention": 2, "Gelu": 2, "LayerNormalization": 5}),
        ("all", {"Attention": 2, "BiasGelu": 2, "EmbedLayerNormalization": 1, "SkipLayerNormalization": 4}),
    ],
)
def test_fuse_levels(
    job_cache: Path, tmp_path: Path, checkpoint: Callable[[str], Path], level: str, operators: dict[str, int]
) -> None:
    repository = tmp_path / "repository"
    options = {"recipe": "export,fuse", "max_length": MAX_LENGTH, "repository": repository, "cache": job_cache}
    result = build(BuildOptions(str(checkpoint("bert")), "m", fuse_level=level, **options))  # type: ignore[arg-type]
    assert result.stages[-1].facts["fused"] == operators


@pytest.mark.parametrize("last", ["fp16", "int8-dynamic"])
def test_fused_graph_is_converted(build_recipe: Callable[..., BuildResult], pruned: Callable[[str], Path], last: str) -> None:
    result = build_recipe(pruned("bert"), f"compact,export,fuse,{last}")
    manifest = ModelFolder(result.published.folder.parent).manifest(1)
    assert manifest is not None
    assert (manifest["precision"], manifest["recipe"]) == (last.removesuffix("-dynamic"), ["compact", "export", "fuse", last])


@pytest.mark.parametrize("architecture", ["bert", "roberta", "mpnet"])
def test_openvino(build_recipe: Callable[..., BuildResult], checkpoint: Callable[[str], Path], architecture: str) -> None:
    result = build_recipe(checkpoint(architecture), "export,openvino")
    stage = result.stages[-1]
    assert stage.facts["quantised_activations"] >= 8
    assert stage.parity is not None
    assert stage.parity["relative_l2"] < 0.1
    assert stage.size_bytes == sum((result.published.folder / name).stat().st_size for name in ("model.xml", "model.bin"))
    config = parse((result.published.folder.parent / "config.pbtxt").read_text(), "config.pbtxt")
    assert (config.backend, config.max_batch_size, list(config.input[0].dims)) == ("openvino", 0, [-1, -1])
    assert config.parameters["HINT_BF16"].string_value == "YES"


def test_openvino_of_a_pruned_model(build_recipe: Callable[..., BuildResult], pruned: Callable[[str], Path]) -> None:
    result = build_recipe(pruned("bert"), "compact,export,openvino")
    assert [stage.stage for stage in result.stages] == ["compact", "export", "openvino"]
    assert result.published.new


def test_architecture_that_nncf_cannot_quantise_is_named(
    build_recipe: Callable[..., BuildResult], checkpoint: Callable[[str], Path]
) -> None:
    with pytest.raises(StageError, match=r"openvino: nncf cannot quantise deberta-v2: .*; use int8-dynamic instead"):
        build_recipe(checkpoint("deberta-v2"), "export,openvino")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch_size": 4}, "--max-batch-size 4"),
        ({"device": "gpu"}, "runs on the CPU"),
        ({"dynamic_batching": True}, "dynamic_batching: asked for with max_batch_size 0"),
    ],
)
def test_what_openvino_cannot_do(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(BuildOptions("demo", recipe="export,openvino", repository=tmp_path / "repository", **options))
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("dead", [[[0, 1, 2, 3], []], [[0, 1, 2, 3], [0, 1, 2, 3]]])
def test_a_layer_without_live_heads_keeps_one(
    build_recipe: Callable[..., BuildResult], checkpoint: Callable[[str], Path], tmp_path: Path, dead: Sequence[Sequence[int]]
) -> None:
    model = prune(checkpoint("bert"), tmp_path / "dead", ARCHITECTURES["bert"], dead, [0, 64])
    cut = build_recipe(model, "compact,export,fuse").stages[0]
    assert [layer["heads"] for layer in cut.facts["layers"]] == [max(1, 4 - len(heads)) for heads in dead]
    assert [layer["neurons"] for layer in cut.facts["layers"]] == [1, 64]


def test_heads_that_config_json_says_are_pruned(
    build_recipe: Callable[..., BuildResult], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    import transformers

    model = transformers.BertForQuestionAnswering.from_pretrained(checkpoint("bert"))
    model.prune_heads({0: [1], 1: [0, 3]})
    model.save_pretrained(tmp_path / "model")
    transformers.AutoTokenizer.from_pretrained(checkpoint("bert")).save_pretrained(tmp_path / "model")
    result = build_recipe(tmp_path / "model", "compact,export,fuse")
    assert [layer["heads"] for layer in result.stages[0].facts["layers"]] == [3, 2]
    assert result.stages[-1].facts["heads"] == [3, 2]


def test_nothing_to_cut_is_said(build_recipe: Callable[..., BuildResult], checkpoint: Callable[[str], Path]) -> None:
    result = build_recipe(checkpoint("bert"), "compact,export")
    assert result.stages[0].facts["nothing_to_cut"]
    assert "nothing to cut" in result.notes[0]


@pytest.mark.parametrize("recipe", ["compact,export", "export,fuse"])
def test_architecture_that_is_not_known_is_named(
    build_recipe: Callable[..., BuildResult], checkpoint: Callable[[str], Path], recipe: str
) -> None:
    with pytest.raises(StageError, match="mpnet"):
        build_recipe(checkpoint("mpnet"), recipe)


def test_wrong_head_count_is_corrected_and_would_be_caught(pruned: Callable[[str], Path], tmp_path: Path) -> None:
    """Plant one num_heads for the whole graph, as it is stamped elsewhere: the model loads and answers wrongly."""
    folders = {name: tmp_path / name for name in ("compact", "export", "fuse", "reference", "parity")}
    for folder in folders.values():
        folder.mkdir()
    common = {"task": ARCHITECTURES["bert"], "trust_remote_code": False, "max_length": MAX_LENGTH}
    release = {"model_type": "bert", "vocab_size": 500, "labels": [], "max_opset": 18, "max_ir_version": 10}
    compact.run({"checkpoint": pruned("bert")}, folders["compact"], common)
    export.run({"checkpoint": folders["compact"]}, folders["export"], common | release)
    fuse.run({"artifact": folders["export"]}, folders["fuse"], {"level": "all"})
    reference.run({"checkpoint": pruned("bert"), "artifact": folders["export"]}, folders["reference"], common)
    compared = {"artifact": folders["fuse"], "reference": folders["reference"]}
    judge(parity.run(compared, folders["parity"], {}), "fp32")
    model = onnx.load(folders["fuse"] / "model.onnx")
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Attention" and attribute.name == "num_heads":
                attribute.i = 1
    onnx.save(model, folders["fuse"] / "model.onnx")
    with pytest.raises(VerificationError):
        judge(parity.run(compared, folders["parity"], {}), "fp32")
    assert correct_head_counts(model, head_size=8) == [2, 3]


@pytest.mark.parametrize("architecture", CUTTABLE)
def test_fusing_without_the_weights_that_no_fusion_reads(
    checkpoint: Callable[[str], Path], tmp_path: Path, job_cache: Path, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    """The tiny models' matrices are all below the limit; without a limit every fused operator must still be found."""
    runner = JobRunner(job_cache)
    source = resolve(str(checkpoint(architecture)), runner)
    options = BuildOptions(str(checkpoint(architecture)), recipe="export,fuse", max_length=MAX_LENGTH, cache=job_cache)
    (exported, fused), artifact, _baseline = run_stages(options, source, runner)
    monkeypatch.setattr(fuse, "LARGE_BYTES", 0)
    light = onnx.load(Path(exported.folder) / "model.onnx")
    assert len(fuse.take_weights(light)) >= 2 * 3
    facts = fuse.run({"artifact": Path(exported.folder)}, tmp_path, {"level": "all"})
    assert facts == fused.facts
    assert {file.name for file in tmp_path.iterdir() if "model" in file.name} == {"model.onnx"}
    before, after = (onnx.load(folder / "model.onnx").graph for folder in (artifact.path, tmp_path))
    assert {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in before.initializer} == {
        tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in after.initializer
    }


def test_a_matrix_that_lost_its_values_is_named() -> None:
    tensor = onnx.TensorProto(name="w", dims=[2, 3], data_type=onnx.TensorProto.FLOAT)
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))
    with pytest.raises(StageError, match="w has lost its values"):
        fuse.give_weights(model, {"other": b""})


def test_a_missing_fusion_is_named() -> None:
    counts = Counter({"Attention": 11, "BiasGelu": 12, "SkipLayerNormalization": 24, "EmbedLayerNormalization": 1})
    with pytest.raises(StageError, match="Attention was found 11 times, 12 layers must give 12"):
        check_counts(counts, "all", 12)
    check_counts(counts + Counter({"Attention": 1}), "all", 12)
    check_counts(Counter({"Gelu": 12, "LayerNormalization": 25}), "basic", 12)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("", "unknown stage"),
        ("export,distil", "unknown stage distil"),
        ("compact,fuse", "no export"),
        ("export,compact", "in the order"),
        ("export,export", "once"),
        ("export,fp16,int8-dynamic", "exclude each other"),
        ("export,fuse,openvino", "leave fuse out"),
    ],
)
def test_wrong_recipes(recipe: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_recipe(recipe)


def test_precision_and_recipe_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--precision"):
        check_options(BuildOptions("demo", precision="int8", recipe="export,int8-dynamic"))
