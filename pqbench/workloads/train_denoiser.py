"""Train the denoiser of a bundled workload.

    python -m pqbench.workloads.train_denoiser fashion --data FOLDER --out FOLDER

The net predicts epsilon (Ho et al., 2020, eq. 14) with the linear beta schedule of that paper; what it is trained on
and how is in `training_sets`. The run writes a checkpoint every few minutes and continues from it when it is started
again; the data order and the noise are functions of the iteration number, so an interrupted run sees the same batches
as an uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pqbench.errors import UserError
from pqbench.torchvision_shim import declare_missing_operators

declare_missing_operators()

from diffusers import UNet2DModel  # noqa: E402  (the shim must come first)

from pqbench.workloads.training_sets import TRAINING_SETS, Recipe, TrainingSet  # noqa: E402

_FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SAVE_EVERY = 30.0  # seconds
_RATE_AFTER, _RATE_OVER = 100, 200  # iterations
_LOSS_MEMORY = 0.99


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


def save_atomically(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file beside `path` and rename it, so that a kill leaves the old one whole."""
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata)
    temporary.replace(path)


class Trainer:
    """The net, its optimiser and its running average, with a state that can be written and read back."""

    def __init__(self, training: TrainingSet, recipe: Recipe, out: Path, device: str, compiled: bool = False) -> None:
        torch.manual_seed(recipe.seed)
        self.training, self.recipe, self.out, self.device = training, recipe, out, torch.device(device)
        self.net = UNet2DModel(**training.architecture).to(self.device, memory_format=torch.channels_last)
        self.net.train()
        self.predict: Callable[..., tuple[Tensor]] = torch.compile(self.net) if compiled else self.net
        self.ema = {k: v.detach().clone() for k, v in self.net.state_dict().items()}
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=0.0, weight_decay=1e-4, fused=self.device.type == "cuda" or None
        )
        self.abar = alphas_cumprod(recipe).float().to(self.device)
        self.iteration = 0
        self.loss = torch.full((), float("nan"), device=self.device)

    def batch_at(self, images: Tensor, iteration: int) -> tuple[Tensor, Tensor, Tensor]:
        """The noisy batch of one iteration: x_t (B, *shape), t (B,), and the noise to predict.

        images   (N, C, H, W) uint8, on the device
        """
        recipe, device = self.recipe, self.device
        generator = torch.Generator(device).manual_seed(recipe.seed * 1_000_003 + iteration)
        index = torch.randint(0, len(images), (recipe.batch,), generator=generator, device=device)
        chosen = images[index]
        if recipe.mirror:
            mirrored = torch.rand(recipe.batch, 1, 1, 1, generator=generator, device=device) < 0.5
            chosen = torch.where(mirrored, chosen.flip(3), chosen)
        x_0 = self.training.x_0(chosen)
        noise = torch.randn(x_0.shape, generator=generator, device=device)
        t = torch.randint(0, recipe.train_steps, (recipe.batch,), generator=generator, device=device)
        a = self.abar[t].view(-1, 1, 1, 1)
        x_t = a.sqrt() * x_0 + (1 - a).sqrt() * noise
        return x_t.contiguous(memory_format=torch.channels_last), t, noise

    def gradients(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Add the gradients of the epsilon loss (Ho et al., 2020, eq. 14) to the parameters; returns the loss, ()."""
        floats = _FLOATS[self.recipe.floats]
        with torch.autocast(self.device.type, floats, enabled=floats != torch.float32):
            prediction = self.predict(x_t, t, return_dict=False)[0]
        loss = (prediction.float() - noise).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def warm_up(self, shape: tuple[int, ...]) -> None:
        """Compile what is compiled, on random images of (C, H, W); leaves the state as it was."""
        generator = torch.Generator(self.device).manual_seed(0)
        images = torch.randint(
            0, 256, (self.recipe.batch, *shape), generator=generator, device=self.device, dtype=torch.uint8
        )
        for _ in range(2):
            self.gradients(*self.batch_at(images, 0))
        self.optimizer.zero_grad(set_to_none=True)

    def step(self, images: Tensor) -> None:
        """One optimiser step, then the running average. images (N, C, H, W) uint8, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.iteration)
        loss = self.gradients(*self.batch_at(images, self.iteration))
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.recipe.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        # A short average early on, so that the random initialisation is forgotten quickly.
        decay = min(self.recipe.ema, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), list(self.net.state_dict().values()), 1 - decay)
        self.loss = torch.where(self.loss.isnan(), loss, self.loss.lerp(loss, 1 - _LOSS_MEMORY))
        self.iteration += 1

    def save(self) -> None:
        """Write all that a killed training needs to go on bit for bit."""
        state = {f"net.{k}": v for k, v in self.net.state_dict().items()}
        for name, parameter in self.net.named_parameters():
            moments = self.optimizer.state[parameter]
            state[f"exp_avg.{name}"] = moments["exp_avg"]
            state[f"exp_avg_sq.{name}"] = moments["exp_avg_sq"]
        state |= {f"ema.{k}": v for k, v in self.ema.items()}
        metadata = {
            "iteration": str(self.iteration),
            "loss": str(float(self.loss)),
            "recipe": json.dumps(asdict(self.recipe)),
        }
        save_atomically({k: v.contiguous() for k, v in state.items()}, self.checkpoint, metadata)

    def resume(self) -> None:
        """Go on from the checkpoint in the output folder, with its recipe, if there is one."""
        if not self.checkpoint.is_file():
            return
        with safe_open(self.checkpoint, "pt") as file:
            metadata = file.metadata()
        state = load_file(self.checkpoint, device=str(self.device))
        self.recipe = Recipe(**json.loads(metadata["recipe"]))
        self.iteration = int(metadata["iteration"])
        self.loss = torch.full((), float(metadata["loss"]), device=self.device)
        self.net.load_state_dict({k[4:]: v for k, v in state.items() if k.startswith("net.")})
        for name, average in self.ema.items():
            average.copy_(state[f"ema.{name}"])
        for name, parameter in self.net.named_parameters():
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.iteration), device=self.device if self._fused else None),
                "exp_avg": torch.empty_like(parameter).copy_(state[f"exp_avg.{name}"]),
                "exp_avg_sq": torch.empty_like(parameter).copy_(state[f"exp_avg_sq.{name}"]),
            }

    @property
    def _fused(self) -> bool:
        return bool(self.optimizer.defaults["fused"])

    @property
    def checkpoint(self) -> Path:
        """Where the state of an unfinished training is kept."""
        return self.out / "training.safetensors"

    def export(self) -> None:
        """Write the averaged weights with what is needed to rebuild the net."""
        metadata = {
            "architecture": json.dumps(self.training.architecture),
            "recipe": json.dumps(asdict(self.recipe)),
            "iterations": str(self.iteration),
            "loss": f"{float(self.loss):.5f}",
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU",
        }
        weights = {k: v.to("cpu", self.training.stored).contiguous() for k, v in self.ema.items()}
        save_atomically(weights, self.out / "denoiser.safetensors", metadata)


