"""The rows of pqcad's ablation: each takes away what its name says, and nothing else."""

from __future__ import annotations

import pytest

from pqbench.components import Registry
from pqbench.methods.ablation import AblationRow, ablation_rows

WITHOUT_CAD = ("distiller cad -> none", "distiller_calibration stratified -> none")
FIXED = ("quantizer progressive -> ptq4dm",)


@pytest.fixture(scope="module")
def standard() -> dict[str, AblationRow]:
    return {row.description: row for row in ablation_rows("pqcad", Registry.discover(), "standard")}


def test_the_four_corners(standard: dict[str, AblationRow]) -> None:
    corners = [
        standard[name].changes
        for name in ("PQ and CAD", "PQ only", "CAD only (fixed bits)", "neither, but the correction")
    ]
    assert corners == [(), WITHOUT_CAD, FIXED, FIXED + WITHOUT_CAD]
    assert set(standard["PQ only, and no correction"].changes) == {*WITHOUT_CAD, "correction drift -> none"}


def test_the_parts(standard: dict[str, AblationRow]) -> None:
    changed = {
        name: {change.rsplit(" ", 3)[0]: change.rsplit(" ", 1)[1] for change in standard[name].changes}
        for name in list(standard)[5:11]
    }
    assert changed == {
        "no correction": {"correction": "none"},
        "no momentum detector": {"quantizer.detector": "False"},
        "no smoothing of transitions": {"quantizer.ramp": "0", "quantizer.averaging": "0.0"},
        "no noise injection": {"distiller_calibration.rho": "0.0"},
        "lambda = 0: quantized teacher alone": {"distiller.lam": "0.0"},
        "lambda = 1: FP model alone": {"distiller.lam": "1.0"},
    }


def test_the_rivals_have_no_part_of_pqcad(standard: dict[str, AblationRow]) -> None:
    rivals = {name: row.spec for name, row in standard.items() if row.spec.startswith("ptq4dm")}
    assert list(rivals.values()) == ["ptq4dm[distiller=pd]", "ptq4dm"]
    for name in rivals:
        assert not standard[name].problem
        assert {*FIXED, "correction drift -> none"} <= set(standard[name].changes)


def test_at_the_budget_quick_lambda_is_one_anyway() -> None:
    rows = ablation_rows("pqcad", Registry.discover(), "quick")
    assert [row.spec for row in rows if row.same_as] == ["pqcad[lam=1]"]
