"""Resizing, against the libraries whose rule each function is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.scoring.extractors.resize import bicubic_pillow, bilinear_tensorflow1, bilinear_torch, pillow_uint8
from pqbench.testing.inception import random_images

declare_missing_operators()

SIZES = [(1, 1), (32, 32), (33, 57), (299, 299), (340, 301), (700, 40)]


def images(height: int, width: int) -> Tensor:
    return random_images(2, max(height, width, 4), seed=7)[:, :, :height, :width].contiguous()


def clean_fid(mode: str, batch: Tensor) -> Tensor:
    """clean-fid's own resizer of this mode, image by image."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanfid.resize import build_resizer

        resize = build_resizer(mode)
        return torch.from_numpy(np.stack([resize(image.permute(1, 2, 0).numpy()) for image in batch])).permute(
            0, 3, 1, 2
        )


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_tensorflow_s_bilinear_is_torch_fidelity_s_bit_for_bit(height: int, width: int) -> None:
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    batch = images(height, width)
    theirs = interpolate_bilinear_2d_like_tensorflow1x(batch.float(), size=(299, 299), align_corners=False)
    assert torch.equal(bilinear_tensorflow1(batch, 299), theirs)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pillow_s_bicubic_is_clean_fid_s(height: int, width: int) -> None:
    batch = images(height, width)
    theirs = clean_fid("clean", batch)
    assert float((bicubic_pillow(batch, 299) - theirs).abs().max()) < 1e-4  # of 255
    assert theirs.shape == (2, 3, 299, 299)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_torch_s_bilinear_is_clean_fid_s_legacy_one(height: int, width: int) -> None:
    batch = images(height, width)
    torch.testing.assert_close(bilinear_torch(batch, 299), clean_fid("legacy_pytorch", batch), rtol=0, atol=1e-4)


def test_the_three_rules_are_three_rules() -> None:
    batch = images(32, 32)
    made = [rule(batch, 299) for rule in (bilinear_tensorflow1, bilinear_torch, bicubic_pillow)]
    assert all(float((a - b).abs().mean()) > 0.5 for a, b in ((made[0], made[1]), (made[1], made[2])))


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_uint8_images_are_resized_by_pillow_itself(name: str) -> None:
    batch = images(33, 57)
    made = pillow_uint8(batch, 24, name)
    picture = Image.fromarray(batch[1].permute(1, 2, 0).numpy())
    wanted = np.asarray(picture.resize((24, 24), Image.Resampling[name.upper()]))
    assert made.dtype == torch.uint8
    assert np.array_equal(made[1].permute(1, 2, 0).numpy(), wanted)
