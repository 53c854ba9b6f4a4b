"""From what a user writes to an extractor: `fid-clean`, `fid-clean[grey=repeat]`, `timm:resnet50`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from pqbench.base.errors import UserError
from pqbench.components.grammar import parse_component
from pqbench.contracts.extractor import FeatureExtractor
from pqbench.contracts.parameters import resolve
from pqbench.contracts.workload import Extractor
from pqbench.scoring.weights.store import WeightStore, given

if TYPE_CHECKING:
    from pqbench.components import Registry

_TIMM = "timm:"


def open_extractor(
    text: str, registry: Registry, *, weights: Path | None = None, device: str = "cpu", store: WeightStore | None = None
) -> Extractor:
    """The extractor that `text` names, with its weights, on a device.

    text      a preset's or plugin's name, with options in brackets, or `timm:NAME` for a backbone of timm
    weights   a file to use instead of the fetched one; it must have the same hash where one is pinned
    store     where fetched files are (default: the user's own)

    Raises `UserError` for an unknown name or option, and for weights that are missing, wrong or damaged; nothing in a
    file is executed before its hash is known to be right.
    """
    component = named_extractor(text, registry)
    needed = component.weights()
    if needed is None:
        if weights is not None:
            raise UserError(f"The extractor {component.name} takes no file of weights, but {weights} was given.")
        extractor = component.open(None, "")
    else:
        found = given(weights, needed, text) if weights is not None else (store or WeightStore()).find(needed, text)
        extractor = component.open(found.path, found.sha256)
    return dataclasses.replace(extractor, net=extractor.net.to(device))


def named_extractor(text: str, registry: Registry) -> FeatureExtractor:
    """The component behind what a user wrote, with its parameters. Raises `UserError` as `open_extractor` does."""
    spec = parse_component(_without_shorthand(text.strip()), "extractor")
    component = registry.get("extractor", spec.name)
    return component(**resolve(component, dict(spec.options), "standard"))


def _without_shorthand(text: str) -> str:
    """`timm:NAME` and `timm:NAME[grey=repeat]` with the name among the options."""
    if not text.startswith(_TIMM):
        return text
    model, bracket, options = text.removeprefix(_TIMM).partition("[")
    rest = f",{options}" if bracket and options.strip() != "]" else "]"
    return f'timm[model="{model.strip()}"{rest}'
