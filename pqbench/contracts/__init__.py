"""What a component of each kind is and does: one base class a kind, and the types that they share.

A part of the public API, beside `pqbench.quantization`, `distillation`, `diffusion` and `testing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pqbench.base.lazy import lazy_names

if TYPE_CHECKING:
    from pqbench.base.errors import UserError
    from pqbench.contracts.calibration import CalibrationSampler, CalibrationSet
    from pqbench.contracts.component import API_VERSION, KINDS, Component, Kind
    from pqbench.contracts.context import Context, ProgressCallback
    from pqbench.contracts.correction import Correction
    from pqbench.contracts.distiller import Distiller, Teachers
    from pqbench.contracts.engine import Engine, Executable, ExecutedLayer
    from pqbench.contracts.extractor import FeatureExtractor, Weights
    from pqbench.contracts.method import Method
    from pqbench.contracts.metric import Contribution, ImageMetric, MetricInputs, Need, Score, ScoringRules, Setting
    from pqbench.contracts.parameters import BUDGETS, Budget, Parameter, parameter, parameters_of
    from pqbench.contracts.precision import FULL_PRECISION_BITS, Precision
    from pqbench.contracts.quantizer import Quantizer
    from pqbench.contracts.schedule import PREDICTIONS, NoiseSchedule, trailing_timesteps
    from pqbench.contracts.workload import AcceptanceWindow, Extractor, Reference, Workload

__all__ = [
    "API_VERSION",
    "BUDGETS",
    "FULL_PRECISION_BITS",
    "KINDS",
    "PREDICTIONS",
    "AcceptanceWindow",
    "Budget",
    "CalibrationSampler",
    "CalibrationSet",
    "Component",
    "Context",
    "Contribution",
    "Correction",
    "Distiller",
    "Engine",
    "Executable",
    "ExecutedLayer",
    "Extractor",
    "FeatureExtractor",
    "ImageMetric",
    "Kind",
    "Method",
    "MetricInputs",
    "Need",
    "NoiseSchedule",
    "Parameter",
    "Precision",
    "ProgressCallback",
    "Quantizer",
    "Reference",
    "Score",
    "ScoringRules",
    "Setting",
    "Teachers",
    "UserError",
    "Weights",
    "Workload",
    "parameter",
    "parameters_of",
    "trailing_timesteps",
]

if not TYPE_CHECKING:  # a checker would take any name for one that exists
    __getattr__ = lazy_names(
        __name__,
        {
            "pqbench.base.errors": ("UserError",),
            "pqbench.contracts.calibration": ("CalibrationSampler", "CalibrationSet"),
            "pqbench.contracts.component": ("API_VERSION", "KINDS", "Component", "Kind"),
            "pqbench.contracts.context": ("Context", "ProgressCallback"),
            "pqbench.contracts.correction": ("Correction",),
            "pqbench.contracts.distiller": ("Distiller", "Teachers"),
            "pqbench.contracts.engine": ("Engine", "Executable", "ExecutedLayer"),
            "pqbench.contracts.extractor": ("FeatureExtractor", "Weights"),
            "pqbench.contracts.method": ("Method",),
            "pqbench.contracts.metric": (
                "Contribution",
                "ImageMetric",
                "MetricInputs",
                "Need",
                "Score",
                "ScoringRules",
                "Setting",
            ),
            "pqbench.contracts.parameters": ("BUDGETS", "Budget", "Parameter", "parameter", "parameters_of"),
            "pqbench.contracts.precision": ("FULL_PRECISION_BITS", "Precision"),
            "pqbench.contracts.quantizer": ("Quantizer",),
            "pqbench.contracts.schedule": ("PREDICTIONS", "NoiseSchedule", "trailing_timesteps"),
            "pqbench.contracts.workload": ("AcceptanceWindow", "Extractor", "Reference", "Workload"),
        },
    )
