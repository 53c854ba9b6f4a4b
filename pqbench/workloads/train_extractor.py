"""Train the extractor of the bundled `fashion` workload: a classifier whose features carry its distances.

    python -m pqbench.workloads.train_extractor --data FOLDER --out FOLDER

Writes extractor.safetensors with the recipe and the accuracy on the test images in its metadata. About ten minutes on
one core; an interrupted run starts afresh.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pqbench.workloads.datasets import fashion_mnist
from pqbench.workloads.fashion_extractor import FashionExtractor


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the trained weights, besides the data."""

    epochs: int = 8
    batch: int = 128
    peak_lr: float = 4e-3
    weight_decay: float = 5e-4
    warmup_share: float = 0.2
    label_smoothing: float = 0.05
    seed: int = 0


def batches(images: Tensor, labels: Tensor, recipe: Recipe, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, each batch shifted by up to two pixels.

    Nothing is mirrored: features that do not see a mirrored shoe would not see a denoiser that draws one.
    """
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    order = torch.randperm(len(images), generator=generator)
    for index in torch.split(order, recipe.batch):
        batch = images[index]
        down, right = (int(torch.randint(-2, 3, (), generator=generator)) for _ in range(2))
        # The data set's images have a black border of two pixels: rolling them moves nothing around the edge.
        yield batch.roll((down, right), (2, 3)), labels[index]


def train(images: Tensor, labels: Tensor, recipe: Recipe) -> FashionExtractor:
    """Train with AdamW on a one-cycle schedule; returns the net in evaluation mode."""
    torch.manual_seed(recipe.seed)
    net = FashionExtractor().train()
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
    return net.eval()


@torch.no_grad()
def accuracy(net: FashionExtractor, images: Tensor, labels: Tensor) -> float:
    """Share of the images that the classifier names rightly."""
    parts = zip(torch.split(images, 500), torch.split(labels, 500), strict=True)
    hits = [int(net.logits(batch).argmax(1).eq(target).sum()) for batch, target in parts]
    return sum(hits) / len(images)


def save(net: FashionExtractor, recipe: Recipe, test_accuracy: float, path: Path) -> None:
    """Write the weights through a temporary file, so that no half-written one is ever found at `path`."""
    metadata = {"recipe": json.dumps(asdict(recipe)), "test_accuracy": f"{test_accuracy:.4f}"}
    temporary = path.with_suffix(".tmp")
    save_file(net.state_dict(), temporary, metadata)
    temporary.replace(path)


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the idx files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, required=True, help="folder for extractor.safetensors")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    options = parser.parse_args()
    recipe = Recipe(epochs=options.epochs)
    options.out.mkdir(parents=True, exist_ok=True)
    net = train(*fashion_mnist(options.data, "train"), recipe)
    test_accuracy = accuracy(net, *fashion_mnist(options.data, "test"))
    save(net, recipe, test_accuracy, options.out / "extractor.safetensors")
    print(f"accuracy on the test images: {test_accuracy:.4f}")


if __name__ == "__main__":
    main()
