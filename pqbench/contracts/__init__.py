"""The public API that plugins import: one base class for each kind of component."""

from pqbench.contracts.calibration import CalibrationSampler, CalibrationSet
from pqbench.contracts.component import API_VERSION, KINDS, Component, Kind
from pqbench.contracts.context import Context
from pqbench.contracts.correction import Correction
from pqbench.contracts.distiller import Distiller, Teachers
from pqbench.contracts.engine import Engine, Executable, ExecutedLayer
from pqbench.contracts.extractor import FeatureExtractor, Weights
from pqbench.contracts.method import Method
from pqbench.contracts.metric import Contribution, ImageMetric, MetricInputs, Score, ScoringRules, Setting
from pqbench.contracts.parameters import BUDGETS, Budget, Parameter, parameter, parameters_of
from pqbench.contracts.precision import Precision
from pqbench.contracts.quantizer import Quantizer
from pqbench.contracts.workload import AcceptanceWindow, Extractor, Reference, Workload

__all__ = [
    "API_VERSION",
    "BUDGETS",
    "KINDS",
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
    "Parameter",
    "Precision",
    "Quantizer",
    "Reference",
    "Score",
    "ScoringRules",
    "Setting",
    "Teachers",
    "Weights",
    "Workload",
    "parameter",
    "parameters_of",
]
