"""The gate: a build is held to the task's own metric, and evaluate computes the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.conftest import RunTool
from tests.unit.conftest import Build
from tritonsmith import jobs
from tritonsmith.errors import UsageError, VerificationError
from tritonsmith.inputs import passages
from tritonsmith.stages.loading import load_model
from tritonsmith.tasks import Task
from tritonsmith.verify import TOLERANCES, Tolerance


@pytest.fixture
def labelled(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """The packaged texts with the classes that the tiny DistilBERT itself gives them, so that it scores 100."""
    model = load_model(checkpoint("distilbert"), Task.TEXT_CLASSIFICATION, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint("distilbert"))
    texts = [sentence for passage in passages() for sentence in passage["text"].split(". ")]
    labels = [
        int(model(**tokenizer(text, truncation=True, return_tensors="pt", return_token_type_ids=False)).logits.argmax())
        for text in texts
    ]
    assert len(set(labels)) == 2
    file = tmp_path / "labelled.jsonl"
    file.write_text("\n".join(json.dumps({"text": t, "label": f"LABEL_{n}"}) for t, n in zip(texts, labels, strict=True)))
    return file


def test_metric_gates_the_build(build_tiny: Build, repository: Path, labelled: Path) -> None:
    result = build_tiny("distilbert", dataset=labelled)
    assert result.baseline.figures == {"accuracy": 100, "f1": 100}
    assert [stage.metric.value for stage in result.stages] == [100]
    manifest = json.loads((repository / "m" / "1" / "manifest.json").read_text())
    assert manifest["metric"]["checkpoint"]["figures"]["accuracy"] == 100
    assert manifest["metric"]["dataset"]["name"] == "labelled.jsonl"
    assert manifest["stages"][0]["metric"]["figures"]["f1"] == 100


def test_a_metric_that_drops_too_far_publishes_nothing(
    build_tiny: Build, repository: Path, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plant an INT8 model that ruins the metric, and a parity check that does not see it."""
    options = {"precision": "int8", "dataset": labelled, "cache": tmp_path / "cache"}
    monkeypatch.setitem(jobs._MODULES, "int8-dynamic", "tests.ruined")
    monkeypatch.setitem(TOLERANCES, "int8", Tolerance(max_diff=99, relative_l2=99, top1_agreement=0))
    with pytest.raises(VerificationError, match=r"--max-metric-drop 1%: the int8 model's accuracy is \d+\.\d+, .* 100\.00"):
        build_tiny("distilbert", **options)
    assert not repository.exists()
    assert build_tiny("distilbert", **options, max_metric_drop="100%").published.new


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": Path("missing.jsonl")}, "--dataset missing.jsonl: no such file"),
        ({"max_metric_drop": "much"}, "--max-metric-drop much"),
        ({"architecture": "deberta-v2", "dataset": Path("pyproject.toml")}, "fill-mask has no metric"),
        ({"architecture": "bert", "dataset": Path("pyproject.toml")}, "not in SQuAD's JSON format"),
    ],
)
def test_wrong_gates(build_tiny: Build, repository: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_tiny(**options)
    assert not repository.exists()


def test_evaluate_scores_artifacts_and_checkpoints(
    build_tiny: Build, checkpoint: Callable[[str], Path], repository: Path, labelled: Path, run_tool: RunTool
) -> None:
    build_tiny("distilbert")
    version = repository / "m" / "1"
    arguments = ("--dataset", labelled, "--artifact", version, "--checkpoint", checkpoint("distilbert"), "--json")
    done = run_tool("evaluate", *arguments)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert list(document) == [f"PyTorch {checkpoint('distilbert')}", f"onnxruntime {version}"]
    assert all(scores["figures"]["accuracy"] == 100 for scores in document.values())
