"""The nets of LPIPS: torchvision's AlexNet and VGG-16 up to the last layer that is looked at, and their linear heads.

The layers are written here and not taken from torchvision, which builds classifiers of 59 and 124 million weights
around them. They have torchvision's numbers, so that its files fit. The heads ship with pqbench (`heads/README.md`):
the trunks are what is fetched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.extractor import Weights
from pqbench.scoring.extractors.files import read_state
from pqbench.scoring.weights.store import verified

LPIPS_BIBTEX: Final = """@inproceedings{zhang2018unreasonable,
  title     = {The Unreasonable Effectiveness of Deep Features as a Perceptual Metric},
  author    = {Zhang, Richard and Isola, Phillip and Efros, Alexei A. and Shechtman, Eli and Wang, Oliver},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2018}
}"""

_HEADS: Final = Path(__file__).parent / "heads"
_FEATURES: Final = "features."
"""How torchvision's names of what is used begin; the classifier's are left alone."""


@dataclass(frozen=True)
class LpipsNet:
    """One of LPIPS's nets.

    trunk      its name in words
    layers     makes the layers, numbered as torchvision numbers its `features`
    taps       after which of them features are compared
    smallest   height and width of an image below which a pooling would have nothing to pool
    weights    torchvision's file of the trunk
    heads      the linear heads, one weight for each channel of each compared layer
    """

    trunk: str
    layers: Callable[[], nn.Sequential]
    taps: tuple[int, ...]
    smallest: int
    weights: Weights
    heads: Weights


def _alexnet() -> nn.Sequential:
    """Krizhevsky (2014), "One weird trick for parallelizing convolutional neural networks"."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
    )


def _vgg16() -> nn.Sequential:
    """Simonyan and Zisserman (2015), configuration D."""
    layers: list[nn.Module] = []
    given = 3
    for block in ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)):
        if layers:
            layers.append(nn.MaxPool2d(2, stride=2))
        for channels in block:
            layers += [nn.Conv2d(given, channels, 3, padding=1), nn.ReLU(inplace=True)]
            given = channels
    return nn.Sequential(*layers)


def _published_heads(name: str, sha256: str, size: int) -> Weights:
    url = f"https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/{name}"
    return Weights(name, url, sha256, size, "BSD-2-Clause")


NETS: Final[dict[str, LpipsNet]] = {
    "alex": LpipsNet(
        "AlexNet",
        _alexnet,
        taps=(1, 4, 7, 9, 11),
        smallest=31,
        weights=Weights(
            file="alexnet-owt-7be5be79.pth",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            bytes=244_408_911,
            licence="BSD-3-Clause",
        ),
        heads=_published_heads("alex.pth", "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0", 6_009),
    ),
    "vgg": LpipsNet(
        "VGG-16",
        _vgg16,
        taps=(3, 8, 15, 22, 29),
        smallest=16,
        weights=Weights(
            file="vgg16-397923af.pth",
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
            sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            bytes=553_433_881,
            licence="BSD-3-Clause",
        ),
        heads=_published_heads("vgg.pth", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868", 7_289),
    ),
}
"""By the names that the package lpips gives them."""


def load_trunk(net: LpipsNet, weights: Path) -> nn.Sequential:
    """The layers with torchvision's weights, frozen, laid channels last: an eighth faster on a CPU.

    Raises `UserError` for a file that is damaged or another net's.
    """
    state = read_state(weights)
    features = {name.removeprefix(_FEATURES): each for name, each in state.items() if name.startswith(_FEATURES)}
    with torch.device("meta"):
        layers = net.layers()
    try:
        layers.load_state_dict(features, assign=True)
    except RuntimeError:
        raise UserError(f"{weights} does not hold the weights of {net.trunk} as torchvision publishes them.") from None
    layers.float().eval().requires_grad_(False)
    for convolution in layers:
        if isinstance(convolution, nn.Conv2d):
            convolution.weight.data = convolution.weight.data.contiguous(memory_format=torch.channels_last)
    return layers


def load_heads(net: LpipsNet) -> list[Tensor]:
    """A weight for each channel (1, C, 1, 1) of each compared layer, not negative.

    Raises `UserError` where the file that ships with pqbench is no longer the published one.
    """
    state = read_state(verified(_HEADS / net.heads.file, net.heads).path)
    return [state[f"lin{place}.model.1.weight"] for place in range(len(net.taps))]
