"""Parity of images: what an engine made of the same seeds as its simulation, and whether that is the same model's.

The limit is on what is judged. The root of a Frechet distance is itself a distance (Wasserstein's, of Gaussians), so
the triangle inequality holds: where engine and simulation are apart by a share s of the simulation's distance to the
real images, the engine's distance to these is at least (1 - sqrt(s))^2 and at most (1 + sqrt(s))^2 times the
simulation's, whatever the extractor. At 1 % that is a fifth, about the interval that 1,024 images give the distance of
the bundled model itself; and it is the worst case, of a difference that points straight at the real images or away.
"""

from __future__ import annotations

from torch import Tensor

from pqbench.base.text import percent
from pqbench.contracts import Extractor, Reference
from pqbench.results.names import IMAGE_PARITY
from pqbench.results.records import Metric
from pqbench.scoring.features import extract_features
from pqbench.scoring.formulas.frechet import FeatureStatistics, frechet_distance
from pqbench.scoring.formulas.paired import psnr
from pqbench.scoring.protocol import RunProtocol

LIMIT = 0.01
"""Share of the simulation's distance to the real images that engine and simulation may be apart."""


def image_parity(
    engine: str, executed: Tensor, simulated: Tensor, extractor: Extractor, reference: Reference, protocol: RunProtocol
) -> dict[str, Metric]:
    """parity_fd@ENGINE, the Frechet distance between both sets, with their mean PSNR and whether it is accepted.

    executed, simulated   (n, C, H, W) uint8, image i of both from the same noise
    reference             statistics of the real images under the extractor

    Both sets are small and share their noise, so the distance says how far they are apart and nothing of either's own
    quality; sets without any difference have 0.
    """
    statistics = []
    for images in (executed, simulated):
        features = extract_features(extractor, images)
        statistics.append(FeatureStatistics(features.shape[1]))
        statistics[-1].add(features)
    ours, theirs = statistics
    value = frechet_distance(ours.mean, ours.covariance, theirs.mean, theirs.covariance)
    to_reference = [
        frechet_distance(each.mean, each.covariance, reference.mean, reference.covariance) for each in statistics
    ]
    reason = image_complaint(value, simulation=to_reference[1])
    return {
        f"{IMAGE_PARITY}{engine}": Metric(
            value=value,
            unit="",
            direction="lower",
            n=len(executed),
            protocol=protocol.id,
            detail={
                "psnr_to_simulation": float(psnr(executed, simulated).mean()),
                "judge": protocol.judge,
                "engine_to_reference": to_reference[0],
                "simulation_to_reference": to_reference[1],
                "accepted": not reason,
                "reason": reason,
            },
        )
    }


def image_complaint(difference: float, simulation: float) -> str:
    """Nothing when an engine's images are those of the simulated model, else why not, in one sentence.

    difference   Frechet distance of the engine's images to the simulation's
    simulation   of the simulation's to the real images
    """
    if difference <= LIMIT * simulation:
        return ""
    return (
        f"its images are {difference:.3g} from the simulation's, which are {simulation:.3g} from the real ones; "
        f"allowed is {percent(LIMIT)} of that."
    )
