from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from method_family import family_source

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.components.grammar import MethodSpec
from pqbench.components.sources import local_sources
from pqbench.contracts import Precision
from pqbench.contracts.parameters import Parameter
from pqbench.methods.composition import Composition, compose

Compose = Callable[..., Composition]
TUTORIAL = Path(__file__).parents[2] / "docs" / "plugins.md"


def names(composition: Composition) -> dict[str, str]:
    return {role: part.component.name for role, part in composition.parts().items()}


def test_a_method_without_components(composed: Compose) -> None:
    full = composed("full")
    assert full.precision == Precision(32, 32)
    assert full.parts() == {}
    assert full.steps(20) == 20


def test_components_are_made_with_settings_and_the_budget_s_defaults(composed: Compose) -> None:
    simple = composed("simple", "quick")
    assert simple.calibration is not None
    assert simple.quantizer is not None
    assert simple.calibration.parameters == {"samples": 64, "preset": "script"}
    assert simple.quantizer.parameters == {"norm": 2.0}
    assert (simple.calibration.component.samples, simple.quantizer.component.norm) == (64, 2.0)  # type: ignore[attr-defined]


def test_the_user_s_options_come_last(composed: Compose) -> None:
    simple = composed("simple[preset=text,quantizer.norm=3,a=8]")
    assert simple.label == "simple[preset=text,quantizer.norm=3,a=8]"
    assert simple.precision == Precision(4, 8)
    assert simple.parts()["calibration"].parameters["preset"] == "text"
    assert simple.parts()["quantizer"].parameters["norm"] == 3.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "whole",
            {
                "calibration": "normal",
                "quantizer": "progressive",
                "distiller": "halving",
                "distiller_calibration": "flat",
            },
        ),
        ("whole[distiller=none]", {"calibration": "normal", "quantizer": "progressive"}),
        ("whole[quantizer=none]", {"distiller": "halving", "distiller_calibration": "flat"}),
        (
            "whole[distiller=plain,calibration=flat]",
            {"calibration": "flat", "quantizer": "progressive", "distiller": "plain"},
        ),
        ("whole[quantizer=none,distiller=none]", {}),
        ("simple[quantizer=pqbench-family:progressive]", {"calibration": "normal", "quantizer": "progressive"}),
        (
            "simple[distiller=halving]",
            {
                "calibration": "normal",
                "quantizer": "minmax",
                "distiller": "halving",
                "distiller_calibration": "normal",
            },
        ),
    ],
)
def test_components_are_swapped_and_removed_by_name(composed: Compose, text: str, expected: dict[str, str]) -> None:
    assert names(composed(text)) == expected


def test_without_its_quantizer_a_method_is_in_full_precision(composed: Compose) -> None:
    assert composed("whole[quantizer=none]").precision == Precision()
    assert composed("whole[quantizer=none,w=32]").precision == Precision()
    assert composed("full[quantizer=minmax,calibration=flat,w=4]").precision == Precision(4, 32)


def test_settings_belong_to_the_component_that_the_method_was_published_with(composed: Compose) -> None:
    assert composed("whole").parts()["quantizer"].parameters["tau"] == 0.5
    assert composed("whole[quantizer=progressive]").parts()["quantizer"].parameters["tau"] == 0.5
    assert composed("simple[quantizer=progressive]").parts()["quantizer"].parameters["norm"] == 2.4


def test_the_distiller_decides_the_steps(composed: Compose) -> None:
    assert composed("whole").steps(20) == 10
    assert composed("whole[distiller=plain]").step_share == Fraction(1, 4)
    with pytest.raises(UserError, match=r"whole needs 1/2 of the workload's 25 steps.*a multiple of 2 steps"):
        composed("whole").steps(25)


def test_a_correction_is_put_into_any_method_and_taken_out_again(composed: Compose) -> None:
    assert composed("full[correction=nudge,runs=9]").parts()["correction"].parameters["runs"] == 9
    assert composed("whole[correction=nudge]", "quick").parts()["correction"].parameters["runs"] == 8
    assert "correction" not in composed("whole[correction=none]").parts()


def test_a_correction_needs_steps_that_stand_for_a_whole_number_each(composed: Compose) -> None:
    composition = composed("whole[correction=nudge]")
    assert composition.distiller is not None
    part = replace(
        composition.distiller,
        component=type("Odd", (type(composition.distiller.component),), {"step_share": Fraction(2, 3)})(),
    )
    assert replace(composition, distiller=part, correction=None).steps(6) == 4
    with pytest.raises(UserError, match=r"the correction nudge needs .* 2/3 of them is not that: give correction=none"):
        replace(composition, distiller=part).steps(6)


@pytest.mark.parametrize("share", [Fraction(3, 2), Fraction(0), 0.5, None])
def test_a_share_that_is_none_is_refused(composed: Compose, share: object) -> None:
    composition = composed("whole")
    assert composition.distiller is not None
    wrong = type("Wrong", (type(composition.distiller.component),), {"step_share": property(lambda self: share)})
    part = replace(composition.distiller, component=wrong())
    with pytest.raises(UserError, match=r"whole: the step_share of halving is .* not a Fraction above 0 and up to 1"):
        replace(composition, distiller=part).steps(20)


