"""What all extractors of RGB images share: the rule for grey ones, and memory that does not grow with the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.extractor import FeatureExtractor
from pqbench.contracts.parameters import parameter

Prepare = Callable[[Tensor], Tensor]
"""Images (N, 3, H, W) uint8 to the input of a net."""
GREY_RULE = "grey images repeated over three channels"
_AT_ONCE = {"cpu": 16, "cuda": 128}
"""Images that a net sees together: the first feature maps of Inception take 10 MB each, whatever is asked for."""


@dataclass(frozen=True)
class RgbExtractor(FeatureExtractor):
    """Base of the extractors for RGB images."""

    grey: str = parameter(
        "refuse",
        help="what becomes of grey images: they are refused, or the protocol says that their channel is repeated",
        choices=("refuse", "repeat"),
    )

    @property
    def channels(self) -> int | None:
        """What `Extractor.channels` says."""
        return None if self.grey == "repeat" else 3

    def pixels(self, rule: str) -> str:
        """The rule with what becomes of grey images, for the protocol."""
        return f"{GREY_RULE}, {rule}" if self.grey == "repeat" else rule

    def net(self, prepare: Prepare, body: nn.Module) -> nn.Module:
        """Images (N, C, H, W) uint8 to what `body` makes of what `prepare` makes of them."""
        return RgbNet(prepare, body).eval().requires_grad_(False)


class RgbNet(nn.Module):
    """Runs a net on a few images at a time.

    prepare   (N, 3, H, W) uint8 -> the input of `body`
    body      gives one tensor with a row for each image, or a mapping to such tensors
    """

    def __init__(self, prepare: Prepare, body: nn.Module) -> None:
        super().__init__()
        self.prepare, self.body = prepare, body

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, 1 or 3, H, W) uint8 -> name -> (N, ...)."""
        if images.shape[1] not in (1, 3):
            raise UserError(f"Images are RGB or grey here; these have {images.shape[1]} channels.")
        at_once = _AT_ONCE.get(images.device.type, _AT_ONCE["cpu"])
        parts = [self._few(few) for few in torch.split(images, at_once)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _few(self, images: Tensor) -> dict[str, Tensor]:
        given = self.body(self.prepare(images.expand(-1, 3, -1, -1)))
        return {"features": given} if isinstance(given, Tensor) else given
