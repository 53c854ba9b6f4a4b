"""The hooks of the entry-point group `pqbench`: one for each kind, each of which returns component classes.

Hooks only register classes. The harness then works with the classes, so pluggy is never on a hot path. The contracts
are imported for type checkers alone: this module must load without torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import pluggy

if TYPE_CHECKING:
    from pqbench.contracts import (
        CalibrationSampler,
        Correction,
        Distiller,
        Engine,
        FeatureExtractor,
        ImageMetric,
        Kind,
        Method,
        Quantizer,
        Workload,
    )

GROUP: Final = "pqbench"
"""Name of the entry-point group, and of the pluggy project."""

HOOK_PREFIX: Final = "pqbench_"

hookspec: Final = pluggy.HookspecMarker(GROUP)
hookimpl: Final = pluggy.HookimplMarker(GROUP)
"""Marks a plugin's function as a hook: `from pqbench import hookimpl`."""


@hookspec
def pqbench_workloads() -> list[type[Workload]]:  # type: ignore[empty-body]
    """The workloads that this plugin brings."""


@hookspec
def pqbench_calibrations() -> list[type[CalibrationSampler]]:  # type: ignore[empty-body]
    """The calibration samplers that this plugin brings."""


@hookspec
def pqbench_quantizers() -> list[type[Quantizer]]:  # type: ignore[empty-body]
    """The quantizers that this plugin brings."""


@hookspec
def pqbench_distillers() -> list[type[Distiller]]:  # type: ignore[empty-body]
    """The distillers that this plugin brings."""


@hookspec
def pqbench_corrections() -> list[type[Correction]]:  # type: ignore[empty-body]
    """The corrections that this plugin brings."""


@hookspec
def pqbench_engines() -> list[type[Engine]]:  # type: ignore[empty-body]
    """The engines that this plugin brings."""


@hookspec
def pqbench_extractors() -> list[type[FeatureExtractor]]:  # type: ignore[empty-body]
    """The extractors that this plugin brings."""


@hookspec
def pqbench_metrics() -> list[type[ImageMetric]]:  # type: ignore[empty-body]
    """The metrics that this plugin brings."""


@hookspec
def pqbench_methods() -> list[type[Method]]:  # type: ignore[empty-body]
    """The methods that this plugin brings."""


HOOKS: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        "workload": pqbench_workloads.__name__,
        "calibration": pqbench_calibrations.__name__,
        "quantizer": pqbench_quantizers.__name__,
        "distiller": pqbench_distillers.__name__,
        "correction": pqbench_corrections.__name__,
        "engine": pqbench_engines.__name__,
        "extractor": pqbench_extractors.__name__,
        "metric": pqbench_metrics.__name__,
        "method": pqbench_methods.__name__,
    }
)
"""The hook that registers components of each kind."""
