"""OpenVINO: int8 kernels for quantized nets and optimised float kernels for full-precision ones, on a CPU."""

from pqbench.engines.openvino.engine import OpenVino, OpenVinoBf16

__all__ = ["OpenVino", "OpenVinoBf16"]
