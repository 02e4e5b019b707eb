"""From a description to the text of config.pbtxt and back: rendered by Jinja, parsed by protobuf, compared."""

from __future__ import annotations

import json

import jinja2
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig as ModelConfigMessage

from tritonsmith.errors import RepositoryError
from tritonsmith.paths import templates_folder
from tritonsmith.repository.model_config import ModelConfig, to_message

TEMPLATE = "config.pbtxt.j2"


def render(config: ModelConfig) -> str:
    """Return the text of config.pbtxt.

    Raises:
        RepositoryError: the template's text does not parse, or does not say what `config` says.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates_folder()),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 (protobuf text, not HTML; strings pass the pbtxt filter)
    )
    environment.filters["pbtxt"] = quote
    text = _indented(environment.get_template(TEMPLATE).render(config=config))
    if parse(text, TEMPLATE) != to_message(config):
        raise RepositoryError(f"templates/{TEMPLATE}: the rendered text does not say what was asked for")
    return text


def _indented(text: str) -> str:
    """Lay out lines of which a block's first ends with its bracket and the last begins with it; drop empty ones."""
    lines, depth = [], 0
    for line in filter(None, map(str.strip, text.split("\n"))):
        depth -= line.startswith(("}", "]"))
        lines.append("  " * depth + line)
        depth += line.endswith(("{", "["))
    return "\n".join(lines) + "\n"


def parse(text: str, where: str) -> ModelConfigMessage:
    """Parse a config.pbtxt; `where` names it in errors.

    Raises:
        RepositoryError: not a ModelConfig in protobuf's text format.
    """
    try:
        return text_format.Parse(text, ModelConfigMessage())
    except text_format.ParseError as error:
        raise RepositoryError(f"{where}: {error}") from None


def quote(value: str) -> str:
    """Return `value` as a string of protobuf's text format, whose escapes JSON's are a part of."""
    return json.dumps(value, ensure_ascii=False)
