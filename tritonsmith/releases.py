"""What a Triton release can load: its server version, its ONNX Runtime and the newest ONNX it reads.

The pairing of Triton and ONNX Runtime is `DEFAULT_TRITON_VERSION_MAP` in the server's `build.py` of that release; opset and IR
version of an ONNX Runtime are in its `docs/Versioning.md`. ONNX Runtime reads every older opset and IR, so a release between
two rows, or after the last, is held to the newest row that is not later than it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tritonsmith.errors import UsageError


@dataclass(frozen=True)
class Release:
    """One NGC container release and the ONNX that its ONNX Runtime backend accepts."""

    name: str
    onnxruntime: str
    max_opset: int
    max_ir_version: int
    in_table: bool = True
    """False where it is held to an older row, for want of its own."""

    @property
    def image(self) -> str:
        """The NGC container image of this release."""
        return f"nvcr.io/nvidia/tritonserver:{self.name}-py3"


EMBEDDED = "24.10"
"""The release of the embedded runtime: nvidia-pytriton 0.7.0 carries tritonserver 2.51.0."""

_ROWS = (
    Release("24.10", "1.19.2", 21, 10),
    Release("25.03", "1.20.1", 21, 10),
)


def find_release(name: str) -> Release:
    """Return what the release called `name` (`YY.MM`) can load.

    Raises:
        UsageError: `name` is not of that form, or is older than the table.
    """
    if not re.fullmatch(r"\d\d\.(0[1-9]|1[0-2])", name):
        raise UsageError(f"--triton {name}: expected a release of the form YY.MM, such as {EMBEDDED}")
    known = [row for row in _ROWS if row.name <= name]
    if not known:
        raise UsageError(f"--triton {name}: releases before {_ROWS[0].name} are not supported; choose {_ROWS[0].name} or later")
    return replace(known[-1], name=name, in_table=known[-1].name == name)
