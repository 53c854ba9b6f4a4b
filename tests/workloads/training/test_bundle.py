"""The whole chain on a data set of random images: train for an instant, bundle, load."""

from __future__ import annotations

import gzip
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_unets import small_unet

from pqbench.base.errors import UserError
from pqbench.contracts.workload import Reference
from pqbench.scoring.features import extract_features
from pqbench.testing.tiny import TinyWorkload
from pqbench.workloads.bundled import DENOISER
from pqbench.workloads.diffusers_net import DiffusersDenoiser
from pqbench.workloads.fashion import Fashion
from pqbench.workloads.training import bundle as bundling
from pqbench.workloads.training import extractor as train_extractor
from pqbench.workloads.training.acceptance import measure_windows, window
from pqbench.workloads.training.datasets import fashion_mnist
from pqbench.workloads.training.sets import FASHION, ExtractorRecipe

ARCHITECTURE = small_unet(16, 4)
RECIPE = {
    "images": 128, "batch": 64, "peak_lr": 1e-3, "ema": 0.9, "seed": 0,
    "train_steps": 1000, "beta_start": 1e-4, "beta_end": 0.02,
}  # fmt: skip


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hundred images of two classes that differ in brightness, in Fashion-MNIST's file format."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 200), ("t10k", 100)):
        labels = rng.integers(0, 2, count, dtype=np.uint8)
        images = rng.integers(0, 100, (count, 28, 28), dtype=np.uint8) + 100 * labels[:, None, None]
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture(scope="module")
def training(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two training commands leave; the denoiser is untrained."""
    folder = tmp_path_factory.mktemp("training")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DiffusersDenoiser.from_config(ARCHITECTURE).net
        metadata = {
            "architecture": json.dumps(ARCHITECTURE), "recipe": json.dumps(RECIPE), "iterations": "1", "loss": "0.5",
        }  # fmt: skip
        save_file(net.state_dict(), folder / DENOISER, metadata)
        recipe = ExtractorRecipe(epochs=2, batch=20)
        extractor = Fashion.classifier()
        train_extractor.train(extractor, *fashion_mnist(data, "train"), recipe)
    accuracy = train_extractor.accuracy(extractor, *fashion_mnist(data, "test"))
    assert accuracy > 0.9
    train_extractor.save(extractor, recipe, accuracy, folder / "extractor.safetensors")
    return folder


@pytest.fixture(scope="module")
def workload(data: Path, training: Path, tmp_path_factory: pytest.TempPathFactory) -> Fashion:
    out = tmp_path_factory.mktemp("out") / "fashion"
    bundling.bundle(bundling.Bundling(FASHION, data, training), out, counts=[8, 24], pool=24)
    return type("Bundled", (Fashion,), {"folder": out})()


def test_a_bundle_loads_and_its_reference_is_that_of_the_data(workload: Fashion, data: Path) -> None:
    assert workload.denoiser()(torch.zeros(1, 4, 16, 16), torch.tensor([5])).shape == (1, 4, 16, 16)
    features = extract_features(workload.extractor(), fashion_mnist(data, "train")[0]).double().numpy()
    reference = workload.reference()
    np.testing.assert_allclose(reference.mean, features.mean(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(reference.covariance, np.cov(features, rowvar=False), rtol=1e-5, atol=1e-7)
    assert reference.n == len(features) == 200


def test_the_card_states_what_was_bundled(workload: Fashion) -> None:
    card = workload.card()
    assert (card["iterations"], card["images_seen"], card["final_loss"], card["complete"]) == (1, 64, 0.5, False)
    assert "unfinished" in (workload.folder / "MODEL_CARD.md").read_text()
    assert [window.n for window in workload.acceptance()] == [8, 24]
    assert {path.name for path in workload.folder.iterdir()} == {
        "MODEL_CARD.md", "card.json", "denoiser.safetensors", "extractor.safetensors", "reference.safetensors",
    }  # fmt: skip


def test_bundling_again_gives_the_same_bytes(workload: Fashion, data: Path, training: Path, tmp_path: Path) -> None:
    bundling.bundle(bundling.Bundling(FASHION, data, training), tmp_path / "again", counts=[8, 24], pool=24)
    for path in workload.folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_training_folder_without_weights_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"denoiser\.safetensors cannot be read .*training commands"):
        bundling.bundle(bundling.Bundling(FASHION, data, tmp_path), tmp_path / "out", counts=[2], pool=2)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_window_holds_the_distances_of_other_images_and_not_those_of_another_model() -> None:
    generator = torch.Generator().manual_seed(0)

    def features(n: int, shift: float = 0.0) -> torch.Tensor:
        return torch.randn(n, 4, generator=generator) + shift

    population = features(5000)
    reference = Reference(population.double().mean(0), population.double().T.cov(), population, 5000, "")
    measured = window(features(1000, 1.0), reference, n=200, steps=3)
    assert measured.blocks == 5
    assert measured.low < measured.fd < measured.high
    again = [window(features(200, 1.0), reference, n=200, steps=3).fd for _ in range(5)]
    assert all(measured.low < fd < measured.high for fd in again)
    for shift in (0.5, 1.5):
        fd = window(features(200, shift), reference, n=200, steps=3).fd
        assert not measured.low < fd < measured.high


def test_windows_need_a_pool_that_holds_them() -> None:
    with pytest.raises(UserError, match="window for 16 images"):
        measure_windows(TinyWorkload(), [4, 16], pool=8)


def test_the_pool_is_the_models_own_images() -> None:
    (measured,) = measure_windows(TinyWorkload(), [32], pool=32)
    assert math.isfinite(measured.fd)
    assert measured.blocks == 1
    assert measured.steps == TinyWorkload.steps
