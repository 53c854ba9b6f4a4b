"""The quantizer `ptq4dm`: L_p searched ranges, averaged over calibration batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import nn

from pqbench.contracts import CalibrationSet, Context, Quantizer, parameter
from pqbench.quantization import (
    PTQ4DM_BIBTEX,
    MovingAverage,
    calibrate_activations,
    calibrate_weights,
    lp_search_2d,
    quantize_layers,
    split_patterns,
)

MOMENTUM = 0.1
"""Weight of the newest batch in the moving average of a range: the script's 0.1 / 0.9."""


@dataclass(frozen=True)
class Ptq4dmQuantizer(Quantizer):
    """Searches each range for the least L_p error: weights per output channel, layer inputs per tensor.

    As the released script runs it: p = 2.4, 100 candidates, no rounding reconstruction. Convolutions and linear layers
    are quantized; softmax, SiLU, normalisation and the attention products stay in full precision.

    The script sets symmetric grids, at 8 bits and on outputs of layers, which are about even around zero. An integer
    kernel needs them on inputs instead, most of which have passed a SiLU and lie above -0.28: half of a symmetric grid
    would never be used, and of 16 codes none can be spared. So grids are asymmetric here unless `w_symmetric` and
    `a_symmetric` ask for the script's. As in its code the search then is one for width and zero-point together, where
    values have both signs.
    """

    name: ClassVar[str] = "ptq4dm"
    summary: ClassVar[str] = "L_p range search, activation ranges averaged over calibration batches (PTQ4DM)"
    references: ClassVar[tuple[str, ...]] = (PTQ4DM_BIBTEX,)
    deviations: ClassVar[tuple[str, ...]] = (
        "Activations are quantized at the input of a layer, which an integer kernel needs; the released code quantizes "
        "a layer's output after its activation function.",
        "Grids are asymmetric, as most inputs come from a SiLU; the released script sets symmetric ones, at 8 bits "
        "(w_symmetric=true, a_symmetric=true).",
        "Conv1d layers are quantized like the others; the released code leaves improved-diffusion's qkv and output "
        "projections, which are Conv1d, in full precision.",
        "The error of a range is taken over an even sample of 65,536 values of a batch.",
    )

    w_symmetric: bool = parameter(False, help="weight grids around zero, as the released script sets them")
    a_symmetric: bool = parameter(False, help="activation grids around zero, as the released script sets them")
    p: float = parameter(2.4, help="exponent of the error that the range search minimises", low=1, high=10)
    candidates: int = parameter(100, help="widths of a range that the search tries", low=1, high=1000)
    batch: int = parameter(256, quick=64, help="calibration samples to one update of the averaged ranges", low=1)
    end_bits: int = parameter(8, help="bits of the first and the last layer; 0: like the rest", low=0, high=8)
    exempt: str = parameter("", help="patterns of layers that stay in full precision, separated by |")

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        """Weights first; the activation ranges then see the inputs that the quantized weights make."""
        net = net.to(context.device)
        quantize_layers(
            net,
            context.precision,
            calibration.inputs(slice(1), context.device),
            end_bits=self.end_bits or None,
            exempt=split_patterns(self.exempt),
            w_symmetric=self.w_symmetric,
            a_symmetric=self.a_symmetric,
        )
        search = partial(lp_search_2d, p=self.p, candidates=self.candidates)
        calibrate_weights(net, search)
        calibrate_activations(
            net,
            calibration,
            lambda grid: MovingAverage(grid, search, MOMENTUM),
            batch=self.batch,
            device=context.device,
            progress=context.progress,
        )
        return net
