"""The full-precision model as a method: the row that every other row is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pqbench import hookimpl
from pqbench.contracts import Method, Precision


@dataclass(frozen=True)
class FullPrecision(Method):
    """The workload's own denoiser at its own number of steps; it has no components."""

    name: ClassVar[str] = "fp"
    summary: ClassVar[str] = "the uncompressed model"
    precision: ClassVar[Precision] = Precision(32, 32)


@hookimpl
def pqbench_methods() -> list[type[Method]]:
    """Register the method."""
    return [FullPrecision]
