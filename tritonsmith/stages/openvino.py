"""openvino: INT8 for CPUs by OpenVINO and nncf, as the IR (model.xml, model.bin) that Triton's `openvino` backend loads.

Post-training quantisation with nncf's transformer scheme: SmoothQuant (Xiao et al. 2023), activations calibrated on real text,
weights per channel, biases corrected. What stays unquantised runs in BF16 where the processor computes in it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonsmith.artifact import IR_FILE, carry_over_to_openvino, read_artifact
from tritonsmith.engines import openvino_precision
from tritonsmith.errors import StageError
from tritonsmith.stages.calibration import calibration_feeds


def run(inputs: Mapping[str, Path], output: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Quantise `inputs["artifact"]`, a raw export; the facts count its matrix products.

    Options:
        max_length: the longest calibration text, in tokens; exclude: names of nodes to leave in floating point.

    Raises:
        StageError: OpenVINO or nncf is not installed or cannot read the graph, or nothing was quantised.
    """
    # nncf sends usage data unless it believes to run in its own tests; a build must not.
    os.environ["NNCF_CI"] = "1"
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise StageError(f"openvino: {error.name} is not installed; run: pip install 'tritonsmith[openvino]'") from error
    source = read_artifact(inputs["artifact"])
    try:
        model = openvino.Core().read_model(source.model)
    except RuntimeError as error:
        raise StageError(f"openvino: cannot read the graph: {str(error).strip().splitlines()[-1]}") from error
    feeds = calibration_feeds(source, inputs, int(options["max_length"]))
    # Names that OpenVINO has folded away by reading the graph are none of nncf's.
    ignored = nncf.IgnoredScope(names=list(options["exclude"]), validate=False)
    try:
        quantised = nncf.quantize(
            model, nncf.Dataset(feeds), subset_size=len(feeds), model_type=nncf.ModelType.TRANSFORMER, ignored_scope=ignored
        )
    except Exception as error:  # nncf's own errors share no base class, and OpenVINO's are RuntimeErrors
        reason = str(error).strip().splitlines()[0]
        raise StageError(f"openvino: nncf cannot quantise {source.model_type}: {reason}; use int8-dynamic instead") from error
    openvino.save_model(quantised, output / IR_FILE, compress_to_fp16=False)
    counts = Counter(operation.get_type_name() for operation in quantised.get_ops())
    if not counts["FakeQuantize"]:
        raise StageError("openvino: nncf left every matrix product in FP32")
    carry_over_to_openvino(source, output, "int8")
    return {
        "quantised_activations": counts["FakeQuantize"],
        "matmuls": counts["MatMul"],
        "calibration_texts": len(feeds),
        "left_in_float": list(options["exclude"]),
        "calibrated_on_packaged_texts": "calibration" not in inputs,
        "precision_of_the_rest": openvino_precision(),
    }
