"""Which metrics are computed: those that were asked for, or all that can be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.components.grammar import MethodSpec, parse_metrics
from pqbench.contracts import Budget, ImageMetric, Setting
from pqbench.contracts.metric import Need
from pqbench.methods.composition import Part, part_of
from pqbench.scoring.weights.needed import absent_weights
from pqbench.scoring.weights.store import WeightStore

ALL = "all"
DEFAULT = "fd,kid,psnr_to_fp"

Chosen = tuple[Part[ImageMetric], ...]


def choose_metrics(
    text: str,
    registry: Registry,
    budget: Budget,
    setting: Setting,
    missing: Mapping[Need, str],
    always: str = "",
    store: WeightStore | None = None,
) -> tuple[Chosen, tuple[str, ...]]:
    """The metrics of `text`, in its order, and a note for each that `all` leaves out.

    missing   what is not there, with the reason as a clause
    always    a metric that is computed in front of the others even where it is not named
    store     where the weights of metrics are (default: the user's own folder)

    Raises `UserError` for names and parameters that cannot be, and for a named metric that cannot be computed.
    """
    if text.strip() == ALL:
        return _all(registry, budget, setting, missing, store or WeightStore())
    specs = parse_metrics(text)
    names = [spec.name.rpartition(":")[2] for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--metrics names {name} {names.count(name)} times: name it once.")
    if always and always not in names:
        specs = (MethodSpec(always), *specs)
    parts = tuple(_part(registry, spec, budget) for spec in specs)
    for part in parts:
        if reason := _unsuited(part.component, setting, missing):
            raise UserError(
                f"The metric {part.component.name} cannot be computed here: {reason}. Leave it out of --metrics."
            )
    return parts, ()


def _all(
    registry: Registry, budget: Budget, setting: Setting, missing: Mapping[Need, str], store: WeightStore
) -> tuple[Chosen, tuple[str, ...]]:
    parts, notes = [], []
    for name, origins in registry.names("metric").items():
        if len(origins) > 1:
            notes.append(f"Left out of --metrics all: {name} (it is claimed by {' and '.join(origins)})")
            continue
        part = _part(registry, MethodSpec(name), budget)
        if reason := _unsuited(part.component, setting, missing) or absent_weights(part, store):
            notes.append(f"Left out of --metrics all: {name} ({reason})")
        else:
            parts.append(part)
    order = list(_builtin_order())
    parts.sort(key=lambda part: order.index(part.component.name) if part.component.name in order else len(order))
    return tuple(parts), tuple(notes)


def _builtin_order() -> Mapping[str, Any]:
    from pqbench.components.builtin import BUILTINS

    return BUILTINS["metric"]


def _part(registry: Registry, spec: MethodSpec, budget: Budget) -> Part[ImageMetric]:
    return part_of(registry.find("metric", spec.name), dict(spec.options), budget)


def _unsuited(metric: ImageMetric, setting: Setting, missing: Mapping[Need, str]) -> str:
    return next((missing[need] for need in metric.needs if need in missing), "") or metric.unsuited(setting)
