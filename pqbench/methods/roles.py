"""Which component plays which role in a method: the method's own choice, and the user's."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from pqbench.base.errors import UserError
from pqbench.base.version import __version__
from pqbench.calibration import stored
from pqbench.components import Provenance, Registered, Registry
from pqbench.components.provenance import source_hash
from pqbench.components.registry import OWN_DISTRIBUTION
from pqbench.contracts.component import Kind
from pqbench.contracts.distiller import Distiller
from pqbench.contracts.method import Method

Role = Literal["calibration", "quantizer", "distiller", "distiller_calibration", "correction"]
ROLES: Final[tuple[Role, ...]] = typing.get_args(Role)
KIND_OF_ROLE: Final[Mapping[Role, Kind]] = {
    "calibration": "calibration",
    "quantizer": "quantizer",
    "distiller": "distiller",
    "distiller_calibration": "calibration",
    "correction": "correction",
}
NONE: Final = "none"
"""What users write to remove a component."""

Choice = dict[Role, Registered[Any]]
"""The components of a method; a role that nothing plays is absent."""


def published_choice(method: type[Method], registry: Registry) -> Choice:
    """The components that the method itself names."""
    names: dict[Role, str] = {
        "calibration": method.calibration,
        "quantizer": method.quantizer,
        "distiller": method.distiller,
        "correction": method.correction,
    }
    choice = _find(names, registry)
    sampler = str(method.settings.get("distiller_calibration", "")) or _own_calibration(choice)
    return choice | _find({"distiller_calibration": sampler}, registry)


def user_choice(label: str, published: Choice, wanted: Mapping[Role, str], registry: Registry) -> Choice:
    """The published components with those in `wanted` (role -> name, path of a calibration set, or `none`) put in.

    A calibration sampler leaves together with the component that it serves, and a distiller brings its own.
    Raises `UserError` for a combination that cannot work.
    """
    choice = dict(published)
    if "distiller" in wanted:
        choice.pop("distiller_calibration", None)
    for role in wanted:
        choice.pop(role, None)
    choice |= {role: file_entry() for role, name in wanted.items() if is_file(role, name)}
    choice |= _find({r: name for r, name in wanted.items() if name != NONE and not is_file(r, name)}, registry)
    if "distiller" in wanted and "distiller_calibration" not in wanted:
        choice |= _find({"distiller_calibration": _own_calibration(choice)}, registry)
    _refuse_idle_sampler(label, "calibration", "quantizer", choice, wanted)
    _refuse_idle_sampler(label, "distiller_calibration", "distiller", choice, wanted)
    if "quantizer" in choice and "calibration" not in choice:
        _missing_sampler(label, "quantizer", "calibration", choice, registry)
    if _own_calibration(choice) and "distiller_calibration" not in choice:
        _missing_sampler(label, "distiller", "distiller_calibration", choice, registry)
    return choice


def is_file(role: Role, name: str) -> bool:
    """Whether the user gives the path of a calibration set in this role."""
    return KIND_OF_ROLE[role] == "calibration" and stored.is_path(name)


@cache
def file_entry() -> Registered[Any]:
    """What stands for a calibration set from a file among the components."""
    code = source_hash([Path(stored.__file__)])
    return Registered(
        "calibration", stored.StoredCalibration, Provenance(OWN_DISTRIBUTION, __version__, "built-in", code)
    )


def _find(names: Mapping[Role, str], registry: Registry) -> Choice:
    return {role: registry.find(typing.cast(Any, KIND_OF_ROLE[role]), name) for role, name in names.items() if name}


def _own_calibration(choice: Choice) -> str:
    """The sampler that the chosen distiller names; empty if it needs none or there is no distiller."""
    distiller: type[Distiller] | None = choice["distiller"].component if "distiller" in choice else None
    return distiller.calibration if distiller is not None else ""


def _refuse_idle_sampler(label: str, sampler: Role, served: Role, choice: Choice, wanted: Mapping[Role, str]) -> None:
    """Drop a sampler that serves nothing; refuse one that the user asked for."""
    if served in choice or sampler not in choice:
        return
    if sampler in wanted:
        raise UserError(f"{label}: {sampler}={wanted[sampler]} is of no use, because there is no {served}.")
    del choice[sampler]


def _missing_sampler(label: str, served: Role, sampler: Role, choice: Choice, registry: Registry) -> None:
    known = ", ".join(registry.names("calibration")) or "none is installed"
    raise UserError(
        f"{label}: the {served} {choice[served].name} needs a calibration set: give {sampler}=NAME, one of: {known}."
    )
