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
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pqbench.devices import require_usable_device
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
    """The net, its optimiser and its running average, with a state that can be written and read back.

    The net computes in the recipe's `floats`; the optimiser has weights of its own in float32, of which the net's are
    rounded copies.
    """

    def __init__(self, training: TrainingSet, recipe: Recipe, out: Path, device: str) -> None:
        torch.manual_seed(recipe.seed)
        self.training, self.recipe, self.out, self.device = training, recipe, out, torch.device(device)
        # On an H200 channels_last takes 26 ms a batch of the CIFAR-10 net and this 22: the group norms copy it back.
        self.layout = torch.contiguous_format if self.device.type == "cuda" else torch.channels_last
        net = UNet2DModel(**training.architecture).to(self.device, memory_format=self.layout)
        self.weights = {name: nn.Parameter(value.detach().clone()) for name, value in net.named_parameters()}
        for weight in self.weights.values():
            weight.grad = torch.zeros_like(weight)
        self.ema = {name: value.detach().clone() for name, value in self.weights.items()}
        self.net = net.to(_FLOATS[recipe.floats]).train()
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=0.0, weight_decay=1e-4, fused=self.device.type == "cuda" or None
        )
        self.abar = alphas_cumprod(recipe).float().to(self.device)
        self.iteration = 0
        self.loss = torch.full((), float("nan"), device=self.device)
        self._backward: Callable[..., Tensor] = self.backward

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
        return x_t.to(self.net.dtype, memory_format=self.layout), t, noise

    def backward(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Leave the gradients of the epsilon loss (Ho et al., 2020, eq. 14) with the net; returns the loss, ()."""
        self.net.zero_grad(set_to_none=True)
        prediction: Tensor = self.net(x_t, t, return_dict=False)[0]
        loss = (prediction.float() - noise).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def capture(self, images: Tensor) -> None:
        """Run `backward` as one CUDA graph from here on: a small net's kernels are shorter than their launches.

        images   (N, C, H, W) uint8, on the device; of them come the batches of the first runs, which change nothing
        """
        held = self.batch_at(images, 0)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.backward(*held)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self.backward(*held)

        def replay(*batch: Tensor) -> Tensor:
            for mine, given in zip(held, batch, strict=True):
                mine.copy_(given)
            graph.replay()
            return loss.clone()

        self._backward = replay

    def step(self, images: Tensor) -> None:
        """One optimiser step, then the running average. images (N, C, H, W) uint8, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.iteration)
        loss = self._backward(*self.batch_at(images, self.iteration))
        weights = list(self.weights.values())
        with torch.no_grad():
            torch._foreach_copy_(_gradients(weights), _gradients(self.net.parameters()))
        torch.nn.utils.clip_grad_norm_(weights, self.recipe.gradient_clip)
        self.optimizer.step()
        # A short average early on, so that the random initialisation is forgotten quickly.
        decay = min(self.recipe.ema, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.ema.values()), [*weights], 1 - decay)
        self._round()
        self.loss = torch.where(self.loss.isnan(), loss, self.loss.lerp(loss, 1 - _LOSS_MEMORY))
        self.iteration += 1

    def _round(self) -> None:
        """Give the net the optimiser's weights."""
        with torch.no_grad():
            torch._foreach_copy_(list(self.net.parameters()), list(self.weights.values()))

    def save(self) -> None:
        """Write all that a killed training needs to go on bit for bit."""
        state = {f"net.{name}": weight.detach() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            moments = self.optimizer.state[weight]
            state[f"exp_avg.{name}"] = moments["exp_avg"]
            state[f"exp_avg_sq.{name}"] = moments["exp_avg_sq"]
        state |= {f"ema.{name}": average for name, average in self.ema.items()}
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
        step = torch.tensor(float(self.iteration), device=self.device if self.optimizer.defaults["fused"] else None)
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(state[f"net.{name}"])
                self.ema[name].copy_(state[f"ema.{name}"])
                self.optimizer.state[weight] = {
                    "step": step.clone(),
                    "exp_avg": torch.empty_like(weight).copy_(state[f"exp_avg.{name}"]),
                    "exp_avg_sq": torch.empty_like(weight).copy_(state[f"exp_avg_sq.{name}"]),
                }
        self._round()

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


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def train(trainer: Trainer, images: Tensor, minutes: float | None = None) -> None:
    """Train to the recipe's end, and export.

    images    (N, C, H, W) uint8
    minutes   that training may take from here: when the rate is known, the recipe's number of images is set by it
    """
    images = images.to(trainer.device)
    if trainer.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # all batches have one shape
        trainer.capture(images)
    started = saved = time.monotonic()
    limit = None if minutes is None else TimeLimit(started + 60 * minutes)
    first = trainer.iteration
    while trainer.iteration < trainer.recipe.iterations:
        trainer.step(images)
        done = trainer.iteration - first
        if limit is not None:
            limit.look(trainer, done)
        if done % 50 == 0 and time.monotonic() - saved > _SAVE_EVERY:
            trainer.save()
            trainer.export()
            saved = time.monotonic()
            print(_progress(trainer, done, saved - started), flush=True)
    trainer.save()
    trainer.export()
    print(_progress(trainer, trainer.iteration - first, time.monotonic() - started), flush=True)


class TimeLimit:
    """Gives the recipe as many images as can be seen until a moment, once the rate is known: early, on the plateau."""

    def __init__(self, end: float) -> None:
        self._end = end
        self._measured_from = 0.0

    def look(self, trainer: Trainer, done: int) -> None:
        """To be called after each iteration, the `done`-th."""
        if done not in (_RATE_AFTER, _RATE_AFTER + _RATE_OVER):
            return
        float(trainer.loss)  # waits for the device
        now = time.monotonic()
        if done == _RATE_AFTER:
            self._measured_from = now
            return
        left = int((self._end - now) * _RATE_OVER / (now - self._measured_from))
        images = (trainer.iteration + max(0, left)) * trainer.recipe.batch
        trainer.recipe = replace(trainer.recipe, images=images)


def _progress(trainer: Trainer, done: int, seconds: float) -> str:
    recipe = trainer.recipe
    rate = done * recipe.batch / max(seconds, 1e-9)
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
    options = parser.parse_args()
    training = TRAINING_SETS[options.workload]
    recipe = replace(training.recipe, images=options.images) if options.images else training.recipe
    try:
        require_usable_device(options.device)
        images, _ = training.read(options.data, "train")
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(training, recipe, options.out, options.device)
    trainer.resume()
    train(trainer, images, options.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
