"""Score images that anything made: by the metrics of runs, against a reference, under a protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.base.float32 import exact_float32
from pqbench.components import Registry
from pqbench.contracts import ImageMetric, Reference, Workload
from pqbench.contracts.context import ProgressCallback
from pqbench.contracts.metric import Need
from pqbench.results.records import Metric
from pqbench.run.cache import StageCache
from pqbench.run.execution.execute import costed
from pqbench.run.execution.failures import CellError
from pqbench.run.execution.progress import RunProgress
from pqbench.run.graph import statistics_facts
from pqbench.run.planning.budgets import PRESETS
from pqbench.run.stage import stage_key
from pqbench.run.stages.images import kept_outputs, statistics_in, statistics_into
from pqbench.scoring.images.partners import require_partners
from pqbench.scoring.images.prompt_files import GivenPrompts
from pqbench.scoring.images.sources import ImageSource
from pqbench.scoring.libraries import with_versions
from pqbench.scoring.protocol import ScoreProtocol
from pqbench.scoring.resolver import Scoring, ScoringRequest, ScoringResolver
from pqbench.scoring.values import PAIRED, score

_NO_PAIRS = "it needs the full-precision model's images of the same noise: give --fp-images PATH"
_NO_PROMPTS = "it needs the prompt of each image: give --prompts FILE"


@dataclass(frozen=True)
class Judged:
    """Images that are scored, with what metrics may compare them to.

    partners   the full-precision model's, image i from the same noise as image i of the others
    prompts    what each was made from

    Raises `UserError` for a single image, and for partners that do not fit.
    """

    images: ImageSource
    partners: ImageSource | None = None
    prompts: GivenPrompts | None = None

    def __post_init__(self) -> None:
        if len(self.images) < 2:
            raise UserError(f"{self.images.path} has {len(self.images)} image: a distance needs at least 2.")
        if self.partners is not None:
            require_partners(self.images, self.partners)

    @property
    def missing(self) -> dict[Need, str]:
        """What metrics cannot have, with the reason."""
        missing: dict[Need, str] = {}
        if self.partners is None:
            missing |= {"fp_images": _NO_PAIRS, "fp_features": _NO_PAIRS}
        if self.prompts is None:
            missing["prompts"] = _NO_PROMPTS
        return missing

    @property
    def partner_facts(self) -> dict[str, str]:
        """What paired values depend on beside the protocol of the images."""
        if self.partners is None:
            return {}
        decoders = with_versions(self.partners.libraries)
        return {"partners_sha256": self.partners.sha256, **({"partners_libraries": decoders} if decoders else {})}


@dataclass(frozen=True)
class ImageScores:
    """What was found.

    judged   with the partners and prompts that a metric used, and no others
    notes    on what `--metrics all` left out, what no metric used, and sets that are one and the same
    """

    judged: Judged
    protocol: ScoreProtocol
    metrics: dict[str, Metric]
    notes: tuple[str, ...]


@exact_float32()
def score_images(
    judged: Judged,
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
    images = judged.images
    resolver = ScoringResolver(
        request,
        registry,
        images.shape,
        len(images),
        str(images.path),
        workload,
        judged.missing,
        device,
        decoders=images.libraries,
        prompts=judged.prompts.sha256 if judged.prompts else "",
        partners=judged.partner_facts,
    )
    scoring = resolver.scoring("standard")
    judged, unused = _used(judged, scoring, registry)
    partners = judged.partners
    distance = scoring.facts["distance"] or (workload.distance if workload else "FD")
    protocol = ScoreProtocol(
        n=len(images), bootstrap_resamples=PRESETS["standard"].resamples, **{**scoring.facts, "distance": distance}
    )
    key = stage_key("reference", statistics_facts(scoring), {})
    with RunProgress(console, [key]) as progress:
        reference = scoring.known or _computed(scoring, key, cache, progress)
        outputs = _outputs(scoring, images, progress)
        sources: dict[Need, Callable[[], Any]] = {"images": lambda: images, "reference": lambda: reference}
        named: tuple[Need, ...] = ("features", "spatial", "logits")
        sources |= {name: partial(outputs.__getitem__, name) for name in named if name in outputs}
        if partners is not None:
            sources["fp_images"] = lambda: partners
            if any("fp_features" in part.component.needs for part in scoring.metrics):
                fp_features = _outputs(scoring, partners, progress)["features"]
                sources["fp_features"] = lambda: fp_features
        if judged.prompts is not None:
            texts = judged.prompts.texts
            sources["prompts"] = lambda: texts
        with progress.stage(f"{images.path}: {', '.join(part.component.name for part in scoring.metrics)}"):
            found = score(scoring.metrics, sources, protocol, scoring.grounds)
        progress.finish([key], f"{images.path}: {len(images)} images")
    return ImageScores(judged, protocol, found, (*scoring.notes, *unused, *_notes(judged, scoring)))


def _used(judged: Judged, scoring: Scoring, registry: Registry) -> tuple[Judged, list[str]]:
    """Without partners or prompts that no metric needs, and a note on each: they are none of what was judged."""
    needs = {need for part in scoring.metrics for need in part.component.needs}
    notes = []
    if judged.partners is not None and not needs & PAIRED:
        notes.append(_unused("--fp-images", judged.partners.path, PAIRED, registry))
        judged = replace(judged, partners=None)
    if judged.prompts is not None and "prompts" not in needs:
        notes.append(_unused("--prompts", judged.prompts.path, {"prompts"}, registry))
        judged = replace(judged, prompts=None)
    return judged, notes


def _unused(option: str, path: Path, needs: Set[Need], registry: Registry) -> str:
    metrics = (found.component for found in registry.components() if found.kind == "metric")
    users = [metric.name for metric in metrics if issubclass(metric, ImageMetric) and needs & set(metric.needs)]
    return f"{option} {path} is not used: of the metrics, {', '.join(users)} would use it (--metrics)."


def _notes(judged: Judged, scoring: Scoring) -> Iterator[str]:
    """On sets that are one and the same."""
    for other in (scoring.source, judged.partners):
        if other is not None and other.sha256 == judged.images.sha256:
            yield f"{judged.images.path} and {other.path} hold the same images: a set scored against itself."


def _outputs(scoring: Scoring, images: ImageSource, progress: RunProgress) -> dict[str, Tensor]:
    with progress.stage(f"{images.path}: features") as report:
        return kept_outputs(scoring, _reported(images, report), len(images))


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
    return statistics_in(cache.folder(key), scoring)


def _reported(images: ImageSource, report: ProgressCallback) -> Any:
    done = 0
    for batch in images:
        yield batch
        done += len(batch)
        report(done, len(images), "images")
