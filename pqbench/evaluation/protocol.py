"""The protocol of an image metric: everything that decides its value, and a short hash of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pqbench.bench.hashing import digest
from pqbench.contracts.workload import Workload

PROTOCOL_VERSION = 1
"""Raised when a formula changes so that the same protocol would give other values."""

SIMULATION = "simulation"
"""What makes the judged images when no engine does: torch, in floating point."""

KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000


class Protocol(BaseModel):
    """Values of two different protocols never share a column of a table.

    Names and hashes say which extractor, reference and full-precision model; the numbers are those of design section 7.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["image-quality"] = "image-quality"
    version: int = PROTOCOL_VERSION
    workload: str
    fingerprint: str
    """Of the full-precision model whose images are the pairs of `psnr_to_fp`."""
    fp_steps: int = Field(ge=1)
    """Sampling steps of the full-precision model."""
    budget: str
    n: int = Field(ge=2)
    """Images scored."""
    seeds: tuple[int, ...]
    """Base seeds; image i of each starts from the noise of (seed, i)."""
    sampling_batch: int = Field(ge=1)
    distance: str
    extractor: str
    extractor_sha256: str
    reference_sha256: str
    reference_n: int
    pixels: str = "uint8 as the workload decodes them, not resized"
    judge: str = SIMULATION
    """What made the images: the simulation, or an engine with the machine whose arithmetic it used."""
    bootstrap_resamples: int = Field(ge=2)
    bootstrap_seed: int = 0
    kid_subsets: int = Field(default=KID_SUBSETS, ge=1)
    kid_subset_size: int = Field(ge=2)
    kid_seed: int = 0

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
        judge: str = SIMULATION,
    ) -> Protocol:
        """The protocol for scoring `n` images of each cell of a workload; KID subsets hold at most 1000 images."""
        extractor, reference = workload.extractor(), workload.reference()
        return cls(
            workload=workload.name,
            fingerprint=workload.fingerprint(),
            fp_steps=workload.steps,
            budget=budget,
            n=n,
            seeds=seeds,
            sampling_batch=sampling_batch,
            distance=workload.distance,
            extractor=extractor.name,
            extractor_sha256=extractor.sha256,
            reference_sha256=reference.sha256,
            reference_n=reference.n,
            judge=judge,
            bootstrap_resamples=resamples,
            kid_subset_size=min(KID_SUBSET_SIZE, n, len(reference.features)),
        )

    @property
    def facts(self) -> dict[str, Any]:
        """Everything it fixes, as JSON holds it: what the manifest keeps under the id."""
        return self.model_dump(mode="json")

    @property
    def id(self) -> str:
        """First 8 hex digits of the sha256 of the canonical JSON.

        That the simulation is judged is left out of it: so protocols from before there was a choice keep their id.
        """
        facts = self.facts
        if self.judge == SIMULATION:
            del facts["judge"]
        return digest(facts)[:8]
