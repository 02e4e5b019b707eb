"""config.pbtxt: what is rendered parses, says what was asked for, and comes back as the same text."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Ge, Lt
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tritonclient.grpc.model_config_pb2 import ModelConfig as ModelConfigMessage

from tritonsmith.errors import RepositoryError, TritonsmithError, UsageError
from tritonsmith.repository.model_config import Message, ModelConfig, from_message, to_document, to_message, validate
from tritonsmith.repository.rendering import parse, render

_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)


def values(annotation: Any, metadata: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    """Return a strategy for the values of a field, whatever fields a message has or will get."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return values(arguments[0], (*metadata, *getattr(arguments[1], "metadata", ())))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(values(argument) for argument in arguments))
    if annotation is types.NoneType:
        return st.none()
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=2)
    if isinstance(annotation, type) and issubclass(annotation, Message):
        return st.deferred(lambda: messages(annotation))
    if annotation is int:
        least = next(entry.ge for entry in metadata if isinstance(entry, Ge))
        return st.integers(typing.cast(int, least), next(typing.cast(int, e.lt) for e in metadata if isinstance(e, Lt)) - 1)
    return {bool: st.booleans(), str: _TEXT}[annotation]


def wanted(built: st.SearchStrategy[Message | None]) -> st.SearchStrategy[Message]:
    return typing.cast("st.SearchStrategy[Message]", built.filter(lambda message: message is not None))


def messages(kind: type[Message]) -> st.SearchStrategy[Message]:
    fields = {
        name: values(typing.get_type_hints(kind, include_extras=True)[name]) for name in kind.model_fields if name != "name"
    }
    if "name" in kind.model_fields:
        fields["name"] = st.from_regex(r"[a-z][a-z0-9_.-]{0,10}", fullmatch=True)

    def build(entries: dict[str, Any]) -> Message | None:
        try:
            return kind.model_validate(entries)
        except ValidationError as error:
            if "at most one" not in str(error):
                raise
            return None

    one_of = {"VersionPolicy": ["latest", "all", "specific"], "WarmupInput": ["zero_data", "random_data", "input_data_file"]}
    choices = one_of.get(kind.__name__)
    if choices:
        rest = {name: strategy for name, strategy in fields.items() if name not in choices}
        hints = typing.get_type_hints(kind, include_extras=True)
        picked = st.sampled_from(choices).flatmap(
            lambda choice: st.fixed_dictionaries({choice: values(typing.get_args(hints[choice])[0])})
        )
        return wanted(st.tuples(st.fixed_dictionaries(rest), picked).map(lambda pair: build({**pair[0], **pair[1]})))
    return wanted(st.fixed_dictionaries(fields).map(build))


# To shrink a description of so many fields takes minutes, and shows little.
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), phases=set(Phase) - {Phase.shrink})
@given(messages(ModelConfig))
def test_rendered_text_comes_back_as_itself(config: Message) -> None:
    assert isinstance(config, ModelConfig)
    text = render(config)
    message = parse(text, "rendered")
    assert message == to_message(config)
    again = from_message(message, "rendered")
    assert again == config
    assert render(again) == text
    assert validate(to_document(config), "document") == config


def test_the_types_are_the_proto_s() -> None:
    """Every field of ours is one of the proto's, by name; what is left out is known."""
    ours = {field.alias or name for name, field in ModelConfig.model_fields.items()}
    theirs = {field.name for field in ModelConfigMessage.DESCRIPTOR.fields}
    left_out = {"sequence_batching", "model_operations", "model_repository_agents", "model_metrics"}
    assert ours <= theirs
    assert theirs - ours == left_out | {"runtime", "cc_model_filenames", "metric_tags"}


MINIMAL = {
    "name": "ner",
    "backend": "onnxruntime",
    "max_batch_size": 8,
    "input": [{"name": "ids", "data_type": "TYPE_INT64", "dims": [-1]}],
}


def test_a_template_that_drops_a_field_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.pbtxt.j2").write_text('name: {{ config.name | pbtxt }}\nbackend: "onnxruntime"\n')
    monkeypatch.setattr("tritonsmith.repository.rendering.templates_folder", lambda: tmp_path)
    with pytest.raises(RepositoryError, match="does not say"):
        render(validate(MINIMAL, "test"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_batchsize": 4}, "max_batchsize: no such field"),
        ({"max_batch_size": "many"}, "max_batch_size: .*'many'"),
        ({"max_batch_size": 2**31}, "max_batch_size"),
        ({"input": [{"name": "ids", "data_type": "INT64", "dims": [-1]}]}, "input.0.data_type"),
        ({"version_policy": {"all": {}, "latest": {}}}, "exactly one of latest, all and specific"),
        ({"dynamic_batching": {}, "ensemble_scheduling": {"step": []}}, "at most one"),
        ({"instance_group": [{"kind": "KIND_TPU"}]}, "instance_group.0.kind"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(MINIMAL | change, "test")


def test_yaml_s_numbers_and_switches_become_the_strings_that_triton_reads() -> None:
    config = validate(MINIMAL | {"parameters": {"b": True, "a": 2, "c": {"string_value": "x"}}}, "test")
    assert list(config.parameters.items()) == [("a", "2"), ("b", "1"), ("c", "x")]


def test_unparsable_text_names_its_file_and_line() -> None:
    with pytest.raises(TritonsmithError, match=r"bert/config.pbtxt: 2:1"):
        parse('name: "x"\nnonsense: 1\n', "bert/config.pbtxt")
