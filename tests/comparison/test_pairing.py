"""Which cells of two rows are compared, and by which of their metrics."""

from __future__ import annotations

import pytest

from pqbench.comparison.pairing import pair
from pqbench.results.records import Metric, Record


def record(seed: int, images: str, prompts: str, **facts: str) -> Record:
    protocol = {"images": images, "prompts_sha256": prompts, "metric": "clip_score", **facts}
    score = Metric(
        value=30, unit="", direction="higher", n=8, protocol="p", title="CLIP", detail={"protocol": protocol}
    )
    fields = {"label": "x", "precision": "w4a4", "workload": "text", "steps": 4, "budget": "quick", "status": "ok"}
    return Record.model_validate(
        {
            **fields,
            "cell": f"{images}/{seed}",
            "method": "x",
            "seed": seed,
            "metrics": {"clip_score": score, "fd": score},
        }
    )


@pytest.mark.parametrize(
    ("other", "compared"),
    [
        (record(0, "a1", "cats"), True),
        (record(0, "a1", "dogs"), False),
        (record(0, "b2", "cats and dogs"), True),  # of a run with more seeds: their prompts are among them
        (record(0, "a1", "cats", libraries="pillow 12"), False),
    ],
)
def test_scores_of_other_prompts_for_the_same_seeds_are_not_compared(other: Record, compared: bool) -> None:
    pairing = pair([record(0, "a1", "cats"), record(1, "a1", "cats")], [other])
    assert pairing.is_paired
    assert pairing.metrics(["clip_score"]) == (["clip_score"] if compared else [])
