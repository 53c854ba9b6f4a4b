"""The tiny workload as models that predict v or x_0: they make what the one that predicts epsilon does."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from pqbench.testing.tiny import TinyWorkload


class Translated(nn.Module):
    """Says of x_t what an epsilon-predicting net does, in terms of another prediction."""

    def __init__(self, net: nn.Module, workload: TinyWorkload) -> None:
        super().__init__()
        self.net = net
        self.workload = workload

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        schedule, shape = self.workload.schedule(), (-1, 1, 1, 1)
        a, s = schedule.signal(t).view(shape), schedule.sigma(t).view(shape)
        epsilon = self.net(x, t).double()
        x_0 = (x.double() - s * epsilon) / a
        return (a * epsilon - s * x_0 if self.workload.prediction == "v" else x_0).float()


class VTiny(TinyWorkload):
    prediction: ClassVar[str] = "v"

    def architecture(self) -> nn.Module:
        return Translated(super().architecture(), self).eval()


class XTiny(VTiny):
    prediction: ClassVar[str] = "x"
