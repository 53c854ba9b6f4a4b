"""Training of the bundled workloads: exact resumption, what is written, and CIFAR-10's own files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_unets import small_unet

from pqbench.base.errors import UserError
from pqbench.workloads.cifar10 import Cifar10
from pqbench.workloads.training import denoiser as train_denoiser
from pqbench.workloads.training import extractor as train_extractor
from pqbench.workloads.training.bundle import Bundling, bundle
from pqbench.workloads.training.datasets import cifar10
from pqbench.workloads.training.denoiser import Trainer, learning_rate, open_trainer, train
from pqbench.workloads.training.sets import CIFAR10, ExtractorRecipe, Recipe, TrainingSet

ARCHITECTURE = small_unet(32, 3)
RECIPE = Recipe(images=32, batch=4, warmup_iterations=2, mirror=True)
SMALL = replace(CIFAR10, architecture=ARCHITECTURE, recipe=RECIPE)
RECORD = 1 + 3 * 32 * 32


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CIFAR-10's six files, with eight random records each."""
    folder = tmp_path_factory.mktemp("cifar10")
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        records = rng.integers(0, 256, (8, RECORD), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / name)
    return folder


@pytest.mark.parametrize("floats", ["float32", "bfloat16"])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(
    images: torch.Tensor, tmp_path: Path, floats: str
) -> None:
    recipe = replace(RECIPE, floats=floats)
    whole = Trainer(SMALL, recipe, tmp_path, "cpu")
    for _ in range(3):
        whole.step(images)
    whole.save()
    resumed = open_trainer(SMALL, None, tmp_path, "cpu")
    assert (resumed.iteration, resumed.recipe) == (3, recipe)
    assert {weight.dtype for weight in resumed.net.parameters()} == {getattr(torch, floats)}
    train(whole, images)
    train(resumed, images)
    assert whole.iteration == resumed.iteration == 8
    assert all(torch.equal(whole.ema[name], average) for name, average in resumed.ema.items())


def test_the_optimisers_weights_keep_what_bfloat16_would_round_away(images: torch.Tensor, tmp_path: Path) -> None:
    trainer = Trainer(SMALL, replace(RECIPE, floats="bfloat16", peak_lr=1e-6), tmp_path, "cpu")
    before = {name: weight.detach().clone() for name, weight in trainer.weights.items()}
    trainer.step(images)
    computed = dict(trainer.net.named_parameters())
    assert {weight.dtype for weight in computed.values()} == {torch.bfloat16}
    # AdamW's first step moves each weight by the learning rate, half of peak_lr: far less than bfloat16 resolves.
    name = "conv_in.weight"
    moved = (trainer.weights[name] - before[name]).abs()
    assert 2e-7 < moved.mean() < 1e-6
    assert torch.equal(computed[name], trainer.weights[name].bfloat16())


def test_the_exported_weights_are_the_average_in_the_type_that_ships(images: torch.Tensor, tmp_path: Path) -> None:
    trainer = Trainer(SMALL, RECIPE, tmp_path, "cpu")
    train(trainer, images)
    stored = load_file(tmp_path / "denoiser.safetensors")
    for name, tensor in stored.items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, trainer.ema[name].half())
    with safe_open(tmp_path / "denoiser.safetensors", "pt") as file:
        assert file.metadata()["iterations"] == "8"


