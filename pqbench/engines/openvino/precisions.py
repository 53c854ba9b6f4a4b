"""What a compiled model really executes, read back from OpenVINO's runtime graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

_COMPUTE = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention")
"""Beginnings of the runtime names of operations that hold nearly all multiplications."""
_FUSED = ("Subgraph", "MHA")
"""Runtime names of kernels that several operations were fused into: those of attention, also its products."""
_PRODUCTS = ("/MatMul", "/ScaledDotProductAttention")
"""Ends of the names of operations that are products; what only prepares one has its name and then another."""


def executed_precisions(compiled: Any) -> Mapping[str, int]:
    """How many compute-heavy operations run at each precision, by the type of their input.

    Attention that was fused into one kernel counts as one.
    """
    counts: Counter[str] = Counter()
    for operation in compiled.get_runtime_model().get_ops():
        facts = operation.get_rt_info()
        kind = facts["layerType"].astype(str)
        if kind.startswith(_COMPUTE) or (kind in _FUSED and _holds_product(facts)):
            counts[facts["runtimePrecision"].astype(str)] += 1
    return dict(sorted(counts.items()))


def _holds_product(facts: Any) -> bool:
    """Whether one of the operations that became a kernel is a product."""
    names: str = facts["originalLayersNames"].astype(str) if "originalLayersNames" in facts else ""
    return any(name.endswith(_PRODUCTS) for name in names.split(","))
