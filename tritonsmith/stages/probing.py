"""What happens inside a graph on real text: the values of its tensors, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tritonsmith.inputs import Feed

Array = npt.NDArray[np.float32]
TENSORS_AT_ONCE = 16
"""So many tensors are held in memory together."""


def tensor_values(file: Path, scratch: Path, names: Sequence[str], feeds: Sequence[Feed]) -> Iterator[tuple[str, list[Array]]]:
    """Yield each named tensor of the ONNX model `file` with its values, one array a feed.

    Args:
        file: its external data, if any, lies beside it.
        scratch: an empty folder on the same file system; it is left empty.
        names: tensors of the graph.
        feeds: inputs [batch, sequence].
    """
    import onnx
    import onnxruntime

    unique = list(dict.fromkeys(names))
    for data in file.parent.glob(f"{file.name}?*"):
        (scratch / data.name).hardlink_to(data)
    probe = scratch / "probe.onnx"
    model = onnx.load(file, load_external_data=False)
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in unique if name not in known)
    probe.write_bytes(model.SerializeToString())
    del model
    session = onnxruntime.InferenceSession(probe, providers=["CPUExecutionProvider"])
    for start in range(0, len(unique), TENSORS_AT_ONCE):
        chosen = unique[start : start + TENSORS_AT_ONCE]
        answers: list[list[Any]] = [session.run(chosen, feed) for feed in feeds]
        for position, name in enumerate(chosen):
            yield name, [answer[position] for answer in answers]
    for leftover in scratch.iterdir():
        leftover.unlink()
