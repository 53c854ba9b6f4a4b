from __future__ import annotations

import torch

from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.testing.tiny import TinyWorkload


def sample(n: int) -> torch.Tensor:
    workload = TinyWorkload()
    noise = initial_noise(0, range(n), workload.shape)
    return ddim_sample(workload.denoiser(), workload.schedule(), workload.timesteps(workload.steps), noise)


def test_every_denoiser_is_the_same_one_and_the_global_random_state_is_untouched() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = TinyWorkload().denoiser().state_dict()
    torch.manual_seed(6)
    second = TinyWorkload().denoiser().state_dict()
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_an_architecture_takes_the_weights_of_the_denoiser() -> None:
    workload = TinyWorkload()
    denoiser, copy = workload.denoiser(), workload.architecture()
    copy.load_state_dict(denoiser.state_dict())
    x_t, t = torch.randn(2, *workload.shape), torch.tensor([3, 900])
    assert torch.equal(denoiser(x_t, t), copy(x_t, t))
    assert not denoiser.training


def test_images_are_neither_saturated_nor_all_alike() -> None:
    images = TinyWorkload().decode(sample(16))
    assert images.shape == (16, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert ((images == 0) | (images == 255)).float().mean() < 0.1
    assert images.float().std(0).min() > 5


def test_the_reference_is_what_its_features_say() -> None:
    reference = TinyWorkload().reference()
    features = reference.features.double()
    torch.testing.assert_close(reference.mean, features.mean(0))
    torch.testing.assert_close(reference.covariance, features.T.cov())
    assert reference.n == len(features)
    assert torch.linalg.eigvalsh(reference.covariance).min() > 0
