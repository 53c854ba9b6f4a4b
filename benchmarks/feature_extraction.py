"""Images a second through the Inception of FID: ours against torch-fidelity and clean-fid, called directly.

    python benchmarks/feature_extraction.py --images 32 --size 32 --rounds 5

Same images, same weights (random ones, in the published formats), same batch, one thread, in turn in one process; what
is compared is the median over the rounds. Images are in memory: neither side reads or writes a picture.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.scoring.extractors.clean_fid import FidClean, FidLegacy, FidLegacyTensorflow
from pqbench.scoring.extractors.torch_fidelity import FidTorchFidelity
from pqbench.scoring.features import extract_features
from pqbench.testing.inception import random_images, random_inception, write_state_dict, write_torchscript

Extract = Callable[[Tensor], Tensor]
BATCH = 16


def ours(state: Path, script: Path) -> Mapping[str, Extract]:
    """The presets, each as it is used."""
    makers = ((FidTorchFidelity, state), (FidClean, script), (FidLegacyTensorflow, script), (FidLegacy, state))
    opened = {maker.name: maker().open(path, "") for maker, path in makers}
    return {
        name: lambda images, each=extractor: extract_features(each, images, BATCH)  # type: ignore[misc]
        for name, extractor in opened.items()
    }


def theirs(state: Path, script: Path) -> Mapping[str, Extract]:
    """torch-fidelity's extractor; clean-fid's resizers, image by image as they are made, and its nets."""
    from cleanfid import inception_pytorch
    from cleanfid.inception_torchscript import InceptionV3W
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    names = ["2048", "logits_unbiased"]
    fidelity = FeatureExtractorInceptionV3("inception-v3-compat", names, feature_extractor_weights_path=str(state))
    folder = str(script.parent)
    scripts = [InceptionV3W(folder, download=False, resize_inside=inside).eval() for inside in (False, True)]
    weights = torch.load(state, weights_only=True)
    inception_pytorch.load_state_dict_from_url = lambda *_, **__: weights
    legacy = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False).eval()
    return {
        "fid-torch-fidelity": in_batches(lambda images: fidelity(images)[0]),
        "fid-clean": in_batches(lambda images: scripts[0](resized(images, "clean"))),
        "fid-legacy-tensorflow": in_batches(lambda images: scripts[1](images.float())),
        "fid-legacy": in_batches(lambda images: legacy(resized(images, "legacy_pytorch") / 255)[0].flatten(1)),
    }


def in_batches(extract: Extract) -> Extract:
    """An extractor that sees as many images at once as ours."""
    return lambda images: torch.cat([extract(batch) for batch in torch.split(images, BATCH)])


def resized(images: Tensor, mode: str) -> Tensor:
    """clean-fid's resizer of a mode."""
    from cleanfid.resize import build_resizer

    resize: Callable[[Any], Any] = build_resizer(mode)
    made = np.stack([resize(image.permute(1, 2, 0).numpy()) for image in images])
    # Channels first, as its data loader lays them.
    return torch.from_numpy(made).permute(0, 3, 1, 2).contiguous()


def timed(extract: Extract, images: Tensor) -> tuple[float, float]:
    """Seconds of wall time and of CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    extract(images)
    return time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Print a row a preset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    declare_missing_operators()
    warnings.simplefilter("ignore")
    images = random_images(options.images, options.size, seed=1)
    with TemporaryDirectory() as folder, torch.no_grad():
        files = Path(folder) / "weights.pth", Path(folder) / "inception-2015-12-05.pt"
        net = random_inception()
        write_state_dict(net, files[0])
        write_torchscript(net, files[1])
        table(ours(*files), theirs(*files), images, options.rounds)


def table(own: Mapping[str, Extract], other: Mapping[str, Extract], images: Tensor, rounds: int) -> None:
    """Both sides in turn, after a call of each that is not counted (TorchScript optimizes in its first two)."""
    print("| preset | difference | theirs, images/s | ours | ratio | ratio of CPU time |\n|---|--:|--:|--:|--:|--:|")
    for name in own:
        few = images[: 2 * BATCH]
        a, b = [extract(few) for extract in (own[name], other[name]) for _ in range(2)][1::2]
        difference = float(((a - b).norm(dim=1) / b.norm(dim=1)).max())
        runs = [(timed(other[name], images), timed(own[name], images)) for _ in range(rounds)]
        wall = [statistics.median(run[side][0] for run in runs) for side in (0, 1)]
        cpu = [statistics.median(run[side][1] for run in runs) for side in (0, 1)]
        speeds = [len(images) / seconds for seconds in wall]
        print(
            f"| `{name}` | {difference:.0e} | {speeds[0]:.2f} | {speeds[1]:.2f} "
            f"| {wall[0] / wall[1]:.2f} | {cpu[0] / cpu[1]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
