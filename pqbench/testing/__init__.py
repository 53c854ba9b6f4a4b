"""For tests of plugins: tiny workloads, and the contract of each kind of component as one call.

from pqbench.testing import check_quantizer

def test_my_quantizer_keeps_the_contract():
    check_quantizer(MyQuantizer(iterations=5))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pqbench.base.lazy import lazy_names

if TYPE_CHECKING:
    from pqbench.testing.checks.calibration import check_calibration_sampler
    from pqbench.testing.checks.correction import check_correction
    from pqbench.testing.checks.distiller import check_distiller
    from pqbench.testing.checks.engine import check_engine
    from pqbench.testing.checks.expect import ContractError
    from pqbench.testing.checks.extractor import check_extractor
    from pqbench.testing.checks.ladder import check_ladder
    from pqbench.testing.checks.leaks import no_leaked_globals
    from pqbench.testing.checks.method import check_method
    from pqbench.testing.checks.metric import check_metric, metric_inputs
    from pqbench.testing.checks.quantizer import check_quantizer
    from pqbench.testing.checks.workload import check_workload
    from pqbench.testing.conditional import TinyLabelled, TinyText
    from pqbench.testing.tiny import TinyWorkload

__all__ = [
    "ContractError",
    "TinyLabelled",
    "TinyText",
    "TinyWorkload",
    "check_calibration_sampler",
    "check_correction",
    "check_distiller",
    "check_engine",
    "check_extractor",
    "check_ladder",
    "check_method",
    "check_metric",
    "check_quantizer",
    "check_workload",
    "metric_inputs",
    "no_leaked_globals",
]

if not TYPE_CHECKING:  # a checker would take any name for one that exists
    __getattr__ = lazy_names(
        __name__,
        {
            "pqbench.testing.checks.calibration": ("check_calibration_sampler",),
            "pqbench.testing.checks.correction": ("check_correction",),
            "pqbench.testing.checks.distiller": ("check_distiller",),
            "pqbench.testing.checks.engine": ("check_engine",),
            "pqbench.testing.checks.expect": ("ContractError",),
            "pqbench.testing.checks.extractor": ("check_extractor",),
            "pqbench.testing.checks.ladder": ("check_ladder",),
            "pqbench.testing.checks.leaks": ("no_leaked_globals",),
            "pqbench.testing.checks.method": ("check_method",),
            "pqbench.testing.checks.metric": ("check_metric", "metric_inputs"),
            "pqbench.testing.checks.quantizer": ("check_quantizer",),
            "pqbench.testing.checks.workload": ("check_workload",),
            "pqbench.testing.conditional": ("TinyLabelled", "TinyText"),
            "pqbench.testing.tiny": ("TinyWorkload",),
        },
    )
