"""Facts that do not hold keep a component out, in words; `problems` is what registration asks."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import pytest
from torch import nn

from pqbench.components.builtin import BUILTINS
from pqbench.components.facts import problems
from pqbench.components.hookspecs import HOOKS
from pqbench.components.registry import Registry
from pqbench.contracts import CalibrationSet, Context, Distiller, Method, Quantizer, Teachers, parameter
from pqbench.contracts.component import KINDS
from pqbench.testing.tiny import TinyWorkload


@dataclass(frozen=True)
class Good(Quantizer):
    name: ClassVar[str] = "good"
    strength: float = parameter(0.5, help="how much", low=0, high=1)

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        return net


@dataclass(frozen=True)
class GoodDistiller(Distiller):
    name: ClassVar[str] = "good"

    def distill(
        self, context: Context, student: nn.Module, teachers: Teachers, calibration: CalibrationSet
    ) -> nn.Module:
        return student


def variant(**facts: object) -> type:
    return dataclass(frozen=True)(type("Variant", (Good,), facts))


def test_a_component_whose_facts_hold_has_no_problem() -> None:
    assert problems("quantizer", Good) == []
    assert problems("distiller", GoodDistiller) == []


@pytest.mark.parametrize(
    ("facts", "clause"),
    [
        ({"name": "Upper"}, "'Upper'"),
        ({"name": ""}, "lower case"),
        ({"name": "none"}, "reserved"),
        ({"name": 3}, "lower case"),
        ({"api_version": 99}, "version 99 of the plugin API"),
        ({"summary": "two\nlines"}, "one line"),
        ({"references": "@article{a}"}, "references are not a tuple of strings"),
        ({"deviations": (1,)}, "deviations are not a tuple"),
        ({"devices": None}, "devices are not a tuple"),
    ],
)
def test_a_wrong_fact_is_named(facts: dict[str, object], clause: str) -> None:
    assert any(clause in problem for problem in problems("quantizer", variant(**facts)))


@pytest.mark.parametrize(
    ("declared", "type_", "clause"),
    [
        (parameter(2.0, help="", low=0, high=1), float, "is 2.0 at budget standard, not a number from 0 to 1"),
        (parameter(0.5, help="", low=0, high=1, full=7), float, "is 7 at budget full"),
        (parameter(1, help="", quick=0, low=1), int, "is 0 at budget quick"),
        (parameter("a", help="", choices=("b", "c")), str, "one of b, c"),
        (parameter(1, help=""), list, "use bool, int, float or str"),
        (3, int, "is not declared with pqbench.contracts.parameter"),
    ],
)
def test_a_wrong_parameter_is_named(declared: object, type_: type, clause: str) -> None:
    wrong = variant(__annotations__={"extra": type_}, extra=declared)
    assert any(clause in problem and "extra" in problem for problem in problems("quantizer", wrong))


def test_a_parameter_may_not_be_called_like_a_key_of_the_grammar() -> None:
    wrong = variant(__annotations__={"w": int}, w=parameter(4, help=""))
    assert any("means something else" in problem for problem in problems("quantizer", wrong))


def test_parameters_of_a_class_that_is_not_a_frozen_dataclass_are_refused() -> None:
    undecorated = type("Undecorated", (Good,), {"extra": parameter(1, help=""), "__annotations__": {"extra": int}})
    heir = dataclass(frozen=True)(type("Heir", (undecorated,), {}))
    melted = dataclass(type("Melted", (Quantizer,), {"name": "melted", "quantize": Good.quantize}))
    for wrong in (undecorated, heir, melted):
        assert any("frozen dataclass" in problem for problem in problems("quantizer", wrong))


def test_a_class_without_its_work_is_refused() -> None:
    empty = dataclass(frozen=True)(type("Empty", (Quantizer,), {"name": "empty"}))
    assert any("does not define quantize" in problem for problem in problems("quantizer", empty))


@pytest.mark.parametrize("candidate", [Good, 3, "text", GoodDistiller()])
def test_something_of_another_kind_is_refused(candidate: object) -> None:
    assert problems("method", candidate) == ["it is not a subclass of pqbench.contracts.Method"]


def test_a_class_without_parameters_need_not_be_a_dataclass() -> None:
    assert problems("method", type("Plain", (Method,), {"name": "plain"})) == []
    assert problems("quantizer", type("Heir", (Good,), {"name": "heir"})) == []


def test_a_method_names_its_components() -> None:
    assert problems("method", type("Wrong", (Method,), {"name": "wrong", "quantizer": Good}))
    assert problems("method", type("Wrong", (Method,), {"name": "wrong", "settings": ("a",)}))
    assert problems("method", type("Wrong", (Method,), {"name": "wrong", "precision": "w4a4"}))


@pytest.mark.parametrize("share", [Fraction(0), Fraction(3, 2), 0.5])
def test_a_distiller_takes_a_share_of_the_steps(share: object) -> None:
    wrong = dataclass(frozen=True)(type("Wrong", (GoodDistiller,), {"step_share": share}))
    assert any("step_share" in problem for problem in problems("distiller", wrong))


def test_a_share_of_the_steps_may_depend_on_parameters() -> None:
    class Halves(GoodDistiller):
        @property
        def step_share(self) -> Fraction:
            return Fraction(1, 2)

    assert problems("distiller", Halves) == []


def test_a_workload_says_what_its_net_predicts() -> None:
    for prediction, right in (("epsilon", True), ("v", True), ("x", True), ("score", False), (None, False)):
        made = type("Made", (TinyWorkload,), {"prediction": prediction})
        assert any("its prediction is" in problem for problem in problems("workload", made)) is not right


def test_every_kind_has_a_hook() -> None:
    assert tuple(HOOKS) == KINDS


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in BUILTINS for name in BUILTINS[kind]])
def test_every_built_in_passes_the_checks_that_plugins_must_pass(kind: str, name: str) -> None:
    found = Registry(lambda: ()).find(kind, name)  # type: ignore[call-overload]
    assert found.name == name
    assert problems(found.kind, found.component) == []
