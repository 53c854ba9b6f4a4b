"""What a compiled model really executes, read back from OpenVINO's runtime graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

_COMPUTE = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention")
"""Beginnings of the runtime names of operations that hold nearly all multiplications."""


def executed_precisions(compiled: Any) -> Mapping[str, int]:
    """How many compute-heavy operations run at each precision, by the type of their input."""
    counts: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        facts = operation.get_rt_info()
        if facts["layerType"].astype(str).startswith(_COMPUTE):
            counts[facts["runtimePrecision"].astype(str)] += 1
    return dict(sorted(counts.items()))
