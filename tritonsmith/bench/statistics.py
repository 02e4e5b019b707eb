"""What a list of latencies comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Latency figures in milliseconds over `count` requests."""

    count: int
    mean: float
    std: float
    """Sample standard deviation; 0 for one request."""
    p50: float
    p90: float
    p99: float


def summarise(latencies_s: Sequence[float]) -> Summary:
    """Return the figures of latencies given in seconds; percentiles interpolate linearly between samples."""
    milliseconds = np.asarray(latencies_s, dtype=np.float64) * 1e3
    p50, p90, p99 = np.percentile(milliseconds, [50, 90, 99])
    std = float(milliseconds.std(ddof=1)) if milliseconds.size > 1 else 0.0
    return Summary(milliseconds.size, float(milliseconds.mean()), std, float(p50), float(p90), float(p99))
