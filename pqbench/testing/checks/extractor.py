"""The contract of extractors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pqbench.contracts import Extractor, FeatureExtractor
from pqbench.testing.checks.expect import expect, expect_sound_facts
from pqbench.testing.checks.leaks import no_leaked_globals

_NAMES = ("features", "spatial", "logits")
_TOLERANCE = 1e-3


def check_extractor(extractor: FeatureExtractor, *, weights: Path | None = None, size: int = 32) -> None:
    """Check an extractor on a few random images.

    It gives the outputs that it names, one finite float32 row an image, the same alone as in a batch and when it is
    opened again; its net is frozen, and nothing global changes.

    weights   the file that it reads; None for one that needs none
    size      width and height of the images
    """
    expect_sound_facts(type(extractor))
    needed = extractor.weights()
    expect((needed is None) == (weights is None), f"Its weights are {needed}, but {weights} was given to the check.")
    with no_leaked_globals():
        opened = extractor.open(weights, "0" * 64 if weights else "")
    expect(not any(module.training for module in opened.net.modules()), "Its net is not in evaluation mode.")
    expect(not any(each.requires_grad for each in opened.net.parameters()), "Its net is not frozen.")
    strange = [name for name in opened.outputs if name not in _NAMES]
    expect(not strange and "features" in opened.outputs, f"Its outputs are {opened.outputs}; known are {_NAMES}.")
    generator = torch.Generator().manual_seed(0)
    shape = (3, opened.channels or 3, size, size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    together = _outputs(opened, images)
    for name, values in together.items():
        sound = values.dtype == torch.float32 and len(values) == len(images) and bool(torch.isfinite(values).all())
        expect(sound, f"Its {name} are {values.dtype} of shape {tuple(values.shape)}, or not finite.")
        alone = torch.cat([_outputs(opened, image[None])[name] for image in images])
        same = float((alone - values).norm()) <= _TOLERANCE * float(values.norm())
        expect(same, f"The {name} of an image depend on the images beside it.")
    again = _outputs(extractor.open(weights, "0" * 64 if weights else ""), images)
    same = all(torch.allclose(again[name], values) for name, values in together.items())
    expect(same, "Opened again, it gives other outputs.")


@torch.no_grad()
def _outputs(opened: Extractor, images: Tensor) -> dict[str, Tensor]:
    with no_leaked_globals():
        given = opened.net(images)
    named = {"features": given} if isinstance(given, Tensor) else dict(given)
    missing = [name for name in opened.outputs if name not in named]
    expect(not missing, f"It names the outputs {', '.join(missing)} and does not give them.")
    return {name: named[name] for name in opened.outputs}
