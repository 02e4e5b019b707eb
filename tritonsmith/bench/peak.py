"""What this machine can compute: the rate of one large matrix product in each arithmetic, to hold an engine's rate against."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

_ROWS, _INNER, _COLUMNS = 256, 1024, 4096
"""An FFN of BERT-large on 256 tokens."""
_REPEATS = 7


def measure_peaks(threads: int) -> dict[str, float]:
    """Return the best of several runs in GFLOP/s (a multiplication and an addition count as two): fp32, bf16, int8.

    FP32 and BF16 are PyTorch's, INT8 (uint8 x int8) is ONNX Runtime's MatMulInteger.
    """
    import torch

    torch.set_num_threads(threads)
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        rows, weight = torch.randn(_ROWS, _INNER, dtype=dtype), torch.randn(_COLUMNS, _INNER, dtype=dtype)
        with torch.inference_mode():
            rates[name] = _rate(lambda rows=rows, weight=weight: torch.nn.functional.linear(rows, weight))  # type: ignore[misc]
    rates["int8"] = _rate(_integer_product(threads))
    return rates


def _rate(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 2 * _ROWS * _INNER * _COLUMNS / min(seconds) / 1e9


def _integer_product(threads: int) -> Callable[[], object]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    weight = numpy_helper.from_array(generator.integers(-127, 127, (_INNER, _COLUMNS), dtype=np.int8), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["rows", "weight"], ["product"])],
        "peak",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, [_ROWS, _INNER])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [_ROWS, _COLUMNS])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"rows": generator.integers(0, 255, (_ROWS, _INNER), dtype=np.uint8)}
    return lambda: session.run(None, feed)
