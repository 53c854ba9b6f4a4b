"""The presets `fid-clean`, `fid-legacy` and `fid-legacy-tensorflow`: the three modes of clean-fid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.extractor import Weights
from pqbench.contracts.workload import Extractor
from pqbench.scoring.extractors.files import read_torchscript
from pqbench.scoring.extractors.published import FID_BIBTEX, INCEPTION_SCRIPT
from pqbench.scoring.extractors.resize import bicubic_pillow, bilinear_torch
from pqbench.scoring.extractors.rgb import Prepare, RgbExtractor
from pqbench.scoring.extractors.state_dict import StateDictExtractor

CLEAN_BIBTEX = """@inproceedings{parmar2022aliased,
  title     = {On Aliased Resizing and Surprising Subtleties in {GAN} Evaluation},
  author    = {Parmar, Gaurav and Zhang, Richard and Zhu, Jun-Yan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2022}
}"""


@dataclass(frozen=True)
class FidClean(RgbExtractor):
    """clean-fid's mode `clean`: Pillow's bicubic filter, antialiased, on each channel in float."""

    name: ClassVar[str] = "fid-clean"
    summary: ClassVar[str] = "the Inception of FID after an antialiased resize: clean-fid's mode clean"
    references: ClassVar[tuple[str, ...]] = (FID_BIBTEX, CLEAN_BIBTEX)
    libraries: ClassVar[tuple[str, ...]] = ("pillow",)
    """What decides its features beside torch (see `pqbench.scoring.libraries`)."""
    rule: ClassVar[str] = "uint8, resized to 299x299 by Pillow's bicubic filter, antialiased, in float32, clipped"

    def weights(self) -> Weights:
        """The TorchScript of StyleGAN2-ADA."""
        return INCEPTION_SCRIPT

    def open(self, weights: Path | None, sha256: str) -> Extractor:
        """Read the TorchScript. Raises `UserError` for a file that is damaged or holds another net."""
        assert weights is not None
        script: Any = read_torchscript(weights)
        if not callable(getattr(script, "layers", None)):
            raise UserError(f"{weights} is no Inception as StyleGAN2-ADA publishes it: it has no part called layers.")
        return Extractor(
            net=self._scripted(script),
            name=self.name,
            sha256=sha256,
            pixels=self.pixels(self.rule),
            channels=self.channels,
            distance="FID",
        )

    def _scripted(self, script: Any) -> nn.Module:
        return self.net(_clean, _Flat(script.layers))


@dataclass(frozen=True)
class FidLegacyTensorflow(FidClean):
    """clean-fid's mode `legacy_tensorflow`: the TorchScript resizes by itself, as the original graph did."""

    name: ClassVar[str] = "fid-legacy-tensorflow"
    summary: ClassVar[str] = "the Inception of FID with the original graph's resize: clean-fid's legacy_tensorflow"
    references: ClassVar[tuple[str, ...]] = (FID_BIBTEX, CLEAN_BIBTEX)
    libraries: ClassVar[tuple[str, ...]] = ()
    rule: ClassVar[str] = (
        "uint8, resized to 299x299 as TensorFlow 1 does (bilinear, not antialiased) by a sampling grid"
    )

    def _scripted(self, script: Any) -> nn.Module:
        return self.net(lambda images: images.float(), _ReturnFeatures(script))


@dataclass(frozen=True)
class FidLegacy(StateDictExtractor):
    """clean-fid's mode `legacy_pytorch`, which is pytorch-fid for images that need not be enlarged by a data loader.

    The net and its file are those of pytorch-fid; clean-fid resizes before it by PyTorch's bilinear filter, which has
    half-pixel centres and no antialiasing.
    """

    name: ClassVar[str] = "fid-legacy"
    summary: ClassVar[str] = "the Inception of FID after PyTorch's bilinear resize: clean-fid's legacy_pytorch"
    references: ClassVar[tuple[str, ...]] = (FID_BIBTEX, CLEAN_BIBTEX)
    rule: ClassVar[str] = "uint8, resized to 299x299 by PyTorch's bilinear filter, not antialiased, in float32"

    def prepare(self) -> Prepare:
        """Resizes by that rule."""
        return _legacy


def _clean(images: Tensor) -> Tensor:
    # The published script lays blocks out channels first again; its costly first layers still gain by this.
    return ((bicubic_pillow(images, 299) - 128) / 128).contiguous(memory_format=torch.channels_last)


def _legacy(images: Tensor) -> Tensor:
    pixels = 2 * (bilinear_torch(images, 299) / 255) - 1
    return pixels.contiguous(memory_format=torch.channels_last)


class _Flat(nn.Module):
    """Features (N, 2048) of what gives (N, 2048, 1, 1)."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(x)
        return features.flatten(1)


class _ReturnFeatures(nn.Module):
    """The whole script, asked for its features instead of its classes."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.script(x, return_features=True)
        return features.flatten(1)
