"""The protocol of an image metric: everything that decides its value, and a short hash of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pqbench.contracts.metric import ImageMetric, ScoringRules
from pqbench.contracts.workload import Extractor, Reference, Workload
from pqbench.methods.composition import Part
from pqbench.results.hashing import digest

PROTOCOL_VERSION = 1
"""Raised when a formula changes so that the same protocol would give other values."""

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000

FeatureType = Literal["float32", "float16"]
"""What features are kept in."""

OWN_DISTRIBUTION = "pqbench"

SIMULATION = "simulation"
"""What makes the judged images when no engine does: torch, in floating point."""

UNSAID: Mapping[str, str] = {"features": "float32", "extractor_code": "", "libraries": "", "judge": SIMULATION}
"""Facts that go without saying at these values, so that protocols from before there was a choice keep their ids."""


class ScoreProtocol(BaseModel):
    """What decides how given images are scored.

    Values of two different protocols never share a column of a table. Names and hashes say which extractor and which
    reference; the numbers are those of design section 7.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["image-quality", "given-images"] = "given-images"
    version: int = PROTOCOL_VERSION
    n: int = Field(ge=2)
    """Images scored."""
    distance: str
    extractor: str
    extractor_sha256: str
    extractor_code: str = ""
    """Hash of a plugin's sources, which may change under the same weights; empty for pqbench's own and a workload's."""
    reference_sha256: str
    reference_n: int
    pixels: str = "uint8 as the workload decodes them, not resized"
    libraries: str = ""
    """Those whose release decides values, with their versions (see `pqbench.scoring.libraries`)."""
    features: FeatureType = "float32"
    bootstrap_resamples: int = Field(ge=2)
    bootstrap_seed: int = 0
    kid_subsets: int = Field(default=KID_SUBSETS, ge=1)
    kid_subset_size: int = Field(ge=0)
    """0: the reference has no kept features to draw subsets of."""
    kid_seed: int = 0

    @property
    def facts(self) -> dict[str, Any]:
        """Everything it fixes, as JSON holds it: what the manifest keeps under the id.

        Of what goes without saying (`UNSAID`) it says the judge alone.
        """
        facts = self.model_dump(mode="json")
        return {fact: value for fact, value in facts.items() if fact == "judge" or UNSAID.get(fact) != value}

    @property
    def id(self) -> str:
        """First 8 hex digits of the sha256 of the canonical JSON."""
        return digest(self.facts)[:8]

    @property
    def rules(self) -> ScoringRules:
        """What metrics are told of it."""
        return rules_of(self.facts)


class RunProtocol(ScoreProtocol):
    """The protocol of a run: how images are scored, and what they are made of."""

    family: Literal["image-quality"] = "image-quality"
    workload: str
    fingerprint: str
    """Of the full-precision model whose images are the pairs of `psnr_to_fp`."""
    fp_steps: int = Field(ge=1)
    """Sampling steps of the full-precision model."""
    budget: str
    seeds: tuple[int, ...]
    """Base seeds; image i of each starts from the noise of (seed, i)."""
    sampling_batch: int = Field(ge=1)
    judge: str = SIMULATION
    """What made the images: the simulation, or an engine with the machine whose arithmetic it used."""

    @property
    def id(self) -> str:
        """As of any protocol; that the simulation is judged is left out of it, being `UNSAID`."""
        facts = self.facts
        if self.judge == SIMULATION:
            del facts["judge"]
        return digest(facts)[:8]

    @classmethod
    def of(
        cls,
        workload: Workload,
        *,
        n: int,
        seeds: tuple[int, ...],
        budget: str,
        sampling_batch: int,
        resamples: int,
        scoring: dict[str, Any] | None = None,
        judge: str = SIMULATION,
    ) -> RunProtocol:
        """The protocol for scoring `n` images of each cell of a workload.

        scoring   facts of the extractor and the reference (`scoring_facts`); None: the workload's own
        """
        if scoring is None:
            scoring = scoring_facts(workload.extractor(), n, own_reference=workload.reference())
        return cls(
            workload=workload.name,
            fingerprint=workload.fingerprint(),
            fp_steps=workload.steps,
            budget=budget,
            n=n,
            seeds=seeds,
            sampling_batch=sampling_batch,
            judge=judge,
            bootstrap_resamples=resamples,
            **{**scoring, "distance": scoring["distance"] or workload.distance},
        )


def scoring_facts(
    extractor: Extractor,
    n: int,
    *,
    own_reference: Reference | None = None,
    reference: tuple[str, int, int] = ("", 0, 0),
    features: FeatureType = "float32",
) -> dict[str, Any]:
    """The facts that an extractor and a reference put into a protocol for n images; KID subsets hold at most 1000.

    reference   sha256, images, and kept features of a reference whose statistics may still have to be computed

    An empty "distance" is the workload's to name.
    """
    if own_reference is not None:
        reference = own_reference.sha256, own_reference.n, len(own_reference.features)
    sha256, images, kept = reference
    return {
        "distance": extractor.distance,
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "reference_sha256": sha256,
        "reference_n": images,
        "pixels": extractor.pixels,
        "features": features,
        "kid_subset_size": min(KID_SUBSET_SIZE, n, kept),
    }


def rules_of(facts: dict[str, Any]) -> ScoringRules:
    """What metrics are told of a protocol, from its facts in a manifest."""
    return ScoringRules(
        n=int(facts["n"]),
        distance=str(facts["distance"]),
        extractor=str(facts["extractor"]),
        resamples=int(facts["bootstrap_resamples"]),
        seed=int(facts["bootstrap_seed"]),
        kid_subsets=int(facts["kid_subsets"]),
        kid_subset_size=int(facts["kid_subset_size"]),
        kid_seed=int(facts["kid_seed"]),
    )


def metric_protocol(
    metric: Part[ImageMetric], base: ScoreProtocol, grounds: Mapping[str, str] | None = None
) -> tuple[str, dict[str, Any] | None]:
    """The id of a metric's own protocol and its facts.

    grounds   hashes of what it was computed from beside the images: its weights, the prompts

    A metric of pqbench without parameters is decided by the protocol of the images alone, whose id it has (None for
    facts). Others add their parameters, what they say that they fix, their grounds, and a plugin's where its code comes
    from.
    """
    said = {**metric.component.fixes(), **(grounds or {})}
    if metric.provenance.distribution == OWN_DISTRIBUTION and not metric.parameters and not said:
        return base.id, None
    facts: dict[str, Any] = {"images": base.id, "metric": metric.component.name, "parameters": dict(metric.parameters)}
    facts |= said
    if metric.provenance.distribution != OWN_DISTRIBUTION:
        facts |= {
            "distribution": metric.provenance.distribution,
            "distribution_version": metric.provenance.version,
            "source_hash": metric.provenance.source_hash,
        }
    return digest(facts)[:8], facts
