"""Recipes: which stages a build runs, in which order."""

from __future__ import annotations

from tritonsmith.errors import UsageError

PRECISIONS = {"fp32": ("export",), "fp16": ("export", "fp16"), "int8": ("export", "int8")}
"""The recipe of each precision; INT8 of the raw export is the faster graph."""

_ORDER = ("compact", "export", "fuse", "fp16", "int8")
_FINAL = ("fp16", "int8")


def parse_recipe(text: str) -> tuple[str, ...]:
    """Return the stages of a comma-separated list.

    Raises:
        UsageError: an unknown stage, one named twice, no export, or an order that cannot work.
    """
    stages = tuple(part.strip() for part in text.split(","))
    for stage in stages:
        if stage not in _ORDER:
            raise UsageError(f"--recipe {text}: unknown stage {stage or 'without a name'}; known are {', '.join(_ORDER)}")
    if "export" not in stages:
        raise UsageError(f"--recipe {text}: has no export")
    if sorted(set(stages), key=_ORDER.index) != list(stages):
        raise UsageError(f"--recipe {text}: expected each stage once, in the order {', '.join(_ORDER)}")
    if all(stage in stages for stage in _FINAL):
        raise UsageError(f"--recipe {text}: fp16 and int8 exclude each other")
    return stages


def precision_of(recipe: tuple[str, ...]) -> str:
    """Return the precision of what a recipe makes."""
    return recipe[-1] if recipe[-1] in _FINAL else "fp32"
