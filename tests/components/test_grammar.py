from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqbench.base.errors import UserError
from pqbench.components.grammar import MethodSpec, parse_methods

NAMES = st.builds("".join, st.tuples(st.sampled_from(["", "dist-1:"]), st.just("m"), st.text("a0_-", max_size=3)))
KEYS = st.builds("".join, st.tuples(st.sampled_from(["", "quantizer."]), st.just("k"), st.text("a0_", max_size=2)))
VALUES = st.one_of(st.text("""a=,[]'"\\ \t*""", max_size=8), st.text(max_size=5))
SPECS = st.builds(
    lambda name, options: MethodSpec(name, tuple(options.items())), NAMES, st.dictionaries(KEYS, VALUES, max_size=4)
)


@given(st.lists(SPECS, min_size=1, max_size=4))
def test_what_is_written_is_read_back(specs: list[MethodSpec]) -> None:
    assert parse_methods(",".join(map(str, specs))) == tuple(specs)


@given(st.text("""ab=,[]'"\\ .:-1"""))
def test_any_text_is_read_or_refused_with_a_place_in_it(text: str) -> None:
    try:
        specs = parse_methods(text)
    except UserError as error:
        place = re.search(r"at character (\d+)", str(error))
        assert place is not None
        assert 1 <= int(place[1]) <= len(text) + 1
    else:
        assert parse_methods(",".join(map(str, specs))) == specs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pqcad,ptq4dm[w=4,a=8]", [MethodSpec("pqcad"), MethodSpec("ptq4dm", (("w", "4"), ("a", "8")))]),
        ("x[exempt=a*,b]", [MethodSpec("x", (("exempt", "a*,b"),))]),
        ("x[exempt=a*, b,w=4]", [MethodSpec("x", (("exempt", "a*, b"), ("w", "4")))]),
        (" d-1:x [ w = 4 , a=8 ] , y ", [MethodSpec("d-1:x", (("w", "4"), ("a", "8"))), MethodSpec("y")]),
        ("x[e=down[0,1].*,w=4]", [MethodSpec("x", (("e", "down[0,1].*"), ("w", "4")))]),
        ("""x[e='a]"b',f="c,w=4\\""]""", [MethodSpec("x", (("e", 'a]"b'), ("f", 'c,w=4"')))]),
        ("x[e='']", [MethodSpec("x", (("e", ""),))]),
        ("x[e=a=b]", [MethodSpec("x", (("e", "a=b"),))]),
        ("x[]", [MethodSpec("x")]),
        ("x[quantizer.tau=1]", [MethodSpec("x", (("quantizer.tau", "1"),))]),
    ],
)
def test_the_grammar(text: str, expected: list[MethodSpec]) -> None:
    assert parse_methods(text) == tuple(expected)


@pytest.mark.parametrize(
    ("text", "character", "reason"),
    [
        ("", 1, "expected the name of a method"),
        ("x,,y", 3, "expected the name of a method: x, >>> ,y"),
        ("x,", 3, "expected the name"),
        ("x[w=4", 2, "never closed: x >>> [w=4"),
        ("x[w=4,", 2, "never closed"),
        ("x[e=[a,w=3]", 2, "never closed"),
        ("x[w=4]]", 7, "expected a comma"),
        ("x[w=4]y", 7, "expected a comma"),
        ("x[4]", 3, "key=value"),
        ("x[w=]", 5, "expected a value"),
        ("x[w=4,]", 6, "nothing follows this comma"),
        ("x[w=4,a=8,w=5]", 11, "the option w is given twice"),
        ("x[e='a]", 5, "this quote is never closed"),
    ],
)
def test_an_error_says_what_and_where(text: str, character: int, reason: str) -> None:
    with pytest.raises(UserError) as error:
        parse_methods(text)
    assert f"at character {character}:" in str(error.value)
    assert reason in str(error.value)
