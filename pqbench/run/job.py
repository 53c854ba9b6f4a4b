"""A job: what a cell's stages work with, resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pqbench.contracts import Budget, Workload
from pqbench.methods.composition import Composition
from pqbench.run.planning.budgets import Preset
from pqbench.run.planning.judge import EngineJudge
from pqbench.scoring.protocol import RunProtocol
from pqbench.scoring.resolver import Scoring


@dataclass(frozen=True)
class Job:
    """The live objects of a cell, from which its stages' functions take what they need.

    workload_name    as the registry knows it (`name`, or `distribution:name`), for processes of their own
    exclusive        seconds that a timing may wait for a quiet machine
    workload_facts   what identifies the workload: name, distribution, version, source hash, fingerprint
    judge            the engine that makes the images that are judged; None: the simulation does
    """

    workload: Workload
    workload_name: str
    workload_facts: Mapping[str, Any]
    composition: Composition
    protocol: RunProtocol
    scoring: Scoring
    budget: Budget
    preset: Preset
    engines: tuple[str, ...]
    seed: int
    device: str
    exclusive: float = 0.0
    judge: EngineJudge | None = None

    @property
    def steps(self) -> int:
        """Sampling steps of the compressed model."""
        return self.composition.steps(self.workload.steps)
