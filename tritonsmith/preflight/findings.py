"""What a check finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Triton refuses the model, or it answers wrongly."""
    WARNING = "warning"
    """Triton accepts it silently and does something else than is meant, or something dear."""
    NOTE = "note"
    """Worth knowing."""


@dataclass(frozen=True)
class Finding:
    """One thing found: where, what, and what to do."""

    rule: str
    severity: Severity
    model: str
    """The model's folder; empty for the repository itself."""
    file: str
    """Relative to the repository."""
    field: str
    """The path of a field in config.pbtxt, with the proto's names; empty where it is not about one."""
    message: str
    fix: str
    line: int | None = None
    """Of a text that cannot be parsed."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.field + ': ' if self.field else ''}{self.message}; {self.fix}"


def errors_of(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings that are errors."""
    return [finding for finding in findings if finding.severity is Severity.ERROR]
