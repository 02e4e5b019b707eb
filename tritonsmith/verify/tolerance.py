"""How much an artifact may differ from its checkpoint, by precision: the figures that a build is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tritonsmith.errors import VerificationError


@dataclass(frozen=True)
class Tolerance:
    """Limits on the figures of `parity.compare`."""

    max_diff: float
    """Of the largest absolute difference, relative to the reference's largest absolute value (at least 1)."""
    relative_l2: float
    top1_agreement: float
    """Least share of equal decisions."""


TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(max_diff=1e-4, relative_l2=1e-5, top1_agreement=0.995),
    "fp16": Tolerance(max_diff=2e-2, relative_l2=1e-2, top1_agreement=0.97),
    "int8": Tolerance(max_diff=0.5, relative_l2=0.2, top1_agreement=0.8),
}


def judge(figures: Mapping[str, Any], precision: str) -> None:
    """Hold the figures of one artifact against the tolerance of its precision.

    Raises:
        VerificationError: a figure is beyond it; the message names the figure, its value and the limit.
    """
    limit = TOLERANCES[precision]
    if not figures["finite"]:
        raise VerificationError(f"parity: the {precision} model answers NaN or infinity; nothing was published")
    scaled = figures["max_abs_diff"] / max(1.0, figures["max_abs_reference"])
    checks = [
        ("largest difference", scaled, limit.max_diff),
        ("relative L2 difference", figures["relative_l2"], limit.relative_l2),
    ]
    agreement = figures["top1_agreement"]
    for name, value, bound in checks:
        if value > bound:
            raise VerificationError(
                f"parity: the {precision} model's {name} from the checkpoint is {value:.3g}, at most {bound:g} is allowed; "
                "nothing was published"
            )
    if agreement is not None and agreement < limit.top1_agreement:
        raise VerificationError(
            f"parity: the {precision} model decides as the checkpoint in {agreement:.1%} of cases, "
            f"at least {limit.top1_agreement:.1%} is asked; nothing was published"
        )
