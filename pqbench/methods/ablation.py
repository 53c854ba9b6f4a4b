"""The ablation that a method declares: variants of it, each resolved and held against the method itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.components.grammar import parse_methods
from pqbench.contracts.parameters import Budget
from pqbench.methods.composition import Composition, Part, compose
from pqbench.methods.roles import NONE, ROLES


@dataclass(frozen=True)
class AblationRow:
    """One variant.

    description   the method's own words for it
    spec          the variant in the grammar of methods
    changes       what differs from the method itself at its defaults
    same_as       description of an earlier row that is the same at this budget; empty for most
    problem       why it cannot be composed here, for instance because a plugin is not installed; empty for most
    """

    description: str
    spec: str
    changes: tuple[str, ...] = ()
    same_as: str = ""
    problem: str = ""

    @property
    def runs(self) -> bool:
        """Whether it is a row of the table."""
        return not self.same_as and not self.problem


def ablation_rows(name: str, registry: Registry, budget: Budget) -> list[AblationRow]:
    """The rows that the method `name` declares, in its order.

    Raises `UserError` for an unknown method and for one that declares no ablation.
    """
    method = registry.get("method", name)
    if not method.ablation:
        known = [each.name for each in registry.components() if getattr(each.component, "ablation", None)]
        raise UserError(f"The method {name} declares no ablation; these do: {', '.join(known) or 'none'}.")
    base = _composed(name, registry, budget)
    rows: list[AblationRow] = []
    seen: list[tuple[str, Composition]] = []
    for description, spec in method.ablation.items():
        try:
            made = _composed(spec, registry, budget)
        except UserError as error:
            rows.append(AblationRow(description, spec, problem=str(error)))
            continue
        same = next((other for other, earlier in seen if earlier.canonical() == made.canonical()), "")
        seen.append((description, made))
        rows.append(AblationRow(description, made.label, tuple(_changes(base, made)), same))
    return rows


def _composed(text: str, registry: Registry, budget: Budget) -> Composition:
    specs = parse_methods(text)
    if len(specs) != 1:
        raise UserError(f"{text} names {len(specs)} methods: a row of an ablation is one.")
    return compose(specs[0], registry, budget)


def _changes(base: Composition, other: Composition) -> Iterator[str]:
    if base.precision != other.precision:
        yield f"precision {base.precision} -> {other.precision}"
    ours, theirs = base.parts(), other.parts()
    for role in ROLES:
        before, after = ours.get(role), theirs.get(role)
        if _name(before) != _name(after):
            yield f"{role} {_name(before)} -> {_name(after)}"
        elif before is not None and after is not None:
            for key, value in before.parameters.items():
                if after.parameters[key] != value:
                    yield f"{role}.{key} {value} -> {after.parameters[key]}"


def _name(part: Part[Any] | None) -> str:
    return NONE if part is None else str(part.component.name)
