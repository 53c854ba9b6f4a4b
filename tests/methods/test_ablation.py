"""Ablations: what a method declares, resolved, and every ablation that is installed."""

from __future__ import annotations

import pytest
from method_family import Full, Whole, family_source

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.components.facts import problems
from pqbench.components.grammar import parse_methods
from pqbench.contracts import BUDGETS
from pqbench.methods.ablation import ablation_rows
from pqbench.methods.composition import compose

DECLARED = {
    "all of it": "whole",
    "no distillation": "whole[distiller=none]",
    "other quantizer": "whole[quantizer=minmax,w=8,a=8]",
    "still": "whole[tau=0.5]",
    "text": "whole[preset=text]",
    "stranger": "whole[distiller=sparse]",
    "two": "whole,simple",
}


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr(Whole, "ablation", DECLARED)
    return Registry(lambda: [family_source()])


def test_each_row_says_what_it_changes(family: Registry) -> None:
    changes = {row.description: row.changes for row in ablation_rows("whole", family, "standard") if row.runs}
    assert changes == {
        "all of it": (),
        "no distillation": ("distiller halving -> none", "distiller_calibration flat -> none"),
        "other quantizer": ("precision w4a4 -> w8a8", "quantizer progressive -> minmax"),
    }


def test_what_is_the_same_runs_once_and_what_cannot_be_says_why(family: Registry) -> None:
    rows = {row.description: row for row in ablation_rows("whole", family, "quick")}
    assert list(rows) == list(DECLARED)
    assert rows["still"].same_as == rows["text"].same_as == "all of it"
    assert "no distiller 'sparse'" in rows["stranger"].problem
    assert "names 2 methods" in rows["two"].problem
    assert [row.spec for row in rows.values() if row.runs] == list(DECLARED.values())[:3]


def test_a_row_may_be_the_same_at_one_budget_alone(family: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Whole, "ablation", {"all": "whole", "few": "whole[samples=64]"})
    running = {
        budget: [row.description for row in ablation_rows("whole", family, budget) if row.runs] for budget in BUDGETS
    }
    assert running == {"quick": ["all"], "standard": ["all", "few"], "full": ["all", "few"]}


def test_a_method_without_one_is_refused(family: Registry) -> None:
    with pytest.raises(UserError, match="The method simple declares no ablation; these do: whole"):
        ablation_rows("simple", family, "quick")
    with pytest.raises(UserError, match="no method 'hole'"):
        ablation_rows("hole", family, "quick")


@pytest.mark.parametrize("wrong", [["full"], {"a": 1}, {1: "full"}, "full"])
def test_what_is_no_ablation_is_refused_at_registration(wrong: object, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not problems("method", Full)
    monkeypatch.setattr(Full, "ablation", wrong)
    assert problems("method", Full) == [
        "its ablation is not a mapping from descriptions to methods, both of them texts"
    ]


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_ablation_that_is_installed_composes(budget: str) -> None:
    registry = Registry.discover()
    methods = [found.component for found in registry.components() if found.kind == "method"]
    declared = [(method.name, spec) for method in methods for spec in method.ablation.values()]
    assert ("pqcad", "pqcad[distiller=none]") in declared
    for _, text in declared:
        (spec,) = parse_methods(text)
        compose(spec, registry, budget)  # type: ignore[arg-type]
    for name in {name for name, _ in declared}:
        rows = ablation_rows(name, registry, budget)  # type: ignore[arg-type]
        assert not [row.problem for row in rows if row.problem]
        specs = [row.spec for row in rows if row.runs]
        assert [str(spec) for spec in parse_methods(",".join(specs))] == specs
