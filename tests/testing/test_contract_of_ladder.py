"""The sanity ladder as a contract test of quantizers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pqbench_rtn import MinMaxQuantizer
from torch import nn

from pqbench.contracts import CalibrationSet, Context, Precision
from pqbench.testing import ContractError, check_ladder


class Backwards(MinMaxQuantizer):
    """Has two widths of its weights the wrong way round."""

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        asked = context.precision
        swapped = Precision({2: 4, 4: 2}.get(asked.w, asked.w), asked.a)
        return super().quantize(replace(context, precision=swapped), net, calibration)


def test_a_quantizer_climbs_the_ladder_or_is_told_where_it_fell() -> None:
    check_ladder(MinMaxQuantizer(), bits=(2, 4, 8), images=2)
    with pytest.raises(ContractError, match=r"more bits of weights are not worse .*worse: 4 than 2.*Look at a grid"):
        check_ladder(Backwards(), bits=(2, 4, 8), images=2)
