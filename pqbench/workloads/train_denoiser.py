"""Train the denoiser of the bundled `fashion` workload.

    python -m pqbench.workloads.train_denoiser --data FOLDER --out FOLDER

The net predicts epsilon (Ho et al., 2020, eq. 14) on 32x32 images folded to 4 x 16 x 16 (space-to-depth by 2),
with the linear beta schedule of that paper. The run writes a checkpoint every few minutes and continues from it
when it is started again; the data order and the noise are functions of the iteration number, so an interrupted run
sees the same batches as an uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pqbench.torchvision_shim import declare_missing_operators

declare_missing_operators()

from diffusers import UNet2DModel  # noqa: E402  (the shim must come first)

from pqbench.workloads.datasets import fashion_mnist  # noqa: E402

ARCHITECTURE: dict[str, object] = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [32, 64, 128],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 32,
    "norm_num_groups": 16,
}


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, besides the data."""

    images: int = 1_000_000
    batch: int = 64
    peak_lr: float = 8e-4
    warmup_iterations: int = 400
    decay_share: float = 0.35
    ema: float = 0.9995
    gradient_clip: float = 1.0
    train_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    seed: int = 0

    @property
    def iterations(self) -> int:
        """Optimiser steps of the whole training."""
        return self.images // self.batch


def alphas_cumprod(recipe: Recipe) -> Tensor:
    """The products of (1 - beta) of the linear schedule, (T,) float64."""
    betas = torch.linspace(recipe.beta_start, recipe.beta_end, recipe.train_steps, dtype=torch.float64)
    return torch.cumprod(1 - betas, 0)


def learning_rate(recipe: Recipe, iteration: int) -> float:
    """Linear warm-up, a plateau, and a linear decay to zero over the last `decay_share` of the run."""
    warm = min(1.0, (iteration + 1) / recipe.warmup_iterations)
    decay_start = int(recipe.iterations * (1 - recipe.decay_share))
    left = (recipe.iterations - iteration) / max(1, recipe.iterations - decay_start)
    return recipe.peak_lr * min(warm, max(0.0, left), 1.0)


def batch_at(images: Tensor, recipe: Recipe, iteration: int, abar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The noisy batch of one iteration: x_t (B, 4, 16, 16), t (B,), and the noise to predict."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + iteration)
    index = torch.randint(0, len(images), (recipe.batch,), generator=generator)
    x0 = images[index].float() / 127.5 - 1
    x0 = torch.nn.functional.pixel_unshuffle(x0, 2)
    noise = torch.randn(x0.shape, generator=generator)
    t = torch.randint(0, recipe.train_steps, (recipe.batch,), generator=generator)
    a = abar[t].float().view(-1, 1, 1, 1)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise, t, noise


def save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file beside `path` and rename it, so that a kill leaves the old one whole."""
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata)
    temporary.replace(path)


class Trainer:
    """The net, its optimiser and its running average, with a state that can be written and read back."""

    def __init__(self, recipe: Recipe, out: Path) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.out = out
        self.net = UNet2DModel(**ARCHITECTURE).to(memory_format=torch.channels_last)
        self.net.train()
        self.ema = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=0.0, weight_decay=1e-4)
        self.iteration = 0
        self.loss = float("nan")

    def step(self, images: Tensor, abar: Tensor) -> None:
        """One optimiser step of the epsilon loss (Ho et al., 2020, eq. 14), then the running average.

        images (N, 1, 32, 32) uint8, abar (T,) float64.
        """
        x_t, t, noise = batch_at(images, self.recipe, self.iteration, abar)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.iteration)
        prediction = self.net(x_t, t, return_dict=False)[0]
        loss = (prediction - noise).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # A short average early on, so that the random initialisation is forgotten quickly.
        decay = min(self.recipe.ema, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            for name, value in self.net.state_dict().items():
                self.ema[name].lerp_(value, 1 - decay)
        self.iteration += 1
        value = float(loss.detach())
        self.loss = value if self.loss != self.loss else 0.99 * self.loss + 0.01 * value

    def save(self) -> None:
        """Write all that a killed training needs to go on bit for bit."""
        state = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            moments = self.optimizer.state[parameter]
            state[f"exp_avg.{name}"] = moments["exp_avg"]
            state[f"exp_avg_sq.{name}"] = moments["exp_avg_sq"]
        state |= {f"ema.{k}": v for k, v in self.ema.items()}
        metadata = {"iteration": str(self.iteration), "loss": str(self.loss)}
        save_atomically({k: v.contiguous() for k, v in state.items()}, self.checkpoint, metadata)

    def resume(self) -> None:
        """Go on from the checkpoint in the output folder, if there is one."""
        if not self.checkpoint.is_file():
            return
        from safetensors import safe_open

        with safe_open(self.checkpoint, "pt") as file:
            metadata = file.metadata()
        state = load_file(self.checkpoint)
        self.iteration = int(metadata["iteration"])
        self.loss = float(metadata["loss"])
        self.net.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
        self.ema = {k[4:]: v for k, v in state.items() if k.startswith("ema.")}
        for name, parameter in self.net.named_parameters():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.iteration)),
                "exp_avg": state[f"exp_avg.{name}"],
                "exp_avg_sq": state[f"exp_avg_sq.{name}"],
            }

    @property
    def checkpoint(self) -> Path:
        """Where the state of an unfinished training is kept."""
        return self.out / "training.safetensors"

    def export(self) -> None:
        """Write the averaged weights with what is needed to rebuild the net."""
        metadata = {
            "architecture": json.dumps(ARCHITECTURE),
            "recipe": json.dumps(asdict(self.recipe)),
            "iterations": str(self.iteration),
            "loss": f"{self.loss:.5f}",
        }
        save_atomically(self.ema, self.out / "denoiser.safetensors", metadata)


def main() -> None:
    """Train, or go on training, and write the averaged weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the idx files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--images", type=int, default=Recipe.images, help="images to train on")
    options = parser.parse_args()
    recipe = Recipe(images=options.images)
    options.out.mkdir(parents=True, exist_ok=True)
    images, _ = fashion_mnist(options.data, "train")
    abar = alphas_cumprod(recipe)
    trainer = Trainer(recipe, options.out)
    trainer.resume()
    first, started = trainer.iteration, time.monotonic()
    while trainer.iteration < recipe.iterations:
        trainer.step(images, abar)
        if trainer.iteration % 500 == 0:
            trainer.save()
            trainer.export()
            rate = (trainer.iteration - first) * recipe.batch / (time.monotonic() - started)
            left = (recipe.iterations - trainer.iteration) * recipe.batch / rate / 60
            print(
                f"iteration {trainer.iteration}/{recipe.iterations}  loss {trainer.loss:.4f}  "
                f"{rate:.0f} images/s  {left:.0f} min left",
                flush=True,
            )
    trainer.export()


if __name__ == "__main__":
    main()
