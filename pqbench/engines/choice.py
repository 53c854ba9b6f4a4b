"""On which engines the cells of a run are timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.contracts import Engine
from pqbench.methods.composition import Composition

AUTO: Final = "auto"
"""What stands for the engines below."""
AUTO_ENGINES: Final[Mapping[str, tuple[str, ...]]] = {"cpu": ("torch", "openvino"), "cuda": ("torch", "torch-int8")}
FULL_PRECISION_LINES: Final[Mapping[str, tuple[str, ...]]] = {"cpu": ("openvino-bf16",), "cuda": ("torch-compile",)}
"""What may run full precision faster than `AUTO_ENGINES` of the device, on machines that have it."""


@dataclass(frozen=True)
class EngineChoice:
    """The engines of a run.

    every   run each model that they can; those that only simulate quantization come first
    lines   run what is not quantized, for the sake of the comparison: on them a quantized model gains next to nothing
            over an engine in `every`, and each costs a timing
    """

    every: tuple[str, ...]
    lines: tuple[str, ...] = ()

    def of(self, composition: Composition) -> tuple[str, ...]:
        """The engines for one cell. Peak memory is kept from the last that gives one, the same for every method."""
        return self.every if composition.precision.quantizes else (*self.lines, *self.every)


def choose_engines(asked: Sequence[str], device: str, registry: Registry) -> EngineChoice:
    """Resolve names; `AUTO` alone stands for the default, with the full-precision lines that run here.

    Raises `UserError` for an engine that is unknown or cannot run here, and for `AUTO` beside other names.
    """
    auto = AUTO_ENGINES.get(device, ())
    if AUTO in asked and set(asked) != {AUTO}:
        raise UserError(
            f"--engines {','.join(asked)} names engines beside {AUTO}, which stands for {' and '.join(auto)}: "
            f"name all of them, or {AUTO} alone."
        )
    is_auto = AUTO in asked
    engines = {name: registry.get("engine", name)() for name in (auto if is_auto else asked)}
    for engine in engines.values():
        if missing := engine.available():
            raise UserError(missing)
    every = tuple(sorted(engines, key=lambda name: engines[name].executes_quantized))
    candidates = FULL_PRECISION_LINES.get(device, ()) if is_auto else ()
    lines = tuple(name for name in candidates if _runs(registry.get("engine", name), device))
    return EngineChoice(every, lines)


def _runs(engine: type[Engine], device: str) -> bool:
    return device in engine.devices and not engine().available()
