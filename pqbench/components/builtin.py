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
            "cifar10": "pqbench.workloads.cifar10:Cifar10",
            "fashion": "pqbench.workloads.fashion:Fashion",
            "tiny": "pqbench.testing.tiny:TinyWorkload",
        },
        "calibration": {
            "ndtc": "pqbench.calibration.ndtc:Ndtc",
            "uniform": "pqbench.calibration.uniform:Uniform",
            "interval": "pqbench.calibration.interval:Interval",
            "trajectories": "pqbench.calibration.trajectories:Trajectories",
        },
        "metric": {
            "fd": "pqbench.scoring.metrics.frechet:FrechetDistance",
            "kid": "pqbench.scoring.metrics.kernel:KernelInceptionDistance",
            "psnr_to_fp": "pqbench.scoring.metrics.paired:PsnrToFp",
            "ssim_to_fp": "pqbench.scoring.metrics.paired:SsimToFp",
            "lpips_to_fp": "pqbench.scoring.metrics.lpips:LpipsToFp",
            "fd_to_fp": "pqbench.scoring.metrics.frechet:FrechetToFp",
            "sfid": "pqbench.scoring.metrics.frechet:SpatialFrechetDistance",
            "is": "pqbench.scoring.metrics.inception:InceptionScore",
            "precision": "pqbench.scoring.metrics.manifold:ManifoldPrecision",
            "recall": "pqbench.scoring.metrics.manifold:Recall",
            "clip_score": "pqbench.scoring.metrics.clip_score:ClipScore",
            "fd_infinity": "pqbench.scoring.metrics.extrapolated:FrechetInfinity",
        },
        "engine": {
            "torch": "pqbench.engines.torch_eager:TorchEager",
            "openvino": "pqbench.engines.openvino.engine:OpenVino",
            "openvino-bf16": "pqbench.engines.openvino.engine:OpenVinoBf16",
            "torch-compile": "pqbench.engines.torch_compile:TorchCompile",
            "torch-int8": "pqbench.engines.torch_int8.engine:TorchInt8",
        },
        "extractor": {
            "fd-dinov2": "pqbench.scoring.extractors.timm_backbone:FdDinoV2",
            "fid-clean": "pqbench.scoring.extractors.clean_fid:FidClean",
            "fid-legacy": "pqbench.scoring.extractors.clean_fid:FidLegacy",
            "fid-legacy-tensorflow": "pqbench.scoring.extractors.clean_fid:FidLegacyTensorflow",
            "fid-torch-fidelity": "pqbench.scoring.extractors.torch_fidelity:FidTorchFidelity",
            "timm": "pqbench.scoring.extractors.timm_backbone:TimmBackbone",
        },
    }
)
"""Kind -> name -> `module:class`. The harness has no methods, quantizers, distillers or corrections of its own."""
