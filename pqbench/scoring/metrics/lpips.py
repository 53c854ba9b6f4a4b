"""LPIPS to the full-precision model's images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from pqbench.contracts.extractor import Weights
from pqbench.contracts.metric import Contribution, MetricInputs, Setting
from pqbench.contracts.parameters import parameter
from pqbench.scoring.extractors.rgb import GREY_RULE
from pqbench.scoring.formulas.paired import each_pair
from pqbench.scoring.lpips.distance import FORMULA, RULE, open_lpips
from pqbench.scoring.lpips.nets import LPIPS_BIBTEX, NETS, LpipsNet
from pqbench.scoring.metrics.paired import PairedMetric


@dataclass(frozen=True)
class LpipsToFp(PairedMetric):
    """Learned perceptual distance (Zhang et al., 2018, version 0.1), as the package lpips 0.1.4 computes it."""

    name: ClassVar[str] = "lpips_to_fp"
    summary: ClassVar[str] = "LPIPS to the full-precision model's image of the same noise"
    references: ClassVar[tuple[str, ...]] = (LPIPS_BIBTEX,)
    title: ClassVar[str] = "LPIPS to FP"
    direction: ClassVar[Literal["lower", "higher"]] = "lower"

    net: str = parameter(
        "alex", help="whose features are compared: alex is what papers report mostly", choices=tuple(NETS)
    )
    grey: str = parameter(
        "refuse",
        help="what becomes of grey images: they are refused, or the protocol says that their channel is repeated",
        choices=("refuse", "repeat"),
    )

    def weights(self) -> Weights:
        """Torchvision's file of the trunk."""
        return self._net.weights

    def fixes(self) -> Mapping[str, str]:
        """The net, its heads, how images come to it, and the formula."""
        return {
            "net": f"{self._net.trunk} (torchvision), after layers {', '.join(map(str, self._net.taps))}",
            "heads_sha256": self._net.heads.sha256,
            "pixels": f"{GREY_RULE}, {RULE}" if self.grey == "repeat" else RULE,
            "formula": FORMULA,
        }

    def unsuited(self, setting: Setting) -> str:
        """It needs images that are not too small, in colours unless grey ones are declared."""
        channels, height, width = setting.image
        if channels not in (1, 3):
            return f"it takes RGB images, and these have {channels} channels"
        if channels == 1 and self.grey != "repeat":
            return f"it takes RGB images, and these are grey: declare {self._declared('grey=repeat')}"
        smallest = self._net.smallest
        if min(height, width) < smallest:
            return (
                f"with {self._net.trunk} it needs images of at least {smallest}x{smallest} pixels, and these have "
                f"{height}x{width}{self._other(min(height, width))}"
            )
        return ""

    def each(self, given: MetricInputs) -> Tensor:
        """From 0 on."""
        assert given.weights is not None, "the harness finds what weights() names"
        return each_pair(open_lpips(self._net, given.weights, given.device), given.images, given.fp_images)

    def contribution(self, value: float, given: MetricInputs) -> Contribution | None:
        """None: rows are tested by what each image was found to have, and the net is not run again for that."""
        return None

    @property
    def _net(self) -> LpipsNet:
        return NETS[self.net]

    def _declared(self, option: str) -> str:
        options = [option] if self.net == "alex" else [f"net={self.net}", option]
        return f"{self.name}[{','.join(options)}]"

    def _other(self, side: int) -> str:
        """A hint at a net that takes images with this side."""
        others = [name for name, net in NETS.items() if net.smallest <= side]
        return f"; {self.name}[net={others[0]}] takes them" if others else ""
