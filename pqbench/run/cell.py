"""A cell: one method on one workload with one seed, a row's worth of work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from pqbench.methods.composition import Composition
from pqbench.results.hashing import digest
from pqbench.run.job import Job
from pqbench.run.stage import Stage

REFERENCE_METHOD = "fp"
"""The method that every run contains, first, because every other row is compared with it."""


@dataclass(frozen=True)
class Cell:
    """The stages of one job, as a small graph.

    model      leaves the packed checkpoint
    images     leaves the samples
    features   leaves the outputs of the extractor
    score      leaves the image metrics
    apart      leave one image metric each: those that run a net of their own, which no other metric makes run again
    timing     leaves latency and memory, unless the user asked for none
    parity     leaves how the judged images stand to the simulation's, where an engine's are judged
    """

    job: Job
    model: Stage
    images: Stage
    features: Stage
    score: Stage
    timing: Stage | None
    parity: Stage | None = None
    apart: tuple[Stage, ...] = ()

    @property
    def finals(self) -> tuple[Stage, ...]:
        """The stages that leave metrics."""
        return tuple(s for s in (self.score, *self.apart, self.timing, self.parity) if s is not None)

    @property
    def key(self) -> str:
        """Hash of everything that decides the cell's record."""
        facts: dict[str, Any] = {
            "cell": [stage.key for stage in self.finals],
            "label": self.job.composition.label,
            "seed": self.job.seed,
        }
        if self.is_reference and self.job.scoring.is_own:
            facts["acceptance"] = [asdict(window) for window in self.job.workload.acceptance()]
        return digest(facts)

    @property
    def title(self) -> str:
        """For progress lines: `pqcad w4a4 seed 0`."""
        composition = self.job.composition
        return f"{composition.label} {composition.precision} seed {self.job.seed}"

    @property
    def is_reference(self) -> bool:
        """Whether this is the full-precision model itself."""
        return is_reference(self.job.composition)

    def __iter__(self) -> Iterator[Stage]:
        """All stages, inputs first, each once."""
        seen: set[str] = set()
        for final in self.finals:
            for stage in final:
                if stage.key not in seen:
                    seen.add(stage.key)
                    yield stage


def is_reference(composition: Composition) -> bool:
    """Whether a composition is the full-precision model itself; `fp[quantizer=...]` is not."""
    return composition.name == REFERENCE_METHOD and not composition.parts()
