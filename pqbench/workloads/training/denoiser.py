"""Train the denoiser of a bundled workload.

    python -m pqbench.workloads.training.denoiser fashion --data FOLDER --out FOLDER

The net predicts epsilon (Ho et al., 2020, eq. 14) with the linear beta schedule of that paper; what it is trained on
and how is in `sets`. The run writes a checkpoint every half minute and continues from it, by its recipe, when
it is started again; the data order and the noise are functions of the iteration number, so an interrupted run sees the
same batches as an uninterrupted one, and on a CPU ends in the same weights bit for bit.
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from pqbench.base.devices import require_usable_device
from pqbench.base.errors import UserError
from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.contracts.schedule import NoiseSchedule

declare_missing_operators()

from diffusers import UNet2DModel  # noqa: E402  (the shim must come first)

from pqbench.workloads.training.files import exit_status, made_with, make_folder, write_tensors  # noqa: E402
from pqbench.workloads.training.sets import TRAINING_SETS, Recipe, TrainingSet  # noqa: E402

_FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_SAVE_EVERY = 30.0  # seconds
CHECKPOINT = "training.safetensors"
_RATE_OVER = 300  # iterations, at most,
_RATE_SHARE = 0.05  # of the time
_LOSS_MEMORY = 0.99


def learning_rate(recipe: Recipe, iteration: int) -> float:
    """Linear warm-up, a plateau, and a linear decay to zero over the last `decay_share` of the run."""
    warm = min(1.0, (iteration + 1) / recipe.warmup_iterations)
    decay_start = int(recipe.iterations * (1 - recipe.decay_share))
    left = (recipe.iterations - iteration) / max(1, recipe.iterations - decay_start)
    return recipe.peak_lr * min(warm, max(0.0, left), 1.0)


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
        # diffusers' own `to` warns of every type of lower precision, with an empty list of what it touches.
        self.net = nn.Module.to(net, _FLOATS[recipe.floats]).train()
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), lr=0.0, weight_decay=1e-4, fused=self.device.type == "cuda" or None
        )
        schedule = NoiseSchedule.linear(recipe.train_steps, recipe.beta_start, recipe.beta_end)
        self.abar = schedule.alphas_cumprod.float().to(self.device)
        self.iteration = 0
        self.loss = torch.full((), float("nan"), device=self.device)
        self._backward: Callable[..., Tensor] = self.backward
        self._computed: list[Tensor] = []

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
        """Compute the gradients of the epsilon loss (Ho et al., 2020, eq. 14); returns the loss, ()."""
        self.net.zero_grad(set_to_none=True)
        prediction: Tensor = self.net(x_t, t, return_dict=False)[0]
        loss = (prediction.float() - noise).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        self._computed = _gradients(self.net.parameters())
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
        computed = self._computed

        def replay(*batch: Tensor) -> Tensor:
            for mine, given in zip(held, batch, strict=True):
                mine.copy_(given)
            graph.replay()
            self._computed = computed
            return loss.clone()

        self._backward = replay

    def step(self, images: Tensor) -> None:
        """One optimiser step, then the running average. images (N, C, H, W) uint8, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.iteration)
        loss = self._backward(*self.batch_at(images, self.iteration))
        weights = list(self.weights.values())
        with torch.no_grad():
            torch._foreach_copy_(_gradients(weights), self._computed)
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
            "workload": self.training.workload.name,
            "device": self.device.type,
            "iteration": str(self.iteration),
            "loss": str(float(self.loss)),
            "recipe": json.dumps(asdict(self.recipe)),
        }
        write_tensors({k: v.contiguous() for k, v in state.items()}, self.checkpoint, metadata)

    def restore(self) -> None:
        """Go on where the checkpoint in the output folder left off; the recipe is that of its training."""
        with safe_open(self.checkpoint, "pt") as file:
            metadata = file.metadata()
        state = load_file(self.checkpoint, device=str(self.device))
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
        return self.out / CHECKPOINT

    def export(self) -> None:
        """Write the averaged weights with what is needed to rebuild the net."""
        metadata = {
            "architecture": json.dumps(self.training.architecture),
            "recipe": json.dumps(asdict(self.recipe)),
            "iterations": str(self.iteration),
            "loss": f"{float(self.loss):.5f}",
            **made_with(str(self.device)),
        }
        weights = {k: v.to("cpu", self.training.stored).contiguous() for k, v in self.ema.items()}
        write_tensors(weights, self.out / "denoiser.safetensors", metadata)


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def open_trainer(training: TrainingSet, images: int | None, out: Path, device: str) -> Trainer:
    """A trainer where the training in a folder stands: at its checkpoint, or at its beginning.

    images   to train on; None: what the checkpoint says, or the recipe of the training set

    Raises `UserError` for fewer images than a batch, and for a checkpoint that is not whole or of another training.
    """
    path = out / CHECKPOINT
    if not path.is_file():
        recipe = training.recipe if images is None else replace(training.recipe, images=images)
        if recipe.iterations < 1:
            raise UserError(f"{images} images are less than one batch of {recipe.batch}: train on more.")
        return Trainer(training, recipe, out, device)
    trainer = Trainer(training, _begun(path, training, images, device), out, device)
    trainer.restore()
    return trainer


