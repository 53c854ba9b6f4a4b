"""A stage: one cacheable step of a cell, identified by what goes into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from pqbench.contracts.component import API_VERSION
from pqbench.results.hashing import digest
from pqbench.run.job import Job

StageName = Literal[
    "export",
    "calibrate",
    "quantize",
    "distill",
    "correct",
    "sample",
    "features",
    "reference",
    "score",
    "time",
    "parity",
]

STAGE_VERSION = 3
"""Raised when the files that stages write change, so that older outputs are not mistaken for new ones."""


@dataclass(frozen=True)
class Stage:
    """One step of work.

    facts       everything that decides the output besides the inputs: component, parameters, seed, ...
    job         what the stage's function needs and the key does not: live objects built from the same facts
    inputs      stages whose outputs this one reads, by role
    component   the component that does the work, in the stages of components; the metrics of a score stage
    """

    name: StageName
    facts: dict[str, Any]
    job: Job = field(compare=False, repr=False)
    inputs: dict[str, Stage] = field(default_factory=dict)
    component: Any = field(default=None, compare=False, repr=False)

    @cached_property
    def key(self) -> str:
        """Hash of the name, the facts, the inputs' keys and the versions: the name of the output's folder."""
        return stage_key(self.name, self.facts, {role: stage.key for role, stage in self.inputs.items()})

    def __iter__(self) -> Iterator[Stage]:
        """This stage after everything that it needs, each once, in an order in which they can run."""
        seen: set[str] = set()
        for stage in self.inputs.values():
            for needed in stage:
                if needed.key not in seen:
                    seen.add(needed.key)
                    yield needed
        yield self


def stage_key(name: StageName, facts: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """The key of a stage with these facts, whose inputs (by role) have these keys."""
    return digest(
        {
            "stage": name,
            "version": STAGE_VERSION,
            "api": API_VERSION,
            "facts": dict(facts),
            "inputs": dict(inputs),
        }
    )
