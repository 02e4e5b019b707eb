"""Presets: named starting points of a configuration, each a YAML file that a user can read, copy and change.

`config` holds fields of `model_config.proto`; what depends on the model (tensors, warm-up requests, TensorRT's profiles,
buckets) is filled in by `tritonsmith.repository.describe`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tritonsmith.errors import UsageError
from tritonsmith.paths import templates_folder
from tritonsmith.repository.model_config import describe_problem

DEFAULTS = {"cpu": "cpu", "gpu": "throughput"}
"""The preset of each device where the user names none."""


class Preset(BaseModel):
    """One preset file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = ""
    devices: tuple[Literal["cpu", "gpu"], ...] = ("cpu", "gpu")
    precision: str = "fp32"
    """Where neither --precision nor --recipe is given."""
    recipes: dict[str, str] = Field(default_factory=dict)
    """The stages of each precision, where they differ from the device's usual ones."""
    lengths: tuple[Annotated[int, Field(gt=0)], ...] = (32, 64, 128, 256)
    """Tokens; those beyond the model's are left out. What is warmed up, and what the buckets and TensorRT's profile cover."""
    bucketed: bool = False
    """Clients pad to `lengths`, which are published as the parameter `bucket_lengths`."""
    warmup: bool = False
    config: dict[str, Any] = Field(default_factory=dict)


def preset_names() -> list[str]:
    """Return the names of the packaged presets."""
    return sorted(file.stem for file in (templates_folder() / "presets").glob("*.yaml"))


@cache
def load_preset(name: str) -> Preset:
    """Return the preset called `name`, or the one in the file of that path.

    Raises:
        UsageError: neither, or the file is not a preset.
    """
    if name in preset_names():
        file = templates_folder() / "presets" / f"{name}.yaml"
    elif name.endswith((".yaml", ".yml")):
        file = Path(name)
    else:
        raise UsageError(f"--preset {name}: unknown; expected {', '.join(preset_names())}, or a file that ends in .yaml")
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Preset.model_validate(document)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = describe_problem(error) if isinstance(error, ValidationError) else " ".join(str(error).split())
        raise UsageError(f"--preset {name}: {reason}") from None


def describe_presets() -> str:
    """Return one line on each packaged preset."""
    return "\n\n".join(f"[bold]{name}[/]: {load_preset(name).description}" for name in preset_names())