def _begun(path: Path, training: TrainingSet, images: int | None, device: str) -> Recipe:
    """The recipe of a checkpoint that this training may go on from."""
    advice = "choose another --out, or remove it to begin anew"
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
        recipe = Recipe(**json.loads(metadata["recipe"]))
        begun = metadata["workload"], metadata["device"]
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a whole checkpoint of this version ({error}): {advice}.") from None
    if begun != (training.workload.name, torch.device(device).type):
        raise UserError(f"{path} is of a training of {begun[0]} on {begun[1]}: {advice}.")
    if images not in (None, recipe.images):
        raise UserError(f"{path} is of a training on {recipe.images} images: leave --images out to go on, or {advice}.")
    return recipe


def train(trainer: Trainer, images: Tensor, minutes: float | None = None) -> None:
    """Train to the recipe's end, and export.

    images    (N, C, H, W) uint8
    minutes   that training may take from here: when the rate is known, the recipe's number of images is set by it

    Raises `UserError` when the minutes are too few for a training.
    """
    images = images.to(trainer.device)
    benchmark = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # all batches have one shape
    try:
        if trainer.device.type == "cuda":
            trainer.capture(images)
        _iterate(trainer, images, None if minutes is None else TimeLimit(minutes))
    finally:
        torch.backends.cudnn.benchmark = benchmark


def _iterate(trainer: Trainer, images: Tensor, limit: TimeLimit | None) -> None:
    started = saved = time.monotonic()
    first = trainer.iteration
    while trainer.iteration < trainer.recipe.iterations:
        trainer.step(images)
        if limit is not None:
            limit.look(trainer)
        if trainer.iteration % 50 == 0 and time.monotonic() - saved > _SAVE_EVERY:
            trainer.save()
            trainer.export()
            saved = time.monotonic()
            print(_progress(trainer, trainer.iteration - first, saved - started), flush=True)
    if trainer.iteration > first:
        trainer.save()
    trainer.export()
    print(_progress(trainer, trainer.iteration - first, time.monotonic() - started), flush=True)


class TimeLimit:
    """Gives a new training as many images as can be seen in some minutes, once the rate is known, on the plateau."""

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self._start = self._measured_from = time.monotonic()
        self._looks = 0

    def look(self, trainer: Trainer) -> None:
        """To be called after each iteration. Raises `UserError` when the warm-up takes half of the time or more."""
        if self._looks < 0:
            return
        if self._looks == 0:  # the first iteration is slower than the others
            self._measured_from = self._now(trainer)
        self._looks += 1
        seen = self._looks - 1
        if seen < 1 or (seen < _RATE_OVER and time.monotonic() - self._start < _RATE_SHARE * self._seconds):
            return
        now = self._now(trainer)
        self._looks = -1
        left = int((self._start + self._seconds - now) * seen / (now - self._measured_from))
        recipe = replace(trainer.recipe, images=(trainer.iteration + max(0, left)) * trainer.recipe.batch)
        if recipe.iterations < 2 * recipe.warmup_iterations:
            raise UserError(
                f"{self._seconds / 60:g} minutes are {recipe.iterations} iterations here, and the warm-up alone takes "
                f"{recipe.warmup_iterations}: allow more minutes."
            )
        trainer.recipe = recipe

    @staticmethod
    def _now(trainer: Trainer) -> float:
        float(trainer.loss)  # waits for the device
        return time.monotonic()


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
    parser.add_argument("--minutes", type=float, help="train a new one for about as long, instead")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    return exit_status(lambda: _make(options))


def _make(options: argparse.Namespace) -> None:
    training = TRAINING_SETS[options.workload]
    require_usable_device(options.device)
    images, _ = training.read(options.data, "train")
    make_folder(options.out)
    trainer = open_trainer(training, options.images, options.out, options.device)
    if trainer.iteration:
        print(f"Going on after iteration {trainer.iteration} to {trainer.recipe.images} images.", flush=True)
    train(trainer, images, None if trainer.iteration else options.minutes)


if __name__ == "__main__":
    sys.exit(main())
