"""`sample.py` of an exported folder: written out for one model, so that it reads like the algorithm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts.schedule import PREDICTIONS
from pqbench.engines.exporting import IMAGES, Exportable

ANY_BATCH = 16
"""Images that the example makes with a model for any batch."""
CONDITION = "condition.npz"

_FACTORS = {
    "epsilon": ("a[k + 1] / a[k]", "s[k + 1] - s[k] * p"),
    "v": ("a[k + 1] * a[k] + s[k + 1] * s[k]", "s[k + 1] * a[k] - a[k + 1] * s[k]"),
    "x": ("s[k + 1] / s[k]", "a[k + 1] - a[k] * p"),
}
"""p and q of a DDIM step x_next = p x_t + q prediction, as in `pqbench.diffusion.ddim.step_factors`."""

_TEMPLATE = '''\
"""Images from noise, by DDIM in {steps} steps. Needs openvino, numpy and pillow.

    python sample.py [NOISE.npy]    writes {images}; NOISE.npy: noise of your own, ({batch}, {shape}) float32
"""

import json
import sys
from pathlib import Path

import numpy as np
import openvino
from exact import protect  # CPUs without VNNI: int8 layers that would saturate run in float32
from PIL import Image

here = Path(__file__).parent
schedule = json.loads((here / "schedule.json").read_text())
core, settings = openvino.Core(), {{"INFERENCE_PRECISION_HINT": "{floats}", "PERFORMANCE_HINT": "LATENCY"}}
denoise = core.compile_model(protect(core.read_model(here / "model.xml")), "CPU", settings)
decode = core.compile_model(here / "decode.xml", "CPU", settings)

noise = np.random.default_rng().standard_normal(({count}, {shape}))
x = np.float32(np.load(sys.argv[1]) if len(sys.argv) > 1 else noise)
{condition}abar = np.array([*schedule["alphas_cumprod"], 1.0])  # x_t = sqrt(abar) x_0 + sqrt(1 - abar) noise
a, s = np.sqrt(abar), np.sqrt(1 - abar)
for k, t in enumerate(schedule["timesteps"]):
    predicted = denoise([x, np.full(len(x), t){inputs}])[0]  # {prediction}
    p = {p}
    q = {q}
    x = np.float32(p) * x + np.float32(q) * predicted
images = decode([x])[0]  # (N, {channels}, H, W) uint8
Image.fromarray(np.concatenate(images.transpose(0, 2, 3, 1), axis=1){squeeze}).save("{out}")
'''


def script(model: Exportable, floats: str, channels: int) -> str:
    """The example's text. Raises `UserError` for images that no PNG holds.

    floats     the type of floating-point arithmetic, as OpenVINO calls it
    channels   of the decoded images
    """
    if channels not in (1, 3):
        raise UserError(f"Images of {channels} channels cannot be written as PNG: only grey and RGB images can.")
    p, q = _FACTORS[model.prediction]
    return _TEMPLATE.format(
        steps=len(model.timesteps),
        images=IMAGES,
        out=IMAGES,
        batch=model.batch or "N",
        count=model.batch or ANY_BATCH,
        shape=", ".join(map(str, model.shape)),
        floats=floats,
        condition=_condition(model.condition),
        inputs=", *condition" if model.condition else "",
        prediction=_IN_WORDS[model.prediction],
        p=p,
        q=q,
        channels=channels,
        squeeze="[:, :, 0]" if channels == 1 else "",
    )


_IN_WORDS = {"epsilon": "the noise in x", "v": "v = a noise - s x_0", "x": "x_0"}
assert _FACTORS.keys() == _IN_WORDS.keys() == set(PREDICTIONS)


def are_labels(condition: Sequence[Tensor]) -> bool:
    """Whether a condition is one whole number an image, which the example can hold as text."""
    return len(condition) == 1 and condition[0].dim() == 1 and not condition[0].is_floating_point()


def condition_arrays(condition: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """What `CONDITION` holds: the rows of each condition by its number."""
    return {f"condition_{i}": each.numpy() for i, each in enumerate(condition)}


def _condition(condition: Sequence[Tensor]) -> str:
    if not condition:
        return ""
    if are_labels(condition):
        rows = f"[np.array({condition[0].tolist()})]  # class labels, one an image: change them as you like"
    else:
        rows = f'list(np.load(here / "{CONDITION}").values())  # rows for {len(condition[0])} images'
    return f"rows = {rows}\ncondition = [each[np.arange(len(x)) % len(each)] for each in rows]\n"
