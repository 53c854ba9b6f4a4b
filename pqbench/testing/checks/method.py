"""The contract of methods."""

from __future__ import annotations

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.components.grammar import parse_methods
from pqbench.contracts import BUDGETS, Method
from pqbench.methods.ablation import ablation_rows
from pqbench.methods.composition import compose
from pqbench.testing.checks.expect import expect, expect_sound_facts


def check_method(method: type[Method], *, registry: Registry | None = None) -> None:
    """Check that a method's components, settings and ablation resolve at every budget.

    registry   where they are looked up (default: everything that is installed, the method's own plugin among it)
    """
    expect_sound_facts(method)
    registry = registry or Registry.discover()
    for budget in BUDGETS:
        try:
            composition = compose(parse_methods(method.name)[0], registry, budget)
        except UserError as error:
            expect(False, f"At the budget {budget} it cannot be composed: {error}")
        same = composition.precision == method.precision
        expect(same, f"It is composed at {composition.precision}, but declares {method.precision}.")
        for row in ablation_rows(method.name, registry, budget) if method.ablation else ():
            expect(not row.problem, f"At the budget {budget} the row {row.description!r} fails: {row.problem}")
