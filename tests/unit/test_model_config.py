"""config.pbtxt: what is rendered parses, and says what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritonsmith.artifact import TensorSpec
from tritonsmith.errors import RepositoryError, TritonsmithError, UsageError
from tritonsmith.repository.model_config import (
    DynamicBatching,
    InstanceGroup,
    ModelConfig,
    from_graph,
    parse,
    render,
    to_message,
)

GOLDEN = Path(__file__).parent / "golden"
IDS = TensorSpec("input_ids", "INT64", (-1, -1))
MASK = TensorSpec("attention_mask", "INT64", (-1, -1))
LOGITS = TensorSpec("logits", "FP32", (-1, -1, 5))


def test_batched_model_leaves_the_batch_out_of_dims() -> None:
    config = from_graph(
        "ner",
        [IDS, MASK],
        [LOGITS],
        max_batch_size=8,
        instance_group=InstanceGroup("KIND_GPU", 2, (0, 1)),
        dynamic_batching=DynamicBatching(100),
        num_versions=2,
        parameters={"intra_op_thread_count": "2"},
    )
    assert render(config) == (GOLDEN / "batched_gpu.pbtxt").read_text(encoding="utf-8")


def test_unbatched_model_has_the_batch_in_dims() -> None:
    config = from_graph("ner", [IDS, MASK], [LOGITS], max_batch_size=0, instance_group=InstanceGroup("KIND_CPU"))
    assert render(config) == (GOLDEN / "unbatched_cpu.pbtxt").read_text(encoding="utf-8")


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
tensors = st.builds(
    TensorSpec,
    names,
    st.sampled_from(["INT64", "INT32", "FP32", "FP16", "BOOL"]),
    st.lists(st.one_of(st.just(-1), st.integers(1, 2**31)), min_size=1, max_size=4).map(tuple),
)
configs = st.builds(
    ModelConfig,
    name=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,10}", fullmatch=True),
    max_batch_size=st.integers(0, 1024),
    input=st.lists(tensors, min_size=1, max_size=3).map(tuple),
    output=st.lists(tensors, min_size=1, max_size=3).map(tuple),
    instance_group=st.lists(
        st.builds(
            InstanceGroup,
            st.sampled_from(["KIND_CPU", "KIND_GPU"]),
            st.integers(1, 64),
            st.lists(st.integers(0, 15), max_size=3).map(tuple),
        ),
        min_size=1,
        max_size=2,
    ).map(tuple),
    num_versions=st.integers(1, 9),
    dynamic_batching=st.none()
    | st.builds(DynamicBatching, st.integers(0, 10**7), st.lists(st.integers(1, 64), max_size=3).map(tuple)),
    parameters=st.dictionaries(
        names, st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12), max_size=3
    ),
)


@given(configs)
def test_rendered_text_says_what_the_description_says(config: ModelConfig) -> None:
    assert parse(render(config), "rendered") == to_message(config)


def test_a_template_that_drops_a_field_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.pbtxt.j2").write_text('name: {{ config.name | pbtxt }}\nbackend: "onnxruntime"\n')
    monkeypatch.setattr("tritonsmith.repository.model_config.templates_folder", lambda: tmp_path)
    config = from_graph("ner", [IDS], [LOGITS], max_batch_size=8, instance_group=InstanceGroup("KIND_CPU"))
    with pytest.raises(RepositoryError, match="does not say"):
        render(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../up"}, "--name"),
        ({"name": ""}, "--name"),
        ({"max_batch_size": -1}, "--max-batch-size"),
        ({"instance_group": InstanceGroup("KIND_CPU", 0)}, "--instances"),
        ({"max_batch_size": 0, "dynamic_batching": DynamicBatching()}, "--dynamic-batching"),
        ({"inputs": [TensorSpec("input_ids", "INT64", (1, -1))]}, "no dynamic batch dimension"),
    ],
)
def test_wrong_options_are_named(change: dict[str, object], message: str) -> None:
    options: dict[str, object] = {
        "name": "ner",
        "inputs": [IDS],
        "outputs": [LOGITS],
        "max_batch_size": 4,
        "instance_group": InstanceGroup("KIND_CPU"),
    }
    with pytest.raises(UsageError, match=message):
        from_graph(**(options | change))  # type: ignore[arg-type]


def test_unparsable_text_names_its_file_and_line() -> None:
    with pytest.raises(TritonsmithError, match=r"bert/config.pbtxt: 2:1"):
        parse('name: "x"\nnonsense: 1\n', "bert/config.pbtxt")