def train(trainer: Trainer, images: Tensor, minutes: float | None = None) -> None:
    """Train to the recipe's end, and export.

    images    (N, C, H, W) uint8
    minutes   that training may take from here: when the rate is known, the recipe's number of images is set by it
    """
    images = images.to(trainer.device)
    started = saved = time.monotonic()
    first = trainer.iteration
    rate_from = started
    while trainer.iteration < trainer.recipe.iterations:
        trainer.step(images)
        done = trainer.iteration - first
        if minutes is not None and done in (_RATE_AFTER, _RATE_AFTER + _RATE_OVER):
            float(trainer.loss)  # waits for the device
            now = time.monotonic()
            if done == _RATE_AFTER:
                rate_from = now
            else:
                left = (60 * minutes - (now - started)) * _RATE_OVER / (now - rate_from)
                goal = (trainer.iteration + max(0, int(left))) * trainer.recipe.batch
                trainer.recipe = replace(trainer.recipe, images=goal)
        if done % 50 == 0 and time.monotonic() - saved > _SAVE_EVERY:
            trainer.save()
            trainer.export()
            saved = time.monotonic()
            print(_progress(trainer, done, saved - started), flush=True)
    trainer.save()
    trainer.export()
    print(_progress(trainer, trainer.iteration - first, time.monotonic() - started), flush=True)


def _progress(trainer: Trainer, done: int, seconds: float) -> str:
    recipe = trainer.recipe
    rate = done * recipe.batch / seconds
    left = (recipe.iterations - trainer.iteration) * recipe.batch / max(rate, 1e-9) / 60
    return (
        f"iteration {trainer.iteration}/{recipe.iterations}  loss {float(trainer.loss):.4f}  "
        f"{rate:.0f} images/s  {left:.0f} min left"
    )


def main() -> int:
    """Train, or go on training, and write the averaged weights."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", choices=sorted(TRAINING_SETS))
    parser.add_argument("--data", type=Path, required=True, help="folder with the data set's official files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument("--images", type=int, help="images to train on [default: the recipe's]")
    parser.add_argument("--minutes", type=float, help="train for about as long, instead")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="compile the net (worth it on a GPU)")
    options = parser.parse_args()
    training = TRAINING_SETS[options.workload]
    recipe = replace(training.recipe, images=options.images) if options.images else training.recipe
    try:
        images, _ = training.read(options.data, "train")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(training, recipe, options.out, options.device, options.compile)
    trainer.resume()
    if options.compile:
        trainer.warm_up(tuple(images.shape[1:]))
    train(trainer, images, options.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
