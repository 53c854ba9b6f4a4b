"""The sanity ladder of a method by its name: models come from the stage cache, as those of a run do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.components.grammar import MethodSpec, parse_methods
from pqbench.contracts import Engine, Precision
from pqbench.quantization.checkpoint.io import load_checkpoint
from pqbench.run.cache import StageCache
from pqbench.run.cell import Cell
from pqbench.run.execution.execute import Executor
from pqbench.run.execution.failures import CellError
from pqbench.run.execution.progress import RunProgress
from pqbench.run.plan import Plan, Request, make_plan
from pqbench.run.stages.compress import MODEL
from pqbench.sanity import Rung, climb

_AFTERWARDS = ("distiller", "correction")
"""Parts that come after the quantizer: they change what W32A32 and W8A8 must be."""


@dataclass(frozen=True)
class Ladder:
    """What `pqbench ladder` climbs.

    request   for the method as it is; its `methods` names one
    """

    request: Request
    registry: Registry
    cache: StageCache
    progress: RunProgress

    def rungs(self, bits: Sequence[int], images: int) -> Iterator[Rung]:
        """Every rung.

        Raises `UserError` for more than one method, one without a quantizer, and a model that cannot be made.
        """
        spec = one_method(self.request.methods)
        whole = self._plan(spec)
        if _cell(whole).job.composition.quantizer is None:
            raise UserError(f"{spec} has no quantizer, which is what the ladder checks: name a method that has one.")
        return climb(
            lambda precision: self._model(self._plan(quantization_alone(spec, precision))),
            whole.workload,
            self._maker(whole),
            bits=bits,
            images=images,
            seed=self.request.seeds[0],
            engines=self._engines(),
        )

    def _engines(self) -> list[Engine]:
        engines: list[Engine] = [self.registry.get("engine", name)() for name in self.request.engines]
        return [engine for engine in engines if engine.executes_quantized]

    def _maker(self, plan: Plan) -> Callable[[], nn.Module]:
        return lambda: self._model(plan)

    def _plan(self, spec: MethodSpec) -> Plan:
        return make_plan(replace(self.request, methods=str(spec)), self.registry)

    def _model(self, plan: Plan) -> nn.Module:
        cell = _cell(plan)
        try:
            Executor(self.cache, self.progress).make_model(cell)
        except CellError as error:
            raise UserError(f"{cell.title} cannot be made: {error.reason}") from error
        path: Path = self.cache.folder(cell.model.key) / MODEL
        return load_checkpoint(path, plan.workload.architecture())


def one_method(text: str) -> MethodSpec:
    """The method that is named. Raises `UserError` for several."""
    specs = parse_methods(text)
    if len(specs) > 1:
        raise UserError(f"{text} names {len(specs)} methods: a ladder is for one.")
    return specs[0]


def quantization_alone(spec: MethodSpec, precision: Precision) -> MethodSpec:
    """A method at another precision, without what it does after it has quantized."""
    dropped = ("w", "a", "distiller_calibration", *_AFTERWARDS)
    prefixes = tuple(f"{role}." for role in (*_AFTERWARDS, "distiller_calibration"))
    kept = [(key, value) for key, value in spec.options if key not in dropped and not key.startswith(prefixes)]
    bits = [("w", str(precision.w)), ("a", str(precision.a)), *((role, "none") for role in _AFTERWARDS)]
    return MethodSpec(spec.name, (*kept, *bits))


def _cell(plan: Plan) -> Cell:
    """The cell of the method, behind that of full precision."""
    return plan.cells[-1]
