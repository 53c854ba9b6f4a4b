"""How a broken contract is told."""

from __future__ import annotations

from pqbench.components.facts import problems
from pqbench.contracts import Component


class ContractError(AssertionError):
    """A component does not do what its contract says; the message is one sentence about what does not hold."""


def expect(holds: bool, otherwise: str) -> None:
    """Raise `ContractError` with the sentence `otherwise` unless `holds`."""
    if not holds:
        raise ContractError(otherwise)


def expect_sound_facts(component: type[Component]) -> None:
    """What registration checks: name, version, references, parameters with defaults in range."""
    found = problems(component.kind, component)
    expect(not found, f"{component.__name__} would not be registered: {'; '.join(found)}.")
