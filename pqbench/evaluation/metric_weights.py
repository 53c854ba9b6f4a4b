"""The files of weights that metrics need: which, and whether they are here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pqbench.contracts.metric import ImageMetric
from pqbench.contracts.parameters import parameters_of
from pqbench.methods.composition import Part
from pqbench.weights.store import FoundWeights, WeightStore, quoted


def find_weights(metrics: Iterable[Part[ImageMetric]], store: WeightStore) -> dict[str, FoundWeights]:
    """By the metrics' names, each verified. Raises `UserError` for a file that is absent or has other bytes."""
    needed = ((part, part.component.weights()) for part in metrics)
    return {part.component.name: store.find(file, fetched_as(part)) for part, file in needed if file is not None}


def absent_weights(part: Part[ImageMetric], store: WeightStore) -> str:
    """Why the metric lacks its file, a clause; empty where it is there or none is needed."""
    file = part.component.weights()
    if file is None or store.state(file) == "here":
        return ""
    return f"its weights {file.file} are not in {store.folder}: `pqbench fetch {quoted(fetched_as(part))}`"


def fetched_as(part: Part[ImageMetric]) -> str:
    """What `pqbench fetch` must be given: the name, with the parameters that are not the default."""
    defaults = {each.name: each.defaults["standard"] for each in parameters_of(type(part.component))}
    return option_text(part.component.name, {k: v for k, v in part.parameters.items() if v != defaults[k]})


def option_text(name: str, options: dict[str, Any]) -> str:
    """`clip_score[net=ViT-L-14]`."""
    listed = ",".join(f"{key}={value}" for key, value in options.items())
    return f"{name}[{listed}]" if listed else name
