"""The preset `fd-dinov2`, and `timm:NAME` for any backbone of timm."""

from __future__ import annotations

import difflib
import math
import pickle
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pqbench.base.errors import UserError
from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.contracts.extractor import Weights
from pqbench.contracts.parameters import parameter
from pqbench.contracts.workload import Extractor
from pqbench.scoring.extractors.resize import pillow_uint8
from pqbench.scoring.extractors.rgb import RgbExtractor

DINOV2_BIBTEX = """@inproceedings{stein2023exposing,
  title     = {Exposing Flaws of Generative Model Evaluation Metrics and Their Unfair Treatment of Diffusion Models},
  author    = {Stein, George and Cresswell, Jesse C. and Hosseinzadeh, Rasa and Sui, Yi and Ross, Brendan Leigh and
               Villecroze, Valentin and Liu, Zhaoyan and Caterini, Anthony L. and Taylor, J. Eric T. and
               Loaiza-Ganem, Gabriel},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2023}
}"""

DINOV2 = "vit_large_patch14_dinov2.lvd142m"
"""The model of the preset: of the sizes that Stein et al. looked at, the one that they recommend."""
_LISTED = 5
_POSITION_OFFSET = 0.1
"""DINOv2 adds it to the number of patches before it resizes its position embeddings (its `interpolate_offset`)."""


@dataclass(frozen=True)
class TimmBackbone(RgbExtractor):
    """What a backbone of timm gives its classifier, for images in the size and normalization that it was trained on.

    Images are resized to the model's own input size, whole: nothing is cropped away.
    """

    name: ClassVar[str] = "timm"
    summary: ClassVar[str] = "any backbone of timm, timm:NAME; distances on its features are called FD"
    libraries: ClassVar[tuple[str, ...]] = ("pillow", "timm")
    """What resizes, and what builds the net and states its size, filter, mean and deviation."""

    model: str = parameter("", help="the model's name in timm, with or without the tag of its weights")

    def weights(self) -> Weights:
        """The safetensors file that timm fetches from the Hugging Face hub.

        Raises `UserError` for a model that timm does not have, or that has no published weights.
        """
        config = model_config(self.model)
        file = config.hf_hub_filename or "model.safetensors"
        url = f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{file}" if config.hf_hub_id else config.url
        if not url:
            raise UserError(f"timm publishes no weights for {self.model}: give a file of your own.")
        tag = f".{config.tag}" if config.tag else ""
        suffix = Path(file).suffix if config.hf_hub_id else Path(url).suffix
        return Weights(f"timm-{config.architecture}{tag}{suffix}", url, licence=config.license or "")

    def open(self, weights: Path | None, sha256: str) -> Extractor:
        """Read safetensors or a state dict. Raises `UserError` for weights of another model."""
        assert weights is not None
        config = model_config(self.model)
        size, interpolation = config.input_size[-1], config.interpolation
        body = load_backbone(self.model, weights)
        body.reset_classifier(0)
        return self._extractor(body, f"timm:{self.model}", sha256, size, interpolation, config.mean, config.std)

    def _extractor(
        self, body: nn.Module, name: str, sha256: str, size: int, interpolation: str, mean: Any, std: Any
    ) -> Extractor:
        rule = (
            f"uint8, resized to {size}x{size} by Pillow's {interpolation} filter, antialiased, rounded to uint8; "
            f"mean {tuple(mean)}, std {tuple(std)}"
        )
        prepare = partial(_prepare, size=size, interpolation=interpolation, mean=tuple(mean), std=tuple(std))
        return Extractor(
            net=self.net(prepare, body),
            name=name,
            sha256=sha256,
            pixels=self.pixels(rule),
            channels=self.channels,
            distance="FD",
        )


@dataclass(frozen=True)
class FdDinoV2(TimmBackbone):
    """The CLS token of DINOv2 ViT-L/14 at 224x224, as Stein et al. (2023) take it."""

    name: ClassVar[str] = "fd-dinov2"
    summary: ClassVar[str] = "DINOv2 ViT-L/14 as Stein et al. (2023) run it; its distance is called FD"
    references: ClassVar[tuple[str, ...]] = (DINOV2_BIBTEX,)

    model: str = parameter(DINOV2, help="the DINOv2 model in timm; another size than the preset's joins its name")
    size: ClassVar[int] = 224

    def open(self, weights: Path | None, sha256: str) -> Extractor:
        """Read safetensors or a state dict. Raises `UserError` for weights of another model."""
        assert weights is not None
        config = model_config(self.model)
        body = load_backbone(self.model, weights)
        embedding = resized_positions(body.pos_embed, self.size // body.patch_embed.patch_size[0])
        body.set_input_size((self.size, self.size))
        body.pos_embed = nn.Parameter(embedding)
        name = self.name if self.model == DINOV2 else f"{self.name} {self.model}"
        return self._extractor(body, name, sha256, self.size, "bicubic", config.mean, config.std)


def resized_positions(embedding: Tensor, patches: int) -> Tensor:
    """Position embeddings (1, 1 + n * n, D) for another number of patches a side, as DINOv2's own code resizes them.

    timm's own way, antialiased and without the offset, gives other features.
    """
    token, grid = embedding[:, :1], embedding[:, 1:]
    side = math.isqrt(grid.shape[1])
    square = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (patches + _POSITION_OFFSET) / side
    resized = functional.interpolate(square, scale_factor=(scale, scale), mode="bicubic", align_corners=False)
    return torch.cat([token, resized.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def model_config(model: str) -> Any:
    """What timm knows of a model. Raises `UserError` for one that it does not have."""
    timm = _timm()
    if not model:
        raise UserError("Say which backbone of timm, for instance timm:resnet50.")
    config = timm.get_pretrained_cfg(model) if timm.is_model(model) else None
    if config is not None:
        return config
    known = [*timm.list_models(), *timm.list_pretrained()]
    near = difflib.get_close_matches(model, known, n=_LISTED)
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    raise UserError(f"timm {timm.__version__} has no model {model}.{hint} It has {len(timm.list_models())}.")


def load_backbone(model: str, weights: Path) -> Any:
    """A model of timm, frozen, with exactly the weights of a file, its classifier included.

    Raises `UserError` when the file is damaged or belongs to another model.
    """
    timm = _timm()
    try:
        # timm draws weights before it loads them.
        with torch.random.fork_rng(devices=[]):
            net = timm.create_model(model, pretrained=True, pretrained_cfg_overlay={"file": str(weights)})
    except (RuntimeError, pickle.UnpicklingError, KeyError, ValueError, OSError, EOFError, AttributeError) as error:
        raise _not_for(model, weights, error) from None
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise _not_for(model, weights, error) from None
        raise
    return net.eval().requires_grad_(False)


def _not_for(model: str, weights: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:160]
    return UserError(f"{weights} cannot be read as weights of {model} ({reason}).")


def _timm() -> Any:
    # timm imports torchvision for its data sets.
    declare_missing_operators()
    import timm

    return timm


def _prepare(images: Tensor, size: int, interpolation: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    pixels = pillow_uint8(images, size, interpolation).float() / 255
    shift, scale = (torch.tensor(values, device=pixels.device).view(1, 3, 1, 1) for values in (mean, std))
    return (pixels - shift) / scale
