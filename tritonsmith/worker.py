"""The subprocess side of a job: reads a job from standard input, runs its module, records what it cost."""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tritonsmith.errors import TritonsmithError
from tritonsmith.hashing import sha256_files, sha256_json


def main() -> int:
    """Run one job; exit code 3 means that error.json says why it failed."""
    spec: dict[str, Any] = json.load(sys.stdin)
    output = Path(spec["output"])
    inputs = {name: Path(path) for name, path in spec["inputs"].items()}
    started = time.perf_counter()
    try:
        facts = importlib.import_module(spec["module"]).run(inputs, output, spec["options"])
    except TritonsmithError as error:
        document = {"type": type(error).__name__, "message": str(error)}
        (output / "error.json").write_text(json.dumps(document), encoding="utf-8")
        return 3
    result = {
        "facts": facts,
        "seconds": round(time.perf_counter() - started, 3),
        "peak_bytes": _peak_bytes(),
        "sha256": sha256_json(sha256_files(output, (file.name for file in output.iterdir()))),
    }
    (output / "result.json").write_text(json.dumps(result, indent=2), encoding="utf-8")
    return 0


def _peak_bytes() -> int:
    """Return the largest memory that this process had, in bytes.

    On Linux getrusage would count the parent's as well, as large as it was when it started us.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