def test_one_name_in_two_components_must_be_said_exactly(composed: Compose) -> None:
    with pytest.raises(UserError, match=r"rate could be quantizer\.rate or distiller\.rate"):
        composed("whole[rate=0.3]")
    parts = composed("whole[distiller.rate=0.3]").parts()
    assert (parts["quantizer"].parameters["rate"], parts["distiller"].parameters["rate"]) == (0.1, 0.3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("simple[w=0]", "w=0 is not a precision: use 2 to 8 bits, or 32"),
        ("simple[a=99]", "a=99 is not a precision"),
        ("simple[w=four]", "w=four is not a precision"),
        ("full[w=4]", "w4a32 needs a quantizer"),
        ("whole[quantizer=none,a=4]", "w32a4 needs a quantizer"),
        ("whole[ta=1]", "Did you mean tau"),
        ("whole[ta=1]", "of the quantizer progressive: norm, tau, rate, exempt; of the distiller halving: rate"),
        ("whole[quantizer.ta=1]", "the quantizer progressive has no parameter 'ta'. Did you mean tau?"),
        ("whole[distiler.rate=1]", "'distiler' is not a role"),
        ("simple[distiller.rate=1]", "has no component in that role"),
        ("simple[norm=3,quantizer.norm=4]", "given twice"),
        ("simple[norm=99]", "norm=99 is out of range: give a number from 1 to 8"),
        ("simple[preset=other]", "one of text, script"),
        ("simple[samples=inf]", "samples=inf is not a whole number of at least 1"),
        ("simple[samples=-1e999]", "samples=-1e999 is not a whole number"),
        ("simple[samples=nan]", "samples=nan is not a whole number"),
        ("simple[norm=inf]", "norm=inf is out of range"),
        ("simple[quantizer=minmx]", "There is no quantizer 'minmx'. Did you mean minmax?"),
        ("simpel", "Did you mean simple?"),
        ("simple[calibration=none]", "the quantizer minmax needs a calibration set"),
        ("whole[distiller_calibration=none]", "the distiller halving needs a calibration set"),
        ("full[calibration=flat]", "is of no use, because there is no quantizer"),
        ("simple[distiller_calibration=flat]", "is of no use, because there is no distiller"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(composed: Compose, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as error:
        composed(text)
    assert "\n" not in str(error.value)


def test_a_truth_value_is_true_or_false() -> None:
    switch = Parameter("dynamic", bool, "how", {"quick": False, "standard": False, "full": False})
    assert [switch.parse(text, "rtn") for text in ("true", "No", False)] == [True, False, False]
    with pytest.raises(UserError, match=r"^rtn: dynamic=maybe is not true or false\.$"):
        switch.parse("maybe", "rtn")


def test_the_canonical_form_is_plain_and_follows_what_decides_the_results(composed: Compose) -> None:
    def canonical(text: str) -> str:
        return json.dumps(composed(text).canonical(), sort_keys=True)

    assert canonical("whole") == canonical("whole[w=4,tau=0.5]")
    variants = ["whole", "whole[w=8]", "whole[tau=0.4]", "whole[distiller=none]", "whole[calibration=flat]", "simple"]
    assert len({canonical(text) for text in variants}) == len(variants)
    quantizer = composed("whole").canonical()["quantizer"]
    assert (quantizer["distribution"], quantizer["version"]) == ("pqbench-family", "1.2")
    assert re.fullmatch("[0-9a-f]{64}", quantizer["source_hash"])


def test_the_facts_for_a_record_have_the_deviations(composed: Compose) -> None:
    facts = composed("simple").facts()
    assert facts["calibration"]["deviations"] == ["draws fewer images"]
    assert facts["calibration"]["parameters"]["preset"] == "script"
    assert facts["method"]["name"] == "simple"


def test_a_composition_can_be_sent_to_another_process(composed: Compose) -> None:
    whole = composed("whole[exempt='conv_in,conv_out']")
    assert pickle.loads(pickle.dumps(whole)) == whole


@pytest.fixture
def tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry of the tutorial's code blocks as one local file, and of the components that they name."""
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    (tmp_path / "pqbench_plugins.py").write_text("\n".join(blocks))
    monkeypatch.syspath_prepend(tmp_path)  # put back afterwards, with what loading the file adds
    return Registry(lambda: [family_source(), *local_sources(tmp_path)])


def test_the_tutorial_s_plugins_work_as_printed(tutorial: Registry) -> None:
    assert not [failure for failure in tutorial.failures() if failure.distribution == "local"]
    mine = compose(MethodSpec("my_method"), tutorial, "quick")
    assert mine.precision == Precision(4, 8)
    assert names(mine) == {"calibration": "ndtc", "quantizer": "minmax"}
    identity = compose(MethodSpec("my_method", (("quantizer", "identity"), ("strength", "1"))), tutorial, "quick")
    assert identity.parts()["quantizer"].parameters == {"strength": 1.0}
    assert compose(MethodSpec("my_method", (("preset", "script"),)), tutorial, "quick")


def test_the_tutorial_s_first_plugin_has_ten_lines() -> None:
    first = re.search(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    assert first is not None
    assert sum(1 for line in first[1].splitlines() if line.strip()) == 10
