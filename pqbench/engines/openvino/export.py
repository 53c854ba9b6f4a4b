"""A folder with a model as OpenVINO's own files, and an example that needs nothing of pqbench."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pqbench.base.errors import NoSpaceError, UserError
from pqbench.base.files import explained_writing
from pqbench.engines.exporting import Exportable
from pqbench.engines.openvino.convert import converted
from pqbench.engines.openvino.lowering import lower
from pqbench.engines.openvino.sample_script import CONDITION, are_labels, condition_arrays, script

MODEL, DECODE, EXACT = "model.xml", "decode.xml", "exact.py"
REQUIREMENTS = ("openvino", "numpy", "pillow")
_TRACED_BATCH = 2
"""For a model of any batch: with one image, an axis of length 1 would be taken for one that broadcasts."""


def write_folder(model: Exportable, folder: Path, floats: str) -> None:
    """Write the denoiser, the decoder, the schedule, the example, its requirements and what keeps it exact.

    A folder may run on another CPU than the one that wrote it. So the model is written with all its int8 layers, and
    those that would saturate are moved to float32 where it is opened (see `pqbench.engines.openvino.exact`).

    floats   the type of floating-point arithmetic that the example asks for, as OpenVINO calls it

    Raises `UserError` when OpenVINO is missing, when it cannot convert the model, and when a file cannot be written.
    """
    batch = model.batch or _TRACED_BATCH
    any_batch = model.batch is None
    x, t = torch.zeros(batch, *model.shape), torch.zeros(batch, dtype=torch.int64)
    condition = [_rows(each, batch) for each in model.condition]
    channels = model.decode(x).shape[1]
    text = script(model, floats, channels)
    _save(converted(lower(model.net), (x, t, *condition), any_batch), folder / MODEL)
    _save(converted(_Decoder(model.decode), (x,), any_batch), folder / DECODE)
    schedule = {
        "sampler": "DDIM, deterministic (Song et al., 2021)",
        "prediction": model.prediction,
        "timesteps": model.timesteps.tolist(),
        "alphas_cumprod": model.alphas_cumprod.tolist(),
    }
    requirements = "".join(f"{name}=={version(name)}\n" for name in REQUIREMENTS)
    with explained_writing(folder):
        (folder / "schedule.json").write_text(json.dumps(schedule, indent=1) + "\n")
        (folder / "requirements.txt").write_text(requirements)
        (folder / "sample.py").write_text(text)
        shutil.copyfile(Path(__file__).with_name(EXACT), folder / EXACT)
        if model.condition and not are_labels(model.condition):
            arrays: dict[str, Any] = condition_arrays(model.condition)
            np.savez(folder / CONDITION, **arrays)


def open_folder(folder: Path, floats: str, threads: int) -> Callable[..., Tensor]:
    """The denoiser of an exported folder, compiled from its files."""
    import openvino

    from pqbench.engines.openvino.exact import protect

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": floats,
    }
    core = openvino.Core()
    compiled = core.compile_model(protect(core.read_model(folder / MODEL)), "CPU", settings)

    def denoise(*inputs: Tensor) -> Tensor:
        return torch.from_numpy(compiled([each.contiguous().numpy() for each in inputs])[0].copy())

    return denoise


class _Decoder(nn.Module):
    """A workload's decoding as a module, which is what a frontend takes."""

    def __init__(self, decode: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._decode = decode

    def forward(self, x_0: Tensor) -> Tensor:
        return self._decode(x_0)


def _rows(rows: Tensor, count: int) -> Tensor:
    """`count` rows, from the first on and over again where there are fewer."""
    return rows[torch.arange(count) % len(rows)]


def _save(model: Any, path: Path) -> None:
    """Write a model without rounding its weights to half precision, which would be the default."""
    import openvino

    try:
        openvino.save_model(model, path, compress_to_fp16=False)
    except RuntimeError as error:  # what OpenVINO says of a full disk is "iostream error"
        needed = sum(op.get_byte_size() for op in model.get_ops() if op.get_type_name() == "Constant")
        if shutil.disk_usage(path.parent).free < 2 * needed:
            raise NoSpaceError(
                f"No space is left for {path} ({needed / 1e6:.1f} MB): free some, or export to another disk."
            ) from error
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{path} cannot be written ({reason}): export to another folder.") from error
