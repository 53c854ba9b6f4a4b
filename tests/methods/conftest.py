from __future__ import annotations

from collections.abc import Callable

import pytest
from method_family import family_source

from pqbench.components import Registry
from pqbench.components.grammar import parse_methods
from pqbench.methods.composition import Composition, compose

Compose = Callable[..., Composition]


@pytest.fixture(scope="session")
def registry() -> Registry:
    """A registry of three methods: without components, with two, and with all four."""
    found = Registry(lambda: [family_source()])
    assert not [failure for failure in found.failures() if failure.distribution == "pqbench-family"]
    return found


@pytest.fixture
def composed(registry: Registry) -> Compose:
    """Compose the one method that a text names."""
    return lambda text, budget="standard": compose(parse_methods(text)[0], registry, budget)