def test_a_batch_is_what_its_iteration_says(images: torch.Tensor, tmp_path: Path) -> None:
    trainer = Trainer(SMALL, replace(RECIPE, batch=64), tmp_path, "cpu")
    x_t, t, noise = trainer.batch_at(images, 5)
    again = trainer.batch_at(images, 5)
    assert all(map(torch.equal, (x_t, t, noise), again))
    assert not torch.equal(noise, trainer.batch_at(images, 6)[2])
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)[t].view(-1, 1, 1, 1)
    x_0 = (x_t - (1 - abar).sqrt() * noise) / abar.sqrt()
    pixels = ((x_0 + 1) * 127.5)[abar.flatten() > 0.01].round()
    known = torch.cat([images, images.flip(3)]).double()
    nearest = (pixels[:, None] - known[None]).abs().amax((2, 3, 4)).min(1)
    assert (nearest.values <= 1).all()
    assert (nearest.indices < 40).any()
    assert (nearest.indices >= 40).any()


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    recipe = Recipe(images=6400, batch=64, warmup_iterations=10, decay_share=0.5, peak_lr=1.0)
    rates = [learning_rate(recipe, iteration) for iteration in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


def timed(monkeypatch: pytest.MonkeyPatch, trainer: Trainer, seconds_an_iteration: float) -> None:
    """A clock that goes by the trainer's iterations."""
    monkeypatch.setattr(train_denoiser.time, "monotonic", lambda: seconds_an_iteration * trainer.iteration)


@pytest.mark.parametrize("over", [4, 300])
def test_the_time_that_training_may_take_decides_its_images(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over: int
) -> None:
    trainer = Trainer(SMALL, replace(RECIPE, images=4000), tmp_path, "cpu")
    timed(monkeypatch, trainer, 1.0)
    monkeypatch.setattr(train_denoiser, "_RATE_OVER", over)
    train(trainer, images, minutes=0.5)
    assert trainer.iteration == 30
    assert trainer.recipe.images == 4 * 30


def test_minutes_that_end_in_the_warm_up_are_refused(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(SMALL, replace(RECIPE, images=4000, warmup_iterations=50), tmp_path, "cpu")
    timed(monkeypatch, trainer, 10.0)
    with pytest.raises(UserError, match=r"1 minutes are 6 iterations here.*50: allow more"):
        train(trainer, images, minutes=1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"workload": "fashion"}, "of a training of fashion on cpu"),
        ({"device": "cuda"}, "of a training of cifar10 on cuda"),
        ({"recipe": None}, "not a whole checkpoint of this version"),
    ],
)
def test_another_trainings_checkpoint_is_refused(
    images: torch.Tensor, tmp_path: Path, change: dict[str, str | None], sentence: str
) -> None:
    trainer = Trainer(SMALL, RECIPE, tmp_path, "cpu")
    trainer.step(images)
    trainer.save()
    with safe_open(trainer.checkpoint, "pt") as file:
        metadata = file.metadata() | change
    save_file(load_file(trainer.checkpoint), trainer.checkpoint, {k: v for k, v in metadata.items() if v is not None})
    with pytest.raises(UserError, match=sentence):
        open_trainer(SMALL, None, tmp_path, "cpu")


