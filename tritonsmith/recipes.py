"""Recipes: which stages a build runs, in which order."""

from __future__ import annotations

from tritonsmith.errors import UsageError

PRECISIONS = {
    "cpu": {"fp32": ("export",), "fp16": ("export", "fp16"), "int8": ("export", "int8-dynamic")},
    "gpu": {"fp32": ("export",), "fp16": ("export", "fp16"), "int8": ("export", "int8-static")},
}
"""The recipe of each precision by device; INT8 of the raw export is the faster graph."""

FUSE_LEVELS = ("basic", "extended", "all")
"""`basic`: layer norms and activations; `extended`: attention too; `all`: biases and skips merged with their neighbours."""

_FINAL = {"fp16": "fp16", "int8-dynamic": "int8", "int8-static": "int8", "openvino": "int8"}
"""The stages that change the precision, one of them at most, and what they change it to."""
ORDER = ("compact", "export", "fuse", *_FINAL)


def parse_recipe(text: str) -> tuple[str, ...]:
    """Return the stages of a comma-separated list.

    Raises:
        UsageError: an unknown stage, one named twice, no export, or an order that cannot work.
    """
    stages = tuple(part.strip() for part in text.split(","))
    for stage in stages:
        if stage not in ORDER:
            raise UsageError(f"--recipe {text}: unknown stage {stage or 'without a name'}; known are {', '.join(ORDER)}")
    if "export" not in stages:
        raise UsageError(f"--recipe {text}: has no export")
    if sorted(set(stages), key=ORDER.index) != list(stages):
        raise UsageError(f"--recipe {text}: expected each stage once, in the order {', '.join(ORDER)}")
    final = [stage for stage in stages if stage in _FINAL]
    if len(final) > 1:
        raise UsageError(f"--recipe {text}: {' and '.join(final)} exclude each other")
    for stage in ("int8-static", "openvino"):
        if {"fuse", stage} <= set(stages):
            raise UsageError(f"--recipe {text}: {stage} reads the raw export and its runtime fuses it; leave fuse out")
    return stages


def precision_of(recipe: tuple[str, ...]) -> str:
    """Return the precision of what a recipe makes."""
    return _FINAL.get(recipe[-1], "fp32")
