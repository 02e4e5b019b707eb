"""Triton's log as a person reads it: time, level and message; tables and source positions are left out."""

from __future__ import annotations

import re

# Triton's own lines: level and date, time, process, source position, message in quotes.
_LINE = re.compile(r"^([IWEF])\d{4} (\d\d:\d\d:\d\d)\.\d+ \d+ [\w.]+:\d+\] ?(.*)$")
_LEVELS = {"I": "info", "W": "warn", "E": "error", "F": "fatal"}
# What every start without a GPU says; nobody can act on it.
_NOISE = (
    "Unable to allocate pinned system memory",
    "CUDA memory pool disabled",
    "CudaDriverHelper has not been initialized",
    "Failed to initialize NVML",
    "DCGM unable to start",
    "Collecting CPU metrics",
)


def readable(line: str) -> str | None:
    """Return a line of Triton's log made readable, None for one that tells a person nothing."""
    line = line.rstrip()
    if not line or line.startswith(("+--", "|")) or any(noise in line for noise in _NOISE):
        return None
    match = _LINE.match(line)
    if not match:
        return line
    level, time, message = match.groups()
    message = message.strip().strip('"').strip()
    return f"{time} {_LEVELS[level]:<5} {message}" if message else None
