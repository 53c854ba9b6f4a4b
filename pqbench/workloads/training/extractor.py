"""Train the extractor of a bundled workload: a classifier whose features carry its distances.

    python -m pqbench.workloads.training.extractor fashion --data FOLDER --out FOLDER

Writes extractor.safetensors with the recipe and the accuracy on the test images in its metadata. About ten minutes on
one core for `fashion`; an interrupted run starts afresh.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.base.devices import require_usable_device
from pqbench.base.errors import UserError
from pqbench.workloads.training.files import exit_status, made_with, make_folder, write_tensors
from pqbench.workloads.training.sets import TRAINING_SETS, ExtractorRecipe


def batches(images: Tensor, labels: Tensor, recipe: ExtractorRecipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, each batch moved by up to `shift` pixels, its border repeated, and mirrored at random.

    Batches rather than images are moved: that is a view of the padded batch.
    """
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(images), generator=generator)
    edge, (height, width) = recipe.shift, images.shape[2:]
    for chosen in torch.split(order, recipe.batch):
        index = chosen.to(images.device)
        batch = images[index]
        if recipe.mirror:
            mirrored = torch.rand(len(batch), 1, 1, 1, generator=generator) < 0.5
            batch = torch.where(mirrored.to(images.device), batch.flip(3), batch)
        down, right = (int(torch.randint(0, 2 * edge + 1, (), generator=generator)) for _ in range(2))
        padded = nn.functional.pad(batch.float(), (edge,) * 4, mode="replicate")
        top, left = 2 * edge - down, 2 * edge - right
        yield padded[:, :, top : top + height, left : left + width], labels[index]


def train(net: Any, images: Tensor, labels: Tensor, recipe: ExtractorRecipe) -> None:
    """Train with AdamW on a one-cycle schedule; leaves the net in evaluation mode.

    net      an extractor with `logits`, on the device of the data
    images   (N, C, H, W) uint8
    labels   (N,) int64
    """
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.peak_lr,
        total_steps=recipe.epochs * -(-len(images) // recipe.batch),
        pct_start=recipe.warmup_share,
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    started = time.monotonic()
    for epoch in range(recipe.epochs):
        for batch, target in batches(images, labels, recipe, epoch):
            loss = criterion(net.logits(batch), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{recipe.epochs}  {time.monotonic() - started:.0f} s", flush=True)
    net.eval()


@torch.no_grad()
def accuracy(net: Any, images: Tensor, labels: Tensor) -> float:
    """Share of the images (N, C, H, W) uint8 that the classifier names rightly."""
    parts = zip(torch.split(images, 500), torch.split(labels, 500), strict=True)
    hits = [int(net.logits(batch).argmax(1).eq(target).sum()) for batch, target in parts]
    return sum(hits) / len(images)


def save(net: nn.Module, recipe: ExtractorRecipe, test_accuracy: float, path: Path, device: str = "cpu") -> None:
    """Write the weights, with what made them."""
    metadata = {"recipe": json.dumps(asdict(recipe)), "test_accuracy": f"{test_accuracy:.4f}", **made_with(device)}
    write_tensors({name: tensor.cpu() for name, tensor in net.state_dict().items()}, path, metadata)


def main() -> int:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", choices=sorted(TRAINING_SETS))
    parser.add_argument("--data", type=Path, required=True, help="folder with the data set's official files")
    parser.add_argument("--out", type=Path, required=True, help="folder for extractor.safetensors")
    parser.add_argument("--epochs", type=int, help="[default: the recipe's]")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    return exit_status(lambda: _make(options))


def _make(options: argparse.Namespace) -> None:
    training = TRAINING_SETS[options.workload]
    recipe = training.extractor_recipe
    if options.epochs is not None:
        recipe = replace(recipe, epochs=options.epochs)
    require_usable_device(options.device)
    if recipe.epochs < 1:
        raise UserError(f"--epochs {recipe.epochs} is no training: take 1 or more.")
    seen, unseen = training.read(options.data, "train"), training.read(options.data, "test")
    make_folder(options.out)
    torch.manual_seed(recipe.seed)
    net = training.workload.classifier().to(options.device)
    train(net, seen[0].to(options.device), seen[1].to(options.device), recipe)
    test_accuracy = accuracy(net, unseen[0].to(options.device), unseen[1].to(options.device))
    save(net, recipe, test_accuracy, options.out / "extractor.safetensors", options.device)
    print(f"accuracy on the test images: {test_accuracy:.4f}")


if __name__ == "__main__":
    sys.exit(main())
