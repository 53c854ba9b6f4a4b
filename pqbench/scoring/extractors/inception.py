"""The Inception of FID: the net of Szegedy et al. (2015) as TensorFlow published it in 2015, in PyTorch.

Its blocks are those of torch-fidelity, which ported them with all peculiarities of the original graph (averages that
leave out the padding, one maximum where an average was meant). Its files are read here and not there, where they would
be unpickled.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pqbench.base.errors import UserError
from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.scoring.extractors.files import read_state

SIZE = 299
"""Width and height of its input."""
SPATIAL_CHANNELS = 7
"""Channels of a feature map that sFID takes."""
OUTPUTS = ("features", "spatial", "logits")


class FidInception(nn.Module):
    """(N, 3, 299, 299) float32, about -1 to 1, to features (N, 2048), spatial (N, 2023) and logits (N, 1008).

    features   the last average, `pool_3:0` of the original graph
    spatial    for sFID (Nash et al., "Generating images with sparse representations", ICML 2021): the first 7 channels
               of `mixed_6/conv:0`, 17 x 17, rows first and channels last, as the evaluator of guided-diffusion takes
               them. That is the first branch of the block called Mixed_6d here, and so its output's first channels.
    logits     without the bias, as torch-fidelity and the original take them for IS
    """

    def __init__(self) -> None:
        super().__init__()
        # torch-fidelity imports torchvision for its data sets.
        declare_missing_operators()
        from torch_fidelity import feature_extractor_inceptionv3 as blocks

        self.Conv2d_1a_3x3 = blocks.BasicConv2d(3, 32, kernel_size=3, stride=2)
        self.Conv2d_2a_3x3 = blocks.BasicConv2d(32, 32, kernel_size=3)
        self.Conv2d_2b_3x3 = blocks.BasicConv2d(32, 64, kernel_size=3, padding=1)
        self.Conv2d_3b_1x1 = blocks.BasicConv2d(64, 80, kernel_size=1)
        self.Conv2d_4a_3x3 = blocks.BasicConv2d(80, 192, kernel_size=3)
        self.Mixed_5b = blocks.InceptionA(192, pool_features=32)
        self.Mixed_5c = blocks.InceptionA(256, pool_features=64)
        self.Mixed_5d = blocks.InceptionA(288, pool_features=64)
        self.Mixed_6a = blocks.InceptionB(288)
        self.Mixed_6b = blocks.InceptionC(768, channels_7x7=128)
        self.Mixed_6c = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6d = blocks.InceptionC(768, channels_7x7=160)
        self.Mixed_6e = blocks.InceptionC(768, channels_7x7=192)
        self.Mixed_7a = blocks.InceptionD(768)
        self.Mixed_7b = blocks.InceptionE_1(1280)
        self.Mixed_7c = blocks.InceptionE_2(2048)
        self.fc = nn.Linear(2048, 1008)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """All outputs, by name."""
        middle = self.stem(x)
        features = self.head(middle)
        spatial = middle[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return {"features": features, "spatial": spatial, "logits": features @ self.fc.weight.T}

    def stem(self, x: Tensor) -> Tensor:
        """Up to Mixed_6d, (N, 768, 17, 17)."""
        x = self.pool(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = self.pool(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        middle: Tensor = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))))
        return middle

    def head(self, middle: Tensor) -> Tensor:
        """From Mixed_6d to the features."""
        x: Tensor = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(middle))))
        return x.mean((2, 3))


def load_inception(weights: Path) -> FidInception:
    """The net with the weights of a state dict as torch-fidelity and pytorch-fid publish it, ready to run fast.

    Batch normalization is folded into the convolutions and tensors lie channels last: a third faster on a CPU, within
    rounding of the net as it is written. Raises `UserError` for a file that is something else.
    """
    with torch.device("meta"):
        net = FidInception()
    try:
        net.load_state_dict(read_state(weights), assign=True)
    except RuntimeError:
        raise UserError(f"{weights} does not hold the weights of the Inception of FID (1008 classes).") from None
    net.eval().requires_grad_(False)
    fold_batch_norm(net)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
    return net


def fold_batch_norm(net: nn.Module) -> None:
    """Put each batch normalization, in evaluation mode, into the convolution before it."""
    for module in list(net.modules()):
        convolution, normalization = getattr(module, "conv", None), getattr(module, "bn", None)
        if isinstance(convolution, nn.Conv2d) and isinstance(normalization, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(convolution, normalization)
            module.bn = nn.Identity()
