"""The public API that plugins import: one base class for each kind of component."""

from pqbench.contracts.calibration import CalibrationSampler, CalibrationSet
from pqbench.contracts.component import API_VERSION, KINDS, Component, Kind
from pqbench.contracts.context import Context
from pqbench.contracts.correction import Correction
from pqbench.contracts.distiller import Distiller, Teachers
from pqbench.contracts.engine import Engine, Executable, ExecutedLayer
from pqbench.contracts.method import Method
from pqbench.contracts.parameters import BUDGETS, Budget, Parameter, parameter, parameters_of
from pqbench.contracts.quantizer import Quantizer
from pqbench.contracts.workload import AcceptanceWindow, Extractor, Reference, Workload
from pqbench.methods.precision import Precision

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
    "Correction",
    "Distiller",
    "Engine",
    "Executable",
    "ExecutedLayer",
    "Extractor",
    "Kind",
    "Method",
    "Parameter",
    "Precision",
    "Quantizer",
    "Reference",
    "Teachers",
    "Workload",
    "parameter",
    "parameters_of",
]
