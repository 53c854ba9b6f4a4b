"""What ships: the files of the bundled workloads, and the classes that read them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pqbench.base.errors import UserError
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.scoring.features import extract_features
from pqbench.workloads.bundled import DENOISER, EXTRACTOR, REFERENCE, BundledWorkload
from pqbench.workloads.cifar10 import Cifar10
from pqbench.workloads.fashion import Fashion
from pqbench.workloads.training.model_card import render

MEBIBYTES = {Fashion: 16, Cifar10: 26}
IMAGES = {Fashion: 60_000, Cifar10: 50_000}
each_workload = pytest.mark.parametrize("kind", [Fashion, Cifar10])


def copy_of(kind: type[BundledWorkload], folder: Path) -> BundledWorkload:
    """The workload with its files in a folder where a test may break them."""
    shutil.copytree(kind.folder, folder)
    return type("Copied", (kind,), {"folder": folder})()


def samples(workload: BundledWorkload, count: int) -> torch.Tensor:
    noise = initial_noise(0, range(count), workload.shape)
    x_0 = ddim_sample(workload.denoiser(), workload.schedule(), workload.timesteps(workload.steps), noise)
    return workload.decode(x_0)


def distances_of_means(workload: BundledWorkload, images: torch.Tensor) -> tuple[float, float]:
    """How far the mean features of images, and of as many random ones, are from the data's."""
    extractor, mean = workload.extractor(), workload.reference().mean
    random = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    of = [(extract_features(extractor, batch).double().mean(0) - mean).norm() for batch in (images, random)]
    return float(of[0]), float(of[1])


@each_workload
def test_the_files_are_whole_and_small(kind: type[BundledWorkload]) -> None:
    workload = kind()
    denoiser, extractor, reference = workload.denoiser(), workload.extractor(), workload.reference()
    assert not denoiser.training
    assert {parameter.dtype for parameter in denoiser.parameters()} == {torch.float32}
    assert not extractor.net.training
    assert sum(path.stat().st_size for path in kind.folder.iterdir()) < MEBIBYTES[kind] * 2**20
    assert reference.n == IMAGES[kind]
    assert reference.features.shape == (10_000, len(reference.mean))
    # The kept features are a sample of what the statistics describe.
    spread = reference.covariance.diagonal().sqrt() / 100
    assert ((reference.features.double().mean(0) - reference.mean).abs() < 5 * spread).all()


def test_samples_of_fashion_are_nearer_to_the_data_than_noise_is() -> None:
    images = samples(Fashion(), 8)
    assert images.shape == (8, 1, 32, 32)
    # Every training image has a black border of two pixels; nothing tells the sampler so but what the net learned.
    border = images.float().clone()
    border[:, :, 2:-2, 2:-2] = 0
    assert border.mean() < 5
    assert images[:, :, 2:-2, 2:-2].float().std() > 30
    sampled, random = distances_of_means(Fashion(), images)
    assert sampled < random / 2


def test_samples_of_cifar10_are_nearer_to_the_data_than_noise_is() -> None:
    images = samples(Cifar10(), 4)
    assert images.shape == (4, 3, 32, 32)
    # Neighbouring pixels of photographs are alike, and their colours are; those of noise are not.
    pixels = images.float()
    assert (pixels[..., 1:] - pixels[..., :-1]).abs().mean() < pixels.std() / 2
    assert pixels.std() > 30
    sampled, random = distances_of_means(Cifar10(), images)
    assert sampled < 0.75 * random


@each_workload
def test_decoding_undoes_what_training_does_to_images_and_rounds(kind: type[BundledWorkload]) -> None:
    from pqbench.workloads.training.sets import TRAINING_SETS

    channels = {Fashion: 1, Cifar10: 3}[kind]
    images = torch.randint(0, 256, (3, channels, 32, 32), dtype=torch.uint8)
    x_0, decode = TRAINING_SETS[kind.name].x_0(images), kind().decode
    assert x_0.shape == (3, *kind.shape)
    assert torch.equal(decode(x_0), images)
    assert torch.equal(decode(x_0 + 0.49 / 127.5), images)
    assert decode(torch.full((1, *kind.shape), 7.0)).eq(255).all()


@each_workload
def test_making_a_denoiser_leaves_the_global_random_state_alone(kind: type[BundledWorkload]) -> None:
    before = torch.get_rng_state()
    kind().denoiser()
    kind().extractor()
    assert torch.equal(torch.get_rng_state(), before)


@each_workload
def test_the_fingerprint_follows_the_weights(kind: type[BundledWorkload], tmp_path: Path) -> None:
    copied = copy_of(kind, tmp_path / "assets")
    assert copied.fingerprint() == kind().fingerprint()
    card = tmp_path / "assets" / "card.json"
    sha256 = kind().card()["sha256"]
    assert isinstance(sha256, dict)
    card.write_text(card.read_text().replace(sha256[DENOISER], "0" * 64))
    assert type(copied)().fingerprint() != kind().fingerprint()


@each_workload
@pytest.mark.parametrize(("file", "read"), [(DENOISER, "denoiser"), (EXTRACTOR, "extractor"), (REFERENCE, "reference")])
def test_a_truncated_file_is_one_sentence_that_names_it(
    kind: type[BundledWorkload], tmp_path: Path, file: str, read: str
) -> None:
    copied = copy_of(kind, tmp_path / "assets")
    path = tmp_path / "assets" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{file} is truncated or was changed .*reinstall"):
        getattr(copied, read)()


@each_workload
def test_the_model_card_is_the_one_that_the_card_renders(kind: type[BundledWorkload]) -> None:
    assert (kind.folder / "MODEL_CARD.md").read_text(encoding="utf-8") == render(kind().card())


@each_workload
def test_windows_are_two_sided_about_what_was_measured(kind: type[BundledWorkload]) -> None:
    workload = kind()
    windows = workload.acceptance()
    assert windows
    assert all(0 < window.low < window.high and window.steps == workload.steps for window in windows)
    acceptance = workload.card()["acceptance"]
    assert isinstance(acceptance, dict)
    assert all(entry["low"] < entry["fd"] < entry["high"] for entry in acceptance["windows"])
