"""How the images of a run are judged: by which extractor, against which reference, with which metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.components.provenance import Provenance
from pqbench.contracts import Budget, Extractor, FeatureExtractor, ImageMetric, Reference, Setting, Workload
from pqbench.contracts.metric import Need
from pqbench.methods.composition import Part
from pqbench.scoring.choice import DEFAULT, choose_metrics
from pqbench.scoring.features import extract_outputs, require_images
from pqbench.scoring.images.sources import ImageSource, StatisticsFile, open_reference
from pqbench.scoring.libraries import libraries_of, with_versions
from pqbench.scoring.prompts import prompts_sha256
from pqbench.scoring.protocol import OWN_DISTRIBUTION, FeatureType, scoring_facts
from pqbench.scoring.reference import kept_count, load_statistics, other_libraries
from pqbench.scoring.values import Grounds
from pqbench.scoring.weights.needed import find_weights
from pqbench.scoring.weights.store import WeightStore

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class ScoringRequest:
    """What the user asked for.

    metrics     in the grammar of methods, or `all`
    protocol    an extractor's name; None: the workload's own
    reference   a folder of real images, or a file of images or statistics; None: the workload's statistics
    weights     a file for the extractor, or a folder of weights; None: the user's own folder of them
    features    what features are kept in
    """

    metrics: str = DEFAULT
    protocol: str | None = None
    reference: Path | None = None
    weights: Path | None = None
    features: FeatureType = "float32"

    def __post_init__(self) -> None:
        if self.weights is not None and not self.weights.is_dir() and self.protocol is None:
            raise UserError(
                f"--weights {self.weights} is no folder of weights, and a file is for the extractor of a protocol: "
                "give --protocol NAME too."
            )

    @property
    def store(self) -> WeightStore:
        """Where weights are that no path is given for."""
        return WeightStore(self.weights if self.weights is not None and self.weights.is_dir() else None)

    @property
    def extractor_file(self) -> Path | None:
        """The file that the extractor is to use instead of one in the store."""
        return None if self.weights is None or self.weights.is_dir() else self.weights


@dataclass(frozen=True)
class Scoring:
    """The live objects behind a protocol.

    extractor_code   hash of an extractor's plugin; empty for a workload's own, whose source is in the workload's facts
    libraries        with their versions, those that decide what the extractor gives; the protocol also has those that
                     decoded images
    source           real images whose statistics are still to be computed; None: `known` are there
    known            the reference's statistics
    is_own           whether extractor and reference are the workload's own, for which its acceptance windows are
    grounds          what metrics stand on beside the images
    """

    extractor: Extractor
    extractor_code: str
    libraries: str
    source: ImageSource | None
    known: Reference | None
    metrics: tuple[Part[ImageMetric], ...]
    features: FeatureType
    facts: dict[str, Any]
    is_own: bool
    notes: tuple[str, ...] = ()
    grounds: Grounds = field(default_factory=Grounds)

    @property
    def reference_sha256(self) -> str:
        """Of the real images, or of the file of their statistics."""
        return str(self.facts["reference_sha256"])


@dataclass
class ScoringResolver:
    """Resolves a request for images of one shape. Raises `UserError` for what does not fit together.

    image      (C, H, W) of the images to be scored
    n          how many
    whose      what they are, for messages: `fashion`
    missing    needs that nothing here can meet, with the reason
    workload   whose own extractor and statistics are used where the request names none
    seeds      of the run whose images these are
    decoders   libraries that decoded the images
    prompts    hash of the prompts of the images, where they are given and not the workload's
    partners   facts on the full-precision model's images, where they are given and not a run's
    """

    request: ScoringRequest
    registry: Registry
    image: Shape
    n: int
    whose: str
    workload: Workload | None = None
    missing: dict[Need, str] = field(default_factory=dict)
    device: str = "cpu"
    seeds: tuple[int, ...] = ()
    decoders: tuple[str, ...] = ()
    prompts: str = ""
    partners: Mapping[str, str] = field(default_factory=dict)

    def scoring(self, budget: Budget, always: str = "") -> Scoring:
        """Everything behind the protocol; no image is read but to know its shape."""
        extractor = self.extractor
        source, known = self._reference
        kept = len(known.features) if known else kept_count(len(source or ()))
        setting = Setting(self.n, self.image, self._width, kept)
        reasons = self._reasons(kept, known) | self.missing
        metrics, notes = choose_metrics(
            self.request.metrics, self.registry, budget, setting, reasons, always, self.request.store
        )
        facts = scoring_facts(
            extractor,
            self.n,
            own_reference=known,
            reference=(source.sha256, len(source), kept) if source else ("", 0, 0),
            features=self.request.features,
        )
        if self.request.protocol is not None:
            # The workload's word is for its own extractor: another one's distance is an FID only if it says so.
            facts["distance"] = extractor.distance or "FD"
            if self._provenance.distribution != OWN_DISTRIBUTION:
                facts["extractor_code"] = self._code
        if used := with_versions((*self._libraries, *self.decoders, *libraries_of(source))):
            facts["libraries"] = used
        return Scoring(
            extractor,
            self._code,
            with_versions(self._libraries),
            source,
            known,
            metrics,
            self.request.features,
            facts,
            is_own=self.request.protocol is None and self.request.reference is None,
            notes=(*notes, *self._notes),
            grounds=self._grounds(metrics),
        )

    def _grounds(self, metrics: tuple[Part[ImageMetric], ...]) -> Grounds:
        prompts = self.prompts
        if not prompts and any("prompts" in part.component.needs for part in metrics):
            assert self.workload is not None, "without prompts and a workload no metric of prompts is chosen"
            prompts = prompts_sha256(self.workload, self.seeds, self.n)
        return Grounds(find_weights(metrics, self.request.store), prompts, self.partners, self.device)

    @property
    def _notes(self) -> tuple[str, ...]:
        """On a file of statistics that was made by other releases."""
        found = None if self.request.reference is None else open_reference(self.request.reference)
        return other_libraries(found, with_versions(self._libraries)) if isinstance(found, StatisticsFile) else ()

    @cached_property
    def extractor(self) -> Extractor:
        """The protocol's, or the workload's own; it takes the images."""
        found = self._opened()
        require_images(found, self._black)
        return found

    def _opened(self) -> Extractor:
        if self.request.protocol is None:
            if self.workload is None:
                raise UserError("No protocol is named: give --protocol NAME, or --workload NAME for its own extractor.")
            return self.workload.extractor()
        from pqbench.scoring.extractors import open_extractor

        opened: Extractor = open_extractor(
            self.request.protocol,
            self.registry,
            weights=self.request.extractor_file,
            device=self.device,
            store=self.request.store,
        )
        return opened

    @property
    def _code(self) -> str:
        return "" if self.request.protocol is None else self._provenance.source_hash

    @property
    def _libraries(self) -> tuple[str, ...]:
        return () if self.request.protocol is None else libraries_of(self._component)

    @cached_property
    def _component(self) -> FeatureExtractor:
        """The protocol's extractor, before it is opened."""
        assert self.request.protocol is not None
        from pqbench.scoring.extractors import named_extractor

        return named_extractor(self.request.protocol, self.registry)

    @cached_property
    def _provenance(self) -> Provenance:
        """Of the protocol's extractor."""
        assert self.request.protocol is not None
        name = self._component.name
        distribution = self.request.protocol.partition("[")[0].rpartition(":")[0]
        qualified = f"{distribution}:{name}" if distribution not in ("", name) else name
        return self.registry.find("extractor", qualified).provenance

    @cached_property
    def _width(self) -> int:
        """Values of a feature, from one black image."""
        try:
            return extract_outputs(self.extractor, self._black)["features"].shape[1]
        except RuntimeError:  # what torch raises for a shape that a net cannot take
            size, name = _in_words(self.image), self.extractor.name
            raise UserError(f"The extractor {name} does not take images of {size}, as {self.whose} has.") from None

    @property
    def _black(self) -> Tensor:
        return torch.zeros(1, *self.image, dtype=torch.uint8)

    @cached_property
    def _reference(self) -> tuple[ImageSource | None, Reference | None]:
        """Images whose statistics are to be computed, or statistics."""
        path = self.request.reference
        if path is None:
            return None, self._own_statistics()
        found = open_reference(path)
        if isinstance(found, StatisticsFile):
            known = load_statistics(found, self.extractor)
            if len(known.mean) != self._width:
                raise UserError(
                    f"{path} holds statistics of {len(known.mean)} features, and the extractor {self.extractor.name} "
                    f"has {self._width}: give those of this extractor, or images."
                )
            return None, known
        if found.shape != self.image:
            raise UserError(
                f"The reference {path} has images of {_in_words(found.shape)}, and {self.whose} has "
                f"{_in_words(self.image)}: give a reference of the same size and channels."
            )
        return found, None

    def _own_statistics(self) -> Reference:
        if self.workload is None:
            raise UserError("No real images are named: give --reference PATH, a folder, .npz or .safetensors file.")
        known = self.workload.reference_under(self.extractor)
        if known is None or self._only_shares_weights():
            raise UserError(
                f"{self.workload.name} has no statistics of its real images under {self.extractor.name}: give "
                "--reference PATH, a folder of those images, an .npz or a .safetensors file."
            )
        if self.image != image_shape(self.workload):
            raise UserError(
                f"{self.whose} has images of {_in_words(self.image)}, and those of {self.workload.name} have "
                f"{_in_words(image_shape(self.workload))}: give --reference PATH with images of the same size."
            )
        return known

    def _only_shares_weights(self) -> bool:
        """Whether it has the weights of the workload's own extractor, and is another all the same."""
        assert self.workload is not None
        ours, own = self.extractor, self.workload.extractor()
        return ours.sha256 == own.sha256 and (ours.name, ours.pixels) != (own.name, own.pixels)

    def _reasons(self, kept: int, known: Reference | None) -> dict[Need, str]:
        """What this extractor and this reference cannot give."""
        outputs, name = self.extractor.outputs, self.extractor.name
        reasons: dict[Need, str] = {}
        extracted: tuple[Need, ...] = ("spatial", "logits")
        for output in extracted:
            if output not in outputs:
                reasons[output] = f"the extractor {name} has no {output} output"
        if kept < 2:
            reasons["reference_features"] = (
                "the reference holds statistics alone, and it needs images or their features"
            )
        if not self.prompts and not self._has_prompts:
            reasons["prompts"] = f"it is for text models, and {self.whose} has no prompts"
        if "spatial" not in outputs or (known is not None and known.spatial is None):
            reasons["reference_spatial"] = "the reference has no statistics of spatial features"
        return reasons

    @property
    def _has_prompts(self) -> bool:
        """Whether the workload has them for the images of its seeds."""
        return bool(self.seeds and self.workload is not None and self.workload.prompts(self.seeds[0], range(1)))


def image_shape(workload: Workload) -> Shape:
    """(C, H, W) of what a workload decodes."""
    _, channels, height, width = workload.decode(torch.zeros(1, *workload.shape)).shape
    return channels, height, width


def _in_words(shape: Shape) -> str:
    channels, height, width = shape
    return f"{height}x{width} pixels in {channels} channel{'s' if channels > 1 else ''}"
