"""Parameters of components: typed dataclass fields that carry a range, a help text and a default for each budget."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pqbench.base.errors import UserError
from pqbench.base.text import did_you_mean

Budget = Literal["quick", "standard", "full"]
BUDGETS: tuple[Budget, ...] = ("quick", "standard", "full")
Value = bool | int | float | str

_KEY = "pqbench"


@dataclass(frozen=True)
class Parameter:
    """What a user may set on a component, as declared by `parameter`."""

    name: str
    type: type
    help: str
    defaults: Mapping[Budget, Value]
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def parse(self, value: object, owner: str) -> Value:
        """Turn what the user wrote (text, or a value from Python) into a value of the right type and range.

        Raises `UserError` that names the parameter, what it takes and what was given.
        """
        try:
            parsed = self._converted(value)
        except (TypeError, ValueError, LookupError, OverflowError):
            raise UserError(f"{owner}: {self.name}={value} is not {self.describe()}.") from None
        if not self._allowed(parsed):
            raise UserError(f"{owner}: {self.name}={value} is out of range: give {self.describe()}.")
        return parsed

    def describe(self) -> str:
        """The values it takes, in words: `a number from 0 to 1`."""
        if self.type is bool:
            return "true or false"
        if self.choices:
            return "one of " + ", ".join(self.choices)
        noun = {int: "a whole number", float: "a number", str: "a text"}[self.type]
        if self.low is not None and self.high is not None:
            return f"{noun} from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{noun} of at least {self.low:g}"
        return f"{noun} of at most {self.high:g}" if self.high is not None else noun

    def _converted(self, value: object) -> Value:
        if self.type is bool:
            if isinstance(value, bool):
                return value
            return {"true": True, "yes": True, "false": False, "no": False}[str(value).lower()]
        if isinstance(value, bool):
            raise TypeError
        if self.type is int:
            number = float(str(value))
            if number != int(number):
                raise ValueError
            return int(number)
        if self.type is float:
            return float(str(value))
        return str(value)

    def _allowed(self, value: Value) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, (bool, str)):
            return True
        if not math.isfinite(value):
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def parameter(
    default: Value,
    *,
    help: str,
    quick: Value | None = None,
    full: Value | None = None,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare one parameter of a component (a dataclass field).

    `default` is used at the `standard` budget; `quick` and `full` replace it at those budgets when they are given.
    """
    defaults: dict[Budget, Value] = {
        "quick": default if quick is None else quick,
        "standard": default,
        "full": default if full is None else full,
    }
    facts = {"help": help, "defaults": defaults, "low": low, "high": high, "choices": choices}
    return dataclasses.field(default=default, metadata={_KEY: facts})


def parameters_of(component: type) -> tuple[Parameter, ...]:
    """The parameters that a component class declares, in order of declaration."""
    if not dataclasses.is_dataclass(component):
        return ()
    hints = typing.get_type_hints(component)
    return tuple(
        Parameter(name=field.name, type=hints[field.name], **field.metadata[_KEY])
        for field in dataclasses.fields(component)
        if _KEY in field.metadata
    )


def resolve(component: type, given: Mapping[str, object], budget: Budget) -> dict[str, Value]:
    """All parameters of a component: the budget's defaults, overridden by what the user gave.

    Raises `UserError` for a name that the component does not have (with the nearest names and all of them) and for
    values out of range.
    """
    known = {p.name: p for p in parameters_of(component)}
    owner = str(getattr(component, "name", component.__name__))
    for name in given:
        if name not in known:
            raise UserError(unknown_parameter(owner, name, list(known)))
    return {name: p.parse(given[name], owner) if name in given else p.defaults[budget] for name, p in known.items()}


def unknown_parameter(owner: str, name: str, known: list[str]) -> str:
    """The sentence for a parameter that does not exist."""
    hint = did_you_mean(name, known)
    listing = ", ".join(known) if known else "none"
    return f"{owner} has no parameter {name!r}.{hint} Its parameters are: {listing}."
