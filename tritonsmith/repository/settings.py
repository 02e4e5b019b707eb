"""`--set key=value`: any field of a configuration by its path, such as `dynamic_batching.priority_levels=2`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from tritonsmith.errors import UsageError

_MAPS = ("parameters", "input_map", "output_map")
"""Fields that hold keys of the user's: what follows them in a path is one key, dots included."""


def apply_settings(document: dict[str, Any], settings: Iterable[str]) -> None:
    """Change `document` (fields of `model_config.proto`) by each setting; lists are indexed by numbers.

    Raises:
        UsageError: not of the form key=value, a value that is not YAML, or a path that leads through something without fields.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise UsageError(f"--set {setting}: expected key=value, such as dynamic_batching.max_queue_delay_microseconds=500")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UsageError(f"--set {setting}: the value is not YAML") from None
        _put(document, _split(path), value, setting)


def _split(path: str) -> list[str]:
    parts = path.split(".")
    for index, part in enumerate(parts[:-1]):
        if part in _MAPS:
            return [*parts[: index + 1], ".".join(parts[index + 1 :])]
    return parts


def _put(document: Any, parts: list[str], value: Any, setting: str) -> None:
    part, rest = parts[0], parts[1:]
    if isinstance(document, list):
        if not part.isdigit() or int(part) > len(document):
            raise UsageError(f"--set {setting}: expected a number up to {len(document)} in place of {part!r}")
        key: Any = int(part)
        if key == len(document):
            document.append({})
    elif isinstance(document, dict):
        key = part
    else:
        raise UsageError(f"--set {setting}: {part!r} names a field of something that has none")
    if not rest:
        document[key] = value
        return
    if isinstance(document, dict) and document.get(key) is None:
        document[key] = [] if rest[0].isdigit() else {}
    _put(document[key], rest, value, setting)