def test_a_checkpoint_of_other_images_or_in_part_is_refused(images: torch.Tensor, tmp_path: Path) -> None:
    trainer = Trainer(SMALL, RECIPE, tmp_path, "cpu")
    trainer.step(images)
    trainer.save()
    assert open_trainer(SMALL, 32, tmp_path, "cpu").iteration == 1
    with pytest.raises(UserError, match=r"training on 32 images: leave --images out"):
        open_trainer(SMALL, 64, tmp_path, "cpu")
    trainer.checkpoint.write_bytes(trainer.checkpoint.read_bytes()[:-1])
    with pytest.raises(UserError, match="not a whole checkpoint"):
        open_trainer(SMALL, None, tmp_path, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_captured_iteration_is_the_eager_one(images: torch.Tensor, tmp_path: Path) -> None:
    eager, captured = (Trainer(SMALL, RECIPE, tmp_path, "cuda") for _ in range(2))
    on_card = images.cuda()
    captured.capture(on_card)
    for _ in range(3):
        eager.step(on_card)
        captured.step(on_card)
    for name, weight in eager.weights.items():
        torch.testing.assert_close(captured.weights[name], weight, rtol=1e-3, atol=1e-4)


def test_the_extractors_images_are_moved_as_rolling_would() -> None:
    images = torch.zeros(6, 1, 12, 12, dtype=torch.uint8)
    images[:, :, 2:-2, 2:-2] = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    recipe = ExtractorRecipe(batch=2, shift=2, seed=3)
    generator = torch.Generator().manual_seed(3 * 1_000_003)
    order = torch.randperm(6, generator=generator)
    for chosen, (batch, labels) in zip(
        order.split(2), train_extractor.batches(images, torch.arange(6), recipe, 0), strict=True
    ):
        down, right = (int(torch.randint(-2, 3, (), generator=generator)) for _ in range(2))
        assert torch.equal(labels, chosen)
        assert torch.equal(batch, images[chosen].roll((down, right), (2, 3)).float())


def test_cifar10_is_read_from_its_binary_version(data: Path) -> None:
    images, labels = cifar10(data, "train")
    assert images.shape == (40, 3, 32, 32)
    raw = (data / "data_batch_2.bin").read_bytes()[3 * RECORD : 4 * RECORD]
    assert labels[11] == raw[0]
    # Row by row, red before green: byte 1 + 1024 * channel + 32 * row + column.
    assert images[11, 1, 5, 7] == raw[1 + 1024 + 32 * 5 + 7]
    assert len(cifar10(data, "test")[0]) == 8


def test_a_truncated_or_missing_file_is_one_sentence(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"test_batch\.bin does not exist.*binary version"):
        cifar10(tmp_path, "test")
    (tmp_path / "test_batch.bin").write_bytes(b"\x63" + bytes(RECORD - 1))
    with pytest.raises(UserError, match=r"not a file of CIFAR-10: it has the label 99"):
        cifar10(tmp_path, "test")
    (tmp_path / "test_batch.bin").write_bytes((data / "test_batch.bin").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"test_batch\.bin has 24583 bytes.*truncated"):
        cifar10(tmp_path, "test")


def test_the_commands_train_and_say_what_is_missing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small: TrainingSet = replace(SMALL, extractor_recipe=ExtractorRecipe(epochs=1, batch=20, shift=4, mirror=True))
    for module in (train_denoiser, train_extractor):
        monkeypatch.setattr(module, "TRAINING_SETS", {"cifar10": small})
        monkeypatch.setattr(sys, "argv", ["train", "cifar10", "--data", str(data), "--out", str(tmp_path / "out")])
        assert module.main() == 0
        monkeypatch.setattr(sys, "argv", ["train", "cifar10", "--data", "nowhere", "--out", str(tmp_path / "none")])
        assert module.main() == 1
        assert "does not exist" in capsys.readouterr().err
    trained = tmp_path / "out"
    assert {path.name for path in trained.iterdir()} == {
        "denoiser.safetensors", "training.safetensors", "extractor.safetensors",
    }  # fmt: skip
    # What they leave is what bundling takes.
    card = bundle(Bundling(small, data, trained), tmp_path / "bundled", counts=[2], pool=2)
    assert (card["stored"], card["iterations"], card["complete"]) == ("float16", 8, True)
    assert card["trained"] == card["extractor"]["trained"] == card["made_with"]
    assert card["made_with"] == {"torch": torch.__version__, "device": "CPU"}
    text = (tmp_path / "bundled" / "MODEL_CARD.md").read_text()
    assert "denoiser cifar10 --data FOLDER --out TRAINING --images 32\n" in text
    assert "bundle cifar10 --data FOLDER --training TRAINING --pool 2 --counts 2\n" in text
    workload = type("Bundled", (Cifar10,), {"folder": tmp_path / "bundled"})()
    average = load_file(trained / "denoiser.safetensors")["conv_in.weight"]
    assert torch.equal(workload.denoiser().get_submodule("net.conv_in").weight, average.float())


@pytest.mark.parametrize(
    ("module", "options", "sentence"),
    [
        (train_denoiser, ["--images", "3"], "3 images are less than one batch of 4"),
        (train_denoiser, ["--device", "tpu"], "--device tpu is not known"),
        (train_extractor, ["--epochs", "0"], "--epochs 0 is no training"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: ModuleType,
    options: list[str],
    sentence: str,
) -> None:
    monkeypatch.setattr(module, "TRAINING_SETS", {"cifar10": SMALL})
    monkeypatch.setattr(sys, "argv", ["train", "cifar10", "--data", str(data), "--out", str(tmp_path), *options])
    assert module.main() == 1
    assert sentence in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", ["train", "cifar10", "--data", str(data), "--out", str(tmp_path / "file")])
    assert module.main() == 1
    assert "cannot be made (File exists)" in capsys.readouterr().err
