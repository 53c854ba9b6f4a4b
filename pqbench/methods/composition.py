"""A method with the user's options, resolved: every component made, every parameter known, and nothing run yet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Generic, TypeVar

from pqbench.base.errors import UserError
from pqbench.calibration.stored import StoredCalibration
from pqbench.components import Provenance, Registered, Registry
from pqbench.components.grammar import MethodSpec
from pqbench.contracts.calibration import CalibrationSampler
from pqbench.contracts.component import Component
from pqbench.contracts.correction import Correction
from pqbench.contracts.distiller import Distiller
from pqbench.contracts.method import Method
from pqbench.contracts.parameters import Budget, Value, resolve
from pqbench.contracts.precision import Precision
from pqbench.contracts.quantizer import Quantizer
from pqbench.methods.options import PRECISION_KEYS, assign
from pqbench.methods.roles import NONE, ROLES, Choice, Role, is_file, published_choice, user_choice

C = TypeVar("C", bound=Component)


@dataclass(frozen=True)
class Part(Generic[C]):
    """One component of a composition: the instance, all its parameters, and where its code comes from.

    file    of a calibration set from a file: its name, its digest and the facts that made it, for the record
    """

    component: C
    parameters: Mapping[str, Value]
    provenance: Provenance
    file: Mapping[str, Any] = field(default_factory=dict)

    def canonical(self) -> dict[str, Any]:
        """What decides its results, as plain data for hashing."""
        return {**_identity(self.component.name, self.provenance), "parameters": dict(self.parameters)}


@dataclass(frozen=True)
class Composition:
    """A resolved method. It can be pickled, and `canonical()` is plain data.

    name        the method's own name
    label       as the user wrote it, `pqcad[a=8]`
    method      where the method's declaration comes from
    A part that is None is not in the composition.
    """

    name: str
    label: str
    precision: Precision
    method: Provenance
    deviations: tuple[str, ...] = ()
    calibration: Part[CalibrationSampler] | None = None
    quantizer: Part[Quantizer] | None = None
    distiller: Part[Distiller] | None = None
    distiller_calibration: Part[CalibrationSampler] | None = None
    correction: Part[Correction] | None = None

    @property
    def step_share(self) -> Fraction:
        """The compressed model's sampling steps as a share of the workload's."""
        if self.distiller is None:
            return Fraction(1)
        share: object = self.distiller.component.step_share
        if not isinstance(share, Fraction) or not 0 < share <= 1:
            name = self.distiller.component.name
            raise UserError(f"{self.label}: the step_share of {name} is {share!r}, not a Fraction above 0 and up to 1.")
        return share

    def steps(self, workload_steps: int) -> int:
        """Sampling steps of the compressed model. Raises `UserError` when the share is not a whole number of steps."""
        steps = self.step_share * workload_steps
        if steps.denominator != 1:
            raise UserError(
                f"{self.label} needs {self.step_share} of the workload's {workload_steps} steps, which is not a whole "
                f"number: take a workload with a multiple of {self.step_share.denominator} steps, or a distiller that "
                "keeps more of them."
            )
        if self.correction is not None and self.step_share.numerator != 1:
            raise UserError(
                f"{self.label}: the correction {self.correction.component.name} needs a model that makes a whole "
                f"number of the workload's steps in one, and {self.step_share} of them is not that: give "
                "correction=none."
            )
        return int(steps)

    def parts(self) -> dict[Role, Part[Any]]:
        """The parts that there are, in the order of a run."""
        parts: dict[Role, Part[Any] | None] = {role: getattr(self, role) for role in ROLES}
        return {role: part for role, part in parts.items() if part is not None}

    def canonical(self) -> dict[str, Any]:
        """All that decides the results: names, distributions, versions, source hashes, parameters, precision."""
        return {
            "method": _identity(self.name, self.method),
            "precision": str(self.precision),
            **{role: part.canonical() for role, part in self.parts().items()},
        }

    def facts(self) -> dict[str, dict[str, Any]]:
        """The method and its components as a record shows them: `canonical()` of each, and its deviations."""
        facts: dict[str, dict[str, Any]] = {
            "method": {**_identity(self.name, self.method), "deviations": list(self.deviations)}
        }
        for role, part in self.parts().items():
            facts[role] = {**part.canonical(), "deviations": list(part.component.deviations)}
            if part.file:
                facts[role]["file"] = dict(part.file)
        return facts


def compose(spec: MethodSpec, registry: Registry, budget: Budget) -> Composition:
    """Resolve what the user wrote.

    The method's `settings` come before the user's options; they belong to the components that it was published with,
    so those of a component that the user swaps are left out.

    Raises `UserError` for a name, a parameter, a value or a combination that cannot be.
    """
    found = registry.find("method", spec.name)
    method, options = found.component, dict(spec.options)
    bits = {key: options.pop(key) for key in PRECISION_KEYS if key in options}
    wanted = {role: options.pop(role) for role in ROLES if role in options}

    published = published_choice(method, registry)
    choice = user_choice(str(spec), published, wanted, registry)
    settings = {key: value for key, value in method.settings.items() if key != "distiller_calibration"}
    defaults = assign(f"{method.name} (its settings)", settings, published)
    given = assign(str(spec), options, choice)
    parts: dict[Role, Part[Any]] = {}
    for role, component in choice.items():
        if is_file(role, wanted.get(role, "")):
            parts[role] = _part_from_file(wanted[role], component)
            continue
        own = defaults[role] if published.get(role) == component else {}
        parts[role] = part_of(component, own | given[role], budget)
    return Composition(
        name=method.name,
        label=str(spec),
        precision=_precision(str(spec), method, choice, bits, removed=wanted.get("quantizer") == NONE),
        method=found.provenance,
        deviations=method.deviations,
        **parts,
    )


def part_of(found: Registered[C], given: Mapping[str, object], budget: Budget) -> Part[C]:
    """A component with the parameters that were given and the budget's for the others. Raises `UserError` for values
    that cannot be."""
    parameters = resolve(found.component, given, budget)
    return Part(found.component(**parameters), parameters, found.provenance)


def sampler_part(spec: MethodSpec, registry: Registry, budget: Budget) -> Part[CalibrationSampler]:
    """A calibration sampler by itself, `ndtc[samples=64]`. Raises `UserError` as `compose` does."""
    return part_of(registry.find("calibration", spec.name), dict(spec.options), budget)


def _part_from_file(path: str, found: Registered[Any]) -> Part[StoredCalibration]:
    """Its digest is its only parameter: the file may lie anywhere."""
    stored = StoredCalibration.at(path)
    file = {"name": stored.path.name, "digest": stored.digest, "facts": dict(stored.facts)}
    return Part(stored, {"digest": stored.digest}, found.provenance, file)


def _precision(
    label: str, method: type[Method], choice: Choice, bits: Mapping[str, str], *, removed: bool
) -> Precision:
    """The method's precision with the bits that the user gave; full precision once the quantizer is removed."""
    base = Precision() if removed else method.precision
    precision = Precision(
        w=_bits("w", bits["w"]) if "w" in bits else base.w,
        a=_bits("a", bits["a"]) if "a" in bits else base.a,
    )
    if precision.quantizes and "quantizer" not in choice:
        raise UserError(f"{label}: {precision} needs a quantizer, and there is none: give quantizer=NAME.")
    return precision


def _bits(key: str, text: str) -> int:
    if re.fullmatch(r"-?[0-9]+", text) is None:
        raise UserError(f"{key}={text} is not a precision: use 2 to 8 bits, or 32 for full precision.")
    return int(text)


def _identity(name: str, provenance: Provenance) -> dict[str, Any]:
    return {
        "name": name,
        "distribution": provenance.distribution,
        "version": provenance.version,
        "source_hash": provenance.source_hash,
    }
