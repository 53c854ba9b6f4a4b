"""Score images that anything made: by the metrics of runs, against a reference, under a protocol."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from pqbench.bench.budgets import PRESETS
from pqbench.bench.cache import StageCache
from pqbench.bench.execute import costed
from pqbench.bench.failures import CellError
from pqbench.bench.graph import statistics_facts
from pqbench.bench.progress import RunProgress
from pqbench.bench.records import Metric
from pqbench.bench.scoring import Scoring, ScoringRequest, ScoringResolver
from pqbench.bench.stage import stage_key
from pqbench.bench.stages.images import STATISTICS, kept_outputs, statistics_into
from pqbench.contracts import Reference, Workload
from pqbench.contracts.context import ProgressCallback
from pqbench.contracts.metric import Need
from pqbench.errors import UserError
from pqbench.evaluation.image_sources import ImageSource
from pqbench.evaluation.protocol import ScoreProtocol
from pqbench.evaluation.reference import read_statistics
from pqbench.evaluation.scoring import score
from pqbench.float32 import exact_float32
from pqbench.registry import Registry

_PAIRS = "it needs the full-precision model's images of the same noise, which only a run has"
_PROMPTS = "it needs the prompt of each image, which only a run of a text model has"
_MISSING: dict[Need, str] = {"fp_images": _PAIRS, "fp_features": _PAIRS, "prompts": _PROMPTS}


@dataclass(frozen=True)
class ImageScores:
    """What was found. `notes` say what `--metrics all` left out."""

    images: ImageSource
    protocol: ScoreProtocol
    metrics: dict[str, Metric]
    notes: tuple[str, ...]


@exact_float32()
def score_images(
    images: ImageSource,
    request: ScoringRequest,
    registry: Registry,
    cache: StageCache,
    console: Console,
    workload: Workload | None = None,
    device: str = "cpu",
) -> ImageScores:
    """Score all images of a source.

    workload   whose extractor and statistics stand where the request names none

    Statistics of reference images are computed once and kept in the cache. Raises `UserError` for images, references
    and extractors that do not fit together.
    """
    if len(images) < 2:
        raise UserError(f"{images.path} has {len(images)} image: a distance needs at least 2.")
    resolver = ScoringResolver(
        request,
        registry,
        images.shape,
        len(images),
        str(images.path),
        workload,
        dict(_MISSING),
        device,
        decoders=images.libraries,
    )
    scoring = resolver.scoring("standard")
    distance = scoring.facts["distance"] or (workload.distance if workload else "FD")
    protocol = ScoreProtocol(
        n=len(images), bootstrap_resamples=PRESETS["standard"].resamples, **{**scoring.facts, "distance": distance}
    )
    key = stage_key("reference", statistics_facts(scoring), {})
    with RunProgress(console, [key]) as progress:
        reference = scoring.known or _computed(scoring, key, cache, progress)
        with progress.stage(f"{images.path}: features") as report:
            outputs = kept_outputs(scoring, _reported(images, report), len(images))
        progress.finish([key], f"{images.path}: {len(images)} images")
    sources: dict[Need, Callable[[], Any]] = {"images": lambda: images, "reference": lambda: reference}
    named: tuple[Need, ...] = ("features", "spatial", "logits")
    sources |= {name: partial(outputs.__getitem__, name) for name in named if name in outputs}
    notes = scoring.notes
    if scoring.source is not None and scoring.reference_sha256 == images.sha256:
        notes = (*notes, f"{images.path} and {scoring.source.path} hold the same images: a set scored against itself.")
    return ImageScores(images, protocol, score(scoring.metrics, sources, protocol, scoring.grounds), notes)


def _computed(scoring: Scoring, key: str, cache: StageCache, progress: RunProgress) -> Reference:
    """The statistics of the reference's images, from the cache or made now."""
    source = scoring.source
    assert source is not None, "a reference is known or has images"
    title = f"{source.path}: statistics"
    with progress.stage(title) as report:

        def work(folder: Path, report: ProgressCallback = report) -> None:
            with costed("reference", key, folder):
                statistics_into(folder, scoring, report)

        try:
            ran = cache.produce(key, work, progress.line)
        except CellError as error:
            raise UserError(error.reason) from None
    progress.line(f"{title} {'computed' if ran else 'found in the cache'}")
    return read_statistics(cache.folder(key) / STATISTICS, scoring.reference_sha256)


def _reported(images: ImageSource, report: ProgressCallback) -> Any:
    done = 0
    for batch in images:
        yield batch
        done += len(batch)
        report(done, len(images), "images")
