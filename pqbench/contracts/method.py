"""A method: a named composition of components. It contains no code that runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pqbench.contracts.component import Component, Kind
from pqbench.contracts.precision import Precision


class Method(Component):
    """Names the components of a method and the settings in which it is published.

    A field that is empty means that the method has no such component. `settings` overrides defaults of components,
    for instance {"calibration.preset": "script"}; users override both with `name[key=value]`.

    `ablation` says which variants show what each part is worth: a short description -> a method with its options, for
    instance {"no distillation": "mine[distiller=none]"}. `pqbench run --ablation NAME` runs them.
    """

    kind: ClassVar[Kind] = "method"
    precision: ClassVar[Precision] = Precision(4, 4)
    calibration: ClassVar[str] = ""
    quantizer: ClassVar[str] = ""
    distiller: ClassVar[str] = ""
    correction: ClassVar[str] = ""
    settings: ClassVar[Mapping[str, object]] = {}
    ablation: ClassVar[Mapping[str, str]] = {}
