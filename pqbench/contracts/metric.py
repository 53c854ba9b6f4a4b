"""Metrics: what is computed from the images of a cell, with its interval and what each image contributes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_args

from torch import Tensor

from pqbench.contracts.component import Component, Kind
from pqbench.contracts.extractor import Weights
from pqbench.contracts.workload import Reference

Need = Literal[
    "features",
    "spatial",
    "logits",
    "reference",
    "reference_features",
    "reference_spatial",
    "images",
    "fp_images",
    "fp_features",
    "prompts",
]
NEEDS: tuple[Need, ...] = get_args(Need)
"""What a metric may be computed from; `MetricInputs` says what each is."""


class Images(Protocol):
    """Images that are read as they are iterated over: batches (N, C, H, W) uint8, which two equal sets cut alike."""

    def __len__(self) -> int:
        """How many images there are."""

    def __iter__(self) -> Iterator[Tensor]:
        """The batches, from the first image on."""


@dataclass(frozen=True)
class ScoringRules:
    """What a protocol fixes beside the images, the extractor's outputs and the reference.

    n            images that are scored
    distance     what a Frechet distance is called: "FID" for the Inception of Heusel et al. (2017) alone
    extractor    the extractor's name
    resamples    of a bootstrap, whose random numbers come from `seed`
    """

    n: int
    distance: str = "FD"
    extractor: str = ""
    resamples: int = 200
    seed: int = 0
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    kid_seed: int = 0


@dataclass(frozen=True)
class Setting:
    """What is known before any image is made.

    n                    images to be scored
    image                (C, H, W)
    width                values of a feature
    reference_features   kept features of the reference; 0 where only its statistics are known
    """

    n: int
    image: tuple[int, int, int]
    width: int
    reference_features: int


@dataclass(frozen=True)
class MetricInputs:
    """What a metric is computed from. Only what it states in `needs` is there; each is read when it is first used.

    features             (N, D) of the images, float32 or float16
    spatial, logits      (N, 2023) and (N, K), other outputs of the same pass of the extractor
    reference            statistics of the real images; `reference_features` says that its `features` are used
                         (M, D), `reference_spatial` its `spatial`
    images               of the cell
    fp_images            of the full-precision model, image i from the same noise as image i of the cell
    fp_features          (N, D) of those
    prompts              (N,) texts, that of image i at place i
    weights              the file that the metric's `weights` describes, its hash verified; None for a metric without
    device               where nets of the metric run: cpu or cuda
    """

    rules: ScoringRules
    sources: Mapping[Need, Callable[[], Any]] = field(repr=False)
    weights: Path | None = None
    device: str = "cpu"

    @property
    def features(self) -> Tensor:
        """(N, D) of the images."""
        return self._get("features")  # type: ignore[no-any-return]

    @property
    def spatial(self) -> Tensor:
        """(N, 2023) of the images."""
        return self._get("spatial")  # type: ignore[no-any-return]

    @property
    def logits(self) -> Tensor:
        """(N, K) of the images."""
        return self._get("logits")  # type: ignore[no-any-return]

    @property
    def reference(self) -> Reference:
        """Statistics of the real images."""
        return self._get("reference")  # type: ignore[no-any-return]

    @property
    def images(self) -> Images:
        """The cell's images."""
        return self._get("images")  # type: ignore[no-any-return]

    @property
    def fp_images(self) -> Images:
        """The full-precision model's images."""
        return self._get("fp_images")  # type: ignore[no-any-return]

    @property
    def fp_features(self) -> Tensor:
        """(N, D) of the full-precision model's images."""
        return self._get("fp_features")  # type: ignore[no-any-return]

    @property
    def prompts(self) -> tuple[str, ...]:
        """The text that each image was made from."""
        return self._get("prompts")  # type: ignore[no-any-return]

    def _get(self, need: Need) -> Any:
        if need not in self.sources:
            raise LookupError(f"{need} is not among the metric's needs: add it to them.")
        return self.sources[need]()


@dataclass(frozen=True)
class Score:
    """What a metric found.

    low, high   95 % interval, where there is one
    detail      more numbers for the record, as JSON holds them
    notes       what every reader of the value must know, one sentence each: footnotes of the table
    each        (N,) float64, the value of each image where `value` is their mean: they are kept, and rows are tested
                by them without computing them again
    """

    value: float
    low: float | None = None
    high: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    each: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Contribution:
    """A metric of one cell, with what its error is made of: two rows are tested by it.

    value              as in the cell's record
    images             (N,) float64, the influence of each image, mean zero
    image_scale        the metric's variance over images is this times the variance of `images`: 1 / N
    reference          (M,) float64, the influence of each kept reference image where random subsets of them are used
    reference_scale    likewise; the subsets are the same for all cells of a protocol
    bias               how far the metric lies above its value at infinitely many images, on average
    """

    value: float
    images: Tensor
    image_scale: float
    reference: Tensor | None = None
    reference_scale: float = 0.0
    bias: float = 0.0


class ImageMetric(Component):
    """One number about the images of a cell, and its column in the table.

    Parameters that decide the value become part of the value's protocol.
    """

    kind: ClassVar[Kind] = "metric"
    title: ClassVar[str]
    """Heading of its column; `{distance}` stands for what the protocol calls its Frechet distance."""
    unit: ClassVar[str] = ""
    direction: ClassVar[Literal["lower", "higher"]]
    """Which way is better."""
    needs: ClassVar[tuple[Need, ...]]
    """What it is computed from. A metric that needs `fp_images` or `fp_features` is not computed for the
    full-precision model itself."""

    def unsuited(self, setting: Setting) -> str:
        """Why it cannot be computed in this setting, a clause (`it needs at least 10 images`); empty where it can."""
        return ""

    def weights(self) -> Weights | None:
        """The file of weights that it needs beside its inputs, None when it needs none.

        Its sha256 joins the protocol; `pqbench fetch NAME` gets it. Raises `UserError` as an extractor's does.
        """
        return None

    def fixes(self) -> Mapping[str, str]:
        """What else decides its value, in words, for its protocol: a formula, how images come to its net."""
        return {}

    @abstractmethod
    def compute(self, given: MetricInputs) -> Score:
        """The value with its interval. Draws nothing at random but from seeds in `given.rules` or constants.

        Raises `UserError` for what a user can mend.
        """

    def contribution(self, value: float, given: MetricInputs) -> Contribution | None:
        """What each image contributes to `value`, the basis of `pqbench compare`; None: rows are not tested by it.

        Not asked where `Score.each` was kept.
        """
        return None
