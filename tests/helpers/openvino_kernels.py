"""What OpenVINO's kernels are on the machine that runs the tests."""

from __future__ import annotations

import os

import pytest

from pqbench.engines.openvino.exact import saturating_kinds

LAYER_NORM_BREAKS = bool(os.environ.get("ONEDNN_MAX_CPU_ISA"))
"""OpenVINO 2026.4's layer norm looks at the CPU, not at the cap on oneDNN. Under a cap below the CPU it crashes."""
needs_top_k = pytest.mark.skipif(
    os.environ.get("ONEDNN_MAX_CPU_ISA") == "SSE41", reason="OpenVINO 2026.4 has no SSE4.1 kernel for top-k"
)
"""Of nets whose output is corrected: the time step's place in a table is found by its smallest distance."""
BYTES = {"u8", "i8"}


def wide_layers() -> set[str]:
    """Types in which layers run whose weights and inputs have 8 bits: float where their products would saturate."""
    return {"f32"} if "linear" in saturating_kinds() else BYTES


def layers_of(bits: int) -> set[str]:
    """The same for layers of so many bits; narrower grids cannot saturate."""
    return wide_layers() if bits == 8 else BYTES
