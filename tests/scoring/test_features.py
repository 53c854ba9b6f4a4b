from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.workload import Extractor
from pqbench.scoring.features import extract_features, extract_outputs
from pqbench.testing.tiny import TinyWorkload


def images(n: int) -> Tensor:
    return torch.randint(0, 256, (n, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class NanForBlack(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1 / x.float().mean((2, 3)) - 1 / x.float().mean((2, 3))


class TooLarge(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1e5 + x.float().mean((2, 3))


def test_features_do_not_depend_on_how_images_arrive() -> None:
    extractor = TinyWorkload().extractor()
    whole = extract_features(extractor, images(23))
    assert whole.shape == (23, 8)
    assert whole.dtype == torch.float32
    assert not whole.requires_grad
    streamed = extract_features(extractor, iter([images(23)[:9], images(23)[9:9], images(23)[9:]]), batch=4)
    torch.testing.assert_close(streamed, whole)


@pytest.mark.parametrize("nothing", [torch.zeros(0, 3, 8, 8, dtype=torch.uint8), []])
def test_no_images_are_refused(nothing: Tensor | list[Tensor]) -> None:
    with pytest.raises(UserError, match="no images"):
        extract_features(TinyWorkload().extractor(), nothing)


@pytest.mark.parametrize("count", [None, 23])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_outputs_are_the_same_rounded_wherever_they_are_put(count: int | None, dtype: torch.dtype) -> None:
    extractor = TinyWorkload().extractor()
    whole = extract_features(extractor, images(23))
    found = extract_outputs(extractor, iter(images(23).split(5)), 4, count=count, dtype=dtype)["features"]
    assert found.dtype == dtype
    torch.testing.assert_close(found, whole.to(dtype))


def test_features_that_a_narrow_type_cannot_hold_are_refused() -> None:
    extractor = Extractor(TooLarge(), "large", "")
    extract_outputs(extractor, images(5))
    with pytest.raises(UserError, match="The extractor large in float16 gave NaN or infinite features for 5 of 5"):
        extract_outputs(extractor, images(5), dtype=torch.float16)


@pytest.mark.parametrize("announced", [22, 24])
def test_another_number_of_images_than_announced_is_no_result(announced: int) -> None:
    with pytest.raises(ValueError, match=f"{announced}.* announced"):
        extract_outputs(TinyWorkload().extractor(), iter(images(23).split(5)), count=announced)


def test_images_that_are_not_uint8_are_refused() -> None:
    with pytest.raises(UserError, match=r"uint8 images; these are torch\.float32"):
        extract_features(TinyWorkload().extractor(), images(2).float())


def test_features_that_are_not_finite_are_counted_and_refused() -> None:
    batch = images(5)
    batch[1:3] = 0
    with pytest.raises(UserError, match="2 of 5 images"):
        extract_features(Extractor(NanForBlack(), "broken", ""), batch)
