"""Contract tests for plugin authors: what every component of a kind must do, as one call each.

    from pqbench.testing.checks import check_quantizer

    def test_my_quantizer_keeps_the_contract():
        check_quantizer(MyQuantizer(iterations=5))

Each check runs the component on a tiny workload on the CPU and raises `ContractError`, an AssertionError, that says in
one sentence what does not hold. Give the component small parameters: the checks ask whether it is sound, not whether it
is good.
"""

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

__all__ = [
    "ContractError",
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
