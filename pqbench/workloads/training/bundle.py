"""Make the files of a bundled workload from a training folder.

    python -m pqbench.workloads.training.bundle NAME --data FOLDER --training FOLDER

The training folder holds what `denoiser` and `extractor` wrote. The command copies the weights, computes
the reference statistics from the data, samples the full-precision model to set its acceptance windows, and writes
card.json and MODEL_CARD.md. Nothing depends on the clock: the same folders, pool, counts and device give the same
files. They are made elsewhere first and moved into place together, so that a workload in use is never half old and half
new.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pqbench.base.devices import require_usable_device
from pqbench.base.errors import UserError
from pqbench.base.float32 import exact_float32
from pqbench.contracts.workload import Extractor
from pqbench.scoring.features import extract_features
from pqbench.scoring.formulas.frechet import FeatureStatistics, frechet_distance
from pqbench.workloads.assets import CARD, file_sha256
from pqbench.workloads.bundled import DENOISER, EXTRACTOR, REFERENCE, SAMPLER
from pqbench.workloads.training.acceptance import PURPOSE, RULE, measure_windows
from pqbench.workloads.training.files import exit_status, made_with
from pqbench.workloads.training.model_card import render
from pqbench.workloads.training.sets import TRAINING_SETS, TrainingSet

MODEL_CARD = "MODEL_CARD.md"
KEPT_FEATURES = 10_000
COUNTS = (256, 512, 1024, 2048, 5000)
POOL = 8192


@dataclass(frozen=True)
class Bundling:
    """What to make files of.

    training   what the denoiser and the extractor were trained on
    data       folder with the data set's official files
    trained    folder that the training commands wrote
    device     on which images are sampled and features taken
    """

    training: TrainingSet
    data: Path
    trained: Path
    device: str = "cpu"


def bundle(job: Bundling, out: Path, counts: Sequence[int], pool: int) -> dict[str, Any]:
    """Write all files of a workload into `out` and return its card."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as temporary:
        staging = Path(temporary)
        for name in (DENOISER, EXTRACTOR):
            _copy(job.trained / name, staging / name)
        reference, floor = _write_reference(job, staging)
        card = _facts(job, staging, reference, floor)
        _write_card(card, staging)
        card["acceptance"] = _acceptance(job, staging, counts, pool)
        _write_card(card, staging)
        for name in (DENOISER, EXTRACTOR, REFERENCE, CARD, MODEL_CARD):
            (staging / name).chmod(0o644)  # safetensors writes files that only their owner can read
            (staging / name).replace(out / name)
    return card


def _copy(source: Path, target: Path) -> None:
    try:
        target.write_bytes(source.read_bytes())
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror}): run the training commands first.") from None


@exact_float32()
def _write_reference(job: Bundling, folder: Path) -> tuple[dict[str, Any], dict[str, float]]:
    """Write the statistics of the training images.

    Returns what the card says of them, and the distance that real images have, the test images.
    """
    workload = job.training.workload
    net = workload.classifier().eval().requires_grad_(False)
    net.load_state_dict(load_file(folder / EXTRACTOR))
    extractor = Extractor(net.to(job.device), workload.name, "")
    features = extract_features(extractor, job.training.read(job.data, "train")[0])
    kept = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:KEPT_FEATURES]
    train = _statistics(features)
    tensors = {
        "mean": train.mean,
        "covariance": train.covariance,
        "features": features[kept].half(),
        "n": torch.tensor(train.n),
    }
    save_file(tensors, folder / REFERENCE)
    test = _statistics(extract_features(extractor, job.training.read(job.data, "test")[0]))
    fd = frechet_distance(test.mean, test.covariance, train.mean, train.covariance)
    reference = {"split": "train", "images": train.n, "kept_features": len(kept), "features": features.shape[1]}
    return reference, {"images": test.n, "fd": round(fd, 4)}


def _statistics(features: Tensor) -> FeatureStatistics:
    statistics = FeatureStatistics(features.shape[1])
    statistics.add(features)
    return statistics


