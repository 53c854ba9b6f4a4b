"""The facts that a component declares about itself, checked when it is registered.

Contracts are imported inside the functions: by the time a plugin is checked, it has imported them itself.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from pqbench.base.errors import UserError

if TYPE_CHECKING:
    from pqbench.contracts import Kind

NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
RESERVED_NAMES: Final = frozenset({"none"})
"""`quantizer=none` removes the component, so no component can be called that."""
RESERVED_PARAMETERS: Final = frozenset(
    {"w", "a", "calibration", "quantizer", "distiller", "distiller_calibration", "correction"}
)
"""Keys of `name[key=value]` that mean the precision or a component."""

RESERVED_METRICS: Final = frozenset({"stored_bytes", "peak_memory_bytes", "cost_seconds", "cost_peak_memory_bytes"})
"""What a record holds beside the metrics of images."""


def problems(kind: Kind, candidate: object) -> list[str]:
    """Everything that keeps `candidate` from being a component of this kind, one clause each; empty when it is one."""
    contract = _contracts()[kind]
    if not (inspect.isclass(candidate) and issubclass(candidate, contract)):
        return [f"it is not a subclass of pqbench.contracts.{contract.__name__}"]
    checks: list[Callable[[Any], Iterator[str]]] = [_identity, _texts, _shape, _parameters]
    if kind == "method":
        checks.append(_method)
    if kind == "distiller":
        checks.append(_distiller)
    if kind == "metric":
        checks.append(_metric)
    if kind == "workload":
        checks.append(_workload)
    return [problem for check in checks for problem in check(candidate)]


def _contracts() -> dict[Kind, type]:
    from pqbench import contracts

    return {
        "workload": contracts.Workload,
        "calibration": contracts.CalibrationSampler,
        "quantizer": contracts.Quantizer,
        "distiller": contracts.Distiller,
        "correction": contracts.Correction,
        "engine": contracts.Engine,
        "extractor": contracts.FeatureExtractor,
        "metric": contracts.ImageMetric,
        "method": contracts.Method,
    }


def _identity(component: Any) -> Iterator[str]:
    from pqbench.contracts import API_VERSION

    name = getattr(component, "name", None)
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        yield f"its name is {name!r}, but names are lower case letters, digits, _ and -"
    elif name in RESERVED_NAMES:
        yield f"the name {name!r} is reserved"
    if component.api_version != API_VERSION:
        yield (
            f"it is made for version {component.api_version} of the plugin API and this pqbench has version "
            f"{API_VERSION}: install versions that belong together"
        )


def _texts(component: Any) -> Iterator[str]:
    if not isinstance(component.summary, str) or "\n" in component.summary:
        yield "its summary is not one line of text"
    for fact in ("references", "deviations", "devices"):
        value = getattr(component, fact)
        # A lone string is also a sequence of strings; forgetting the comma of a tuple is the usual slip.
        if isinstance(value, str) or not all(isinstance(text, str) for text in _sequence(value)):
            yield f"its {fact} are not a tuple of strings"


def _shape(component: Any) -> Iterator[str]:
    if inspect.isabstract(component):
        yield "it does not define " + ", ".join(sorted(component.__abstractmethods__))
    for declaring in component.__mro__:
        decorated = vars(declaring).get("__dataclass_params__")
        # Where the decorator is missing, what `parameter` made is still there as it was written.
        forgotten = any(isinstance(value, dataclasses.Field) for value in vars(declaring).values())
        if forgotten or (decorated is not None and not decorated.frozen):
            yield f"{declaring.__name__} is not a frozen dataclass: put @dataclass(frozen=True) above the class"


def _parameters(component: Any) -> Iterator[str]:
    from pqbench.contracts import parameters_of

    try:
        declared = parameters_of(component)
    except NameError as error:
        yield f"the type of a parameter cannot be resolved ({error})"
        return
    if dataclasses.is_dataclass(component):
        fields = {field.name for field in dataclasses.fields(component)}
        for name in sorted(fields - {parameter.name for parameter in declared}):
            yield f"its field {name} is not declared with pqbench.contracts.parameter"
    for parameter in declared:
        if parameter.name in RESERVED_PARAMETERS:
            yield f"its parameter {parameter.name} has a name that means something else in name[key=value]"
        if parameter.type not in (bool, int, float, str):
            yield f"its parameter {parameter.name} is annotated as {parameter.type}: use bool, int, float or str"
            continue
        for budget, default in parameter.defaults.items():
            try:
                parameter.parse(default, component.name)
            except UserError:
                yield f"its parameter {parameter.name} is {default} at budget {budget}, not {parameter.describe()}"


def _method(component: Any) -> Iterator[str]:
    from pqbench.contracts import Precision

    if not isinstance(component.precision, Precision):
        yield "its precision is not a pqbench.contracts.Precision"
    for role in ("calibration", "quantizer", "distiller", "correction"):
        if not isinstance(getattr(component, role), str):
            yield f"its {role} is not the name of a component"
    settings = component.settings
    if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
        yield "its settings are not a mapping from parameter names"
    ablation = component.ablation
    if not isinstance(ablation, Mapping) or not all(isinstance(text, str) for text in chain(*ablation.items())):
        yield "its ablation is not a mapping from descriptions to methods, both of them texts"


def _distiller(component: Any) -> Iterator[str]:
    share = component.step_share
    if isinstance(share, property):
        return  # depends on the parameters: `Composition.step_share` looks at what it says
    if not isinstance(share, Fraction) or not 0 < share <= 1:
        yield f"its step_share is {share!r}, not a Fraction above 0 and up to 1"


def _metric(component: Any) -> Iterator[str]:
    from pqbench.contracts.metric import NEEDS

    if component.name in RESERVED_METRICS:
        yield f"the name {component.name!r} means another measurement"
    for fact in ("title", "unit"):
        value = getattr(component, fact, None)
        if not isinstance(value, str) or "\n" in value or (fact == "title" and not value):
            yield f"its {fact} is {value!r}, not one line of text"
    direction, needs = (getattr(component, fact, None) for fact in ("direction", "needs"))
    if direction not in ("lower", "higher"):
        yield f"its direction is {direction!r}, not lower or higher"
    if not isinstance(needs, tuple) or not needs or not set(needs) <= set(NEEDS):
        yield f"its needs are {needs!r}, not a tuple of {', '.join(NEEDS)}"


def _workload(component: Any) -> Iterator[str]:
    from pqbench.contracts.schedule import PREDICTIONS

    if component.prediction not in PREDICTIONS:
        yield f"its prediction is {component.prediction!r}, not one of {', '.join(PREDICTIONS)}"


def _sequence(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else (value, None)
