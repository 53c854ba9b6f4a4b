"""From a torch module to an OpenVINO model with static shapes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError


def to_openvino(net: nn.Module, shape: tuple[int, int, int], batch: int, condition: Sequence[Tensor] = ()) -> Any:
    """Trace `net` on inputs (batch, *shape), (batch,) and `condition`, and convert the trace to an `openvino.Model`.

    The frontend is used directly: `openvino.convert_model` does the same, but reports each use to its makers, and a
    benchmark neither needs a network nor starts one.

    Raises `UserError` when the net holds something that OpenVINO cannot convert.
    """
    return converted(net, (torch.zeros(batch, *shape), torch.zeros(batch, dtype=torch.int64), *condition))


def converted(net: nn.Module, example: tuple[Tensor, ...], any_batch: bool = False) -> Any:
    """The same for any module: its trace on `example`, for inputs of these shapes or, with `any_batch`, of any batch.

    With any batch, shapes are computed in every call and layers are not laid out for one: measured on the bundled net,
    a step takes 1.3 to 5 times as long.
    """
    from openvino import PartialShape
    from openvino._offline_transformations import apply_moc_transformations
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing warns about every branch on a shape, and about being TorchScript.
        warnings.simplefilter("ignore")
        try:
            # The frontend calls back into the decoder and does not keep it alive.
            # Tracing a second time to compare is a fifth of a compilation; parity compares predictions.
            decoder = TorchScriptPythonDecoder(net.eval(), example_input=example, trace_kwargs={"check_trace": False})
            model = frontend.convert(frontend.load(decoder))
        except Exception as error:  # the frontend has no common type for what it cannot convert
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise UserError(f"OpenVINO cannot convert this net ({reason}): time it with another engine.") from error
    shapes = [PartialShape([-1 if any_batch else len(each), *each.shape[1:]]) for each in example]
    model.reshape(dict(zip(model.inputs, shapes, strict=True)))
    # Folds what the frontend left as arithmetic on constants: only a quantizer with constant bounds gets int8 kernels.
    apply_moc_transformations(model, cf=False)
    return model