def _facts(job: Bundling, folder: Path, reference: Mapping[str, Any], floor: Mapping[str, float]) -> dict[str, Any]:
    """The card, still without acceptance windows."""
    training = job.training
    denoiser, extractor = _metadata(folder / DENOISER), _metadata(folder / EXTRACTOR)
    recipe = json.loads(denoiser["recipe"])
    iterations = int(denoiser["iterations"])
    weights = load_file(folder / DENOISER)
    stored = ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in weights.values()}))
    return {
        "workload": training.workload.name,
        "data": {
            "name": training.title,
            "source": training.source,
            "license": training.license,
            "train_images": reference["images"],
            "preparation": training.preparation,
        },
        "architecture": json.loads(denoiser["architecture"]),
        "parameters": sum(tensor.numel() for tensor in weights.values()),
        "stored": stored,
        "recipe": recipe,
        "iterations": iterations,
        "images_seen": iterations * recipe["batch"],
        "final_loss": float(denoiser["loss"]),
        "complete": iterations == recipe["images"] // recipe["batch"],
        "trained": _trained(denoiser),
        "steps": training.workload.steps,
        "sampler": SAMPLER,
        "extractor": {
            "features": reference["features"],
            "recipe": json.loads(extractor["recipe"]),
            "test_accuracy": float(extractor["test_accuracy"]),
            "trained": _trained(extractor),
        },
        "reference": {key: reference[key] for key in ("split", "images", "kept_features")},
        "floor": dict(floor),
        "acceptance": {"rule": RULE, "pool": 0, "windows": []},
        "made_with": made_with(job.device),
        "sha256": {name: file_sha256(folder / name) for name in (DENOISER, EXTRACTOR, REFERENCE)},
    }


def _trained(metadata: Mapping[str, str]) -> dict[str, str]:
    """Where and with what a file says that it was trained; files of earlier versions do not."""
    return {key: metadata.get(key, "not recorded") for key in ("torch", "device")}


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path} is not a complete safetensors file ({error}): train again.") from None


def _acceptance(job: Bundling, folder: Path, counts: Sequence[int], pool: int) -> dict[str, Any]:
    staged = type("Staged", (job.training.workload,), {"folder": folder})()

    def tell(done: int) -> None:
        print(f"\r{done}/{pool} images", end="", flush=True)

    windows = measure_windows(staged, counts, pool, tell, job.device)
    print()
    rounded = [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(window).items()}
        for window in windows
    ]
    return {"rule": RULE, "purpose": PURPOSE, "pool": pool, "windows": rounded}


def _write_card(card: Mapping[str, Any], folder: Path) -> None:
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    (folder / MODEL_CARD).write_text(render(card), encoding="utf-8")


def _counts(text: str) -> list[int]:
    try:
        return [int(count) for count in text.split(",")]
    except ValueError:
        raise UserError(f"--counts {text} is no list of image counts such as 256,512.") from None


def main() -> int:
    """Parse the command line, bundle, and print the windows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", choices=sorted(TRAINING_SETS))
    parser.add_argument("--data", type=Path, required=True, help="folder with the data set's official files")
    parser.add_argument("--training", type=Path, required=True, help="folder that the training commands wrote")
    parser.add_argument("--out", type=Path, help="folder for the files [default: the package's own]")
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)), help="image counts that get a window")
    parser.add_argument("--pool", type=int, default=POOL, help="images sampled to set the windows")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    return exit_status(lambda: _make(options))


def _make(options: argparse.Namespace) -> None:
    training = TRAINING_SETS[options.workload]
    job = Bundling(training, options.data, options.training, options.device)
    require_usable_device(options.device)
    card = bundle(job, options.out or training.workload.folder, _counts(options.counts), options.pool)
    for window in card["acceptance"]["windows"]:
        print("n {n}: FD {fd} in [{low}, {high}]".format(**window))


if __name__ == "__main__":
    sys.exit(main())
