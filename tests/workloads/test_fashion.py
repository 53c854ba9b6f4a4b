from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.errors import UserError
from pqbench.evaluation.features import extract_features
from pqbench.workloads.bundled import DENOISER, EXTRACTOR, REFERENCE
from pqbench.workloads.fashion import Fashion
from pqbench.workloads.model_card import render


def copy_of(folder: Path) -> Fashion:
    """The workload with its files in a folder where a test may break them."""
    shutil.copytree(Fashion.folder, folder)
    return type("Copied", (Fashion,), {"folder": folder})()


def test_the_files_are_whole_and_small() -> None:
    workload = Fashion()
    denoiser, extractor, reference = workload.denoiser(), workload.extractor(), workload.reference()
    assert not denoiser.training
    assert not extractor.net.training
    assert sum(path.stat().st_size for path in Fashion.folder.iterdir()) < 16 * 2**20
    assert reference.n == 60_000
    assert reference.features.shape == (10_000, len(reference.mean))
    # The kept features are a sample of what the statistics describe.
    spread = reference.covariance.diagonal().sqrt() / 100
    assert ((reference.features.double().mean(0) - reference.mean).abs() < 5 * spread).all()


def test_samples_are_nearer_to_the_data_than_noise_is() -> None:
    workload = Fashion()
    noise = initial_noise(0, range(8), workload.shape)
    x_0 = ddim_sample(workload.denoiser(), workload.schedule(), workload.timesteps(workload.steps), noise)
    images = workload.decode(x_0)
    assert images.shape == (8, 1, 32, 32)
    # Every training image has a black border of two pixels; nothing tells the sampler so but what the net learned.
    border = images.float().clone()
    border[:, :, 2:-2, 2:-2] = 0
    assert border.mean() < 5
    assert images[:, :, 2:-2, 2:-2].float().std() > 30
    extractor, mean = workload.extractor(), workload.reference().mean
    sampled, random = (
        (extract_features(extractor, batch).double().mean(0) - mean).norm()
        for batch in (images, torch.randint_like(images, 256))
    )
    assert sampled < random / 2


def test_decoding_undoes_the_folding_and_rounds() -> None:
    image = torch.randint(0, 256, (3, 1, 32, 32), dtype=torch.uint8)
    folded = torch.nn.functional.pixel_unshuffle(image.float() / 127.5 - 1, 2)
    decode = Fashion().decode
    assert torch.equal(decode(folded), image)
    assert torch.equal(decode(folded + 0.49 / 127.5), image)
    assert decode(torch.full((1, 4, 16, 16), 7.0)).eq(255).all()


def test_making_a_denoiser_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    Fashion().denoiser()
    Fashion().extractor()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    copied = copy_of(tmp_path / "assets")
    assert copied.fingerprint() == Fashion().fingerprint()
    card = tmp_path / "assets" / "card.json"
    sha256 = Fashion().card()["sha256"]
    assert isinstance(sha256, dict)
    card.write_text(card.read_text().replace(sha256[DENOISER], "0" * 64))
    assert type(copied)().fingerprint() != Fashion().fingerprint()


@pytest.mark.parametrize(("file", "read"), [(DENOISER, "denoiser"), (EXTRACTOR, "extractor"), (REFERENCE, "reference")])
def test_a_truncated_file_is_one_sentence_that_names_it(tmp_path: Path, file: str, read: str) -> None:
    copied = copy_of(tmp_path / "assets")
    path = tmp_path / "assets" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=rf"{file} is truncated or was changed .*reinstall"):
        getattr(copied, read)()


def test_the_model_card_is_the_one_that_the_card_renders() -> None:
    assert (Fashion.folder / "MODEL_CARD.md").read_text(encoding="utf-8") == render(Fashion().card())


def test_windows_are_two_sided_about_what_was_measured() -> None:
    workload = Fashion()
    windows = workload.acceptance()
    assert windows
    assert all(0 < window.low < window.high and window.steps == workload.steps for window in windows)
