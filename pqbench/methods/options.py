"""To which component's parameter an option belongs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pqbench.base.errors import UserError
from pqbench.base.text import did_you_mean
from pqbench.contracts.parameters import parameters_of, unknown_parameter
from pqbench.methods.roles import ROLES, Choice, Role

PRECISION_KEYS = ("w", "a")

Given = dict[Role, dict[str, Any]]
"""What was given for the parameters of each component."""


def assign(label: str, options: Mapping[str, object], choice: Choice) -> Given:
    """Give each option to the component that has this parameter.

    A bare name (`tau`) is searched among all components, a dotted one (`quantizer.tau`) addresses one. Raises
    `UserError` for a name that no component has, that several have, or that is given in both ways.
    """
    given: Given = {role: {} for role in choice}
    for key, value in options.items():
        role, name = _address(label, key, choice)
        if name in given[role]:
            raise UserError(f"{label}: {role}.{name} is given twice, as {name} and as {role}.{name}.")
        given[role][name] = value
    return given


def _address(label: str, key: str, choice: Choice) -> tuple[Role, str]:
    prefix, dot, name = key.rpartition(".")
    if dot:
        return _dotted(label, prefix, name, choice)
    owners = [role for role in choice if name in _parameter_names(choice, role)]
    if not owners:
        raise UserError(_unknown(label, key, choice))
    if len(owners) > 1:
        raise UserError(f"{label}: {key} could be {' or '.join(f'{role}.{key}' for role in owners)}: write which one.")
    return owners[0], name


def _dotted(label: str, prefix: str, name: str, choice: Choice) -> tuple[Role, str]:
    for role in choice:
        if role == prefix:
            if name not in _parameter_names(choice, role):
                known = _parameter_names(choice, role)
                raise UserError(f"{label}: " + unknown_parameter(f"the {role} {choice[role].name}", name, known))
            return role, name
    reason = "has no component in that role" if prefix in ROLES else f"{prefix!r} is not a role"
    present = ", ".join(choice) or "none"
    raise UserError(f"{label}: {prefix}.{name} cannot be set: {reason}; the roles in use are: {present}.")


def _parameter_names(choice: Choice, role: Role) -> list[str]:
    return [parameter.name for parameter in parameters_of(choice[role].component)]


def _unknown(label: str, key: str, choice: Choice) -> str:
    owned = {role: _parameter_names(choice, role) for role in choice}
    everything = [*PRECISION_KEYS, *ROLES, *(name for names in owned.values() for name in names)]
    hint = did_you_mean(key, dict.fromkeys(everything))
    listing = "".join(
        f"; of the {role} {choice[role].name}: {', '.join(names)}" for role, names in owned.items() if names
    )
    return f"{label} has no parameter {key!r}.{hint} It takes: {', '.join([*PRECISION_KEYS, *ROLES])}{listing}."
