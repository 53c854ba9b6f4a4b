"""The files of weights that metrics and extractors need: which, under which names, and whether they are here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pqbench.base.errors import UserError
from pqbench.base.text import did_you_mean
from pqbench.components.grammar import parse_component
from pqbench.contracts.extractor import Weights
from pqbench.contracts.metric import ImageMetric
from pqbench.contracts.parameters import Value, parameters_of, resolve
from pqbench.methods.composition import Part
from pqbench.scoring.extractors import named_extractor
from pqbench.scoring.weights.store import FoundWeights, WeightStore

if TYPE_CHECKING:
    from pqbench.components import Registry

_TIMM = "timm:"


def needed_weights(text: str, registry: Registry) -> Weights | None:
    """Of the metric or extractor that `text` names with its options. Raises `UserError` for what nothing is called."""
    name = text.partition("[")[0].strip()
    bare, metrics, extractors = name.rpartition(":")[2], registry.names("metric"), registry.names("extractor")
    if not name.startswith(_TIMM) and bare not in {*metrics, *extractors}:
        raise UserError(_unknown(bare, [*extractors, *metrics]))
    if bare not in metrics or name.startswith(_TIMM):
        return named_extractor(text, registry).weights()
    spec = parse_component(text, "metric")
    metric = registry.get("metric", spec.name)
    chosen: ImageMetric = metric(**resolve(metric, dict(spec.options), "standard"))
    return chosen.weights()


def _unknown(name: str, known: list[str]) -> str:
    hint = did_you_mean(name.lower(), known, most=3)
    return f"There is no extractor and no metric {name!r}.{hint} There are: {', '.join(known)}."


def offered_weights(component: type[Any]) -> dict[str, Weights]:
    """All files that an extractor or metric may need, by what `pqbench fetch` must be given.

    That of its default, and those that another choice of one parameter brings. Raises `UserError` as `weights` does.
    """
    default = component().weights()
    found = {} if default is None else {str(component.name): default}
    for each in parameters_of(component):
        for choice in each.choices:
            weights = component(**{each.name: choice}).weights()
            if weights is not None and weights not in found.values():
                found[_with_options(component.name, {each.name: choice})] = weights
    return found


def find_weights(metrics: Iterable[Part[ImageMetric]], store: WeightStore) -> dict[str, FoundWeights]:
    """By the metrics' names, each verified. Raises `UserError` for a file that is absent or has other bytes."""
    needed = ((part, part.component.weights()) for part in metrics)
    return {part.component.name: store.find(file, _fetched_as(part)) for part, file in needed if file is not None}


def absent_weights(part: Part[ImageMetric], store: WeightStore) -> str:
    """Why the metric lacks its file, a clause; empty where it is there or none is needed."""
    file = part.component.weights()
    if file is None or store.state(file) == "here":
        return ""
    return f"its weights {file.file} are not in {store.folder}: {store.command(_fetched_as(part))}"


def _fetched_as(part: Part[ImageMetric]) -> str:
    """What `pqbench fetch` must be given: the name, with the parameters that are not the default."""
    defaults = {each.name: each.defaults["standard"] for each in parameters_of(type(part.component))}
    return _with_options(part.component.name, {k: v for k, v in part.parameters.items() if v != defaults[k]})


def _with_options(name: str, options: Mapping[str, Value]) -> str:
    listed = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}[{listed}]" if listed else name
