"""pqbench's own components, named by strings: nothing is imported before a name is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pqbench.contracts import Kind

BUILTINS: Final[Mapping[Kind, Mapping[str, str]]] = MappingProxyType(
    {
        "workload": {
            "fashion": "pqbench.workloads.fashion:Fashion",
            "tiny": "pqbench.testing.tiny:TinyWorkload",
        },
        "calibration": {
            "ndtc": "pqbench.calibration.ndtc:Ndtc",
            "uniform": "pqbench.calibration.uniform:Uniform",
            "interval": "pqbench.calibration.interval:Interval",
            "trajectories": "pqbench.calibration.trajectories:Trajectories",
        },
        "engine": {
            "torch": "pqbench.engines.torch_eager:TorchEager",
            "openvino": "pqbench.engines.openvino.engine:OpenVino",
            "openvino-bf16": "pqbench.engines.openvino.engine:OpenVinoBf16",
            "torch-compile": "pqbench.engines.torch_compile:TorchCompile",
        },
    }
)
"""Kind -> name -> `module:class`. The harness has no methods, quantizers, distillers or corrections of its own."""
