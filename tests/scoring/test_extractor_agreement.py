"""Our features against those of torch-fidelity and clean-fid, called directly on the same images and weights.

Weights are random, files and architectures the true ones. Random weights amplify rounding: in float32 torch-fidelity's
own features are as far from those in float64 (3e-5) as ours.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from inception_files import InceptionFiles
from PIL import Image
from torch import Tensor

from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.scoring.extractors.clean_fid import FidClean, FidLegacy, FidLegacyTensorflow
from pqbench.scoring.extractors.torch_fidelity import FidTorchFidelity
from pqbench.scoring.features import extract_outputs
from pqbench.scoring.formulas.frechet import FeatureStatistics, frechet_distance
from pqbench.scoring.formulas.kernel import kernel_distance
from pqbench.testing.inception import random_images

declare_missing_operators()

FEATURES = 1e-4
"""Relative difference that features may have."""
METRICS = 1e-3
"""And metrics."""


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest distance between two rows, relative to the row's length."""
    assert found.shape == wanted.shape
    return float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max())


def theirs_torch_fidelity(files: InceptionFiles, names: list[str]) -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3("inception-v3-compat", names, feature_extractor_weights_path=str(files.state))


def theirs_clean(files: InceptionFiles, resize_inside: bool) -> Any:
    from cleanfid.inception_torchscript import InceptionV3W

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return InceptionV3W(str(files.script.parent), download=False, resize_inside=resize_inside)


def theirs_legacy(files: InceptionFiles, monkeypatch: pytest.MonkeyPatch) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanfid import inception_pytorch

        state = torch.load(files.state, weights_only=True)
        monkeypatch.setattr(inception_pytorch, "load_state_dict_from_url", lambda *_, **__: state)
        net = inception_pytorch.InceptionV3(output_blocks=[3], resize_input=False).eval()
    return lambda images: net(images / 255)[0].squeeze(-1).squeeze(-1)


def save_images(images: Tensor, folder: Path) -> Path:
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{index:03d}.png")
    return folder


def folder_features(folder: Path, model: Any, mode: str) -> Tensor:
    """What clean-fid makes of a folder of PNGs."""
    from cleanfid.fid import get_folder_features

    with warnings.catch_warnings():
        # It silences all warnings for good, and calls what Pillow and PyTorch have deprecated.
        warnings.simplefilter("ignore")
        features = get_folder_features(
            str(folder), model=model, num_workers=0, batch_size=16, device=torch.device("cpu"), mode=mode, verbose=False
        )
    return torch.from_numpy(np.asarray(features))


@torch.no_grad()
def test_torch_fidelity(inception_files: InceptionFiles) -> None:
    images = random_images(2, 40)
    theirs = theirs_torch_fidelity(inception_files, ["2048", "logits_unbiased"])
    middle: list[Tensor] = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda _module, _inputs, output: middle.append(output))
    features, logits = theirs(images)
    found = extract_outputs(FidTorchFidelity().open(inception_files.state, ""), images)
    assert relative(found["features"], features) < FEATURES
    assert relative(found["logits"], logits) < FEATURES
    # sFID: the first 7 channels of mixed_6/conv, 17 x 17 x 7
    spatial = torch.stack([middle[0][:, c] for c in range(7)], -1).reshape(2, -1)
    assert relative(found["spatial"], spatial) < FEATURES
    assert found["spatial"].shape == (2, 2023)
    assert relative(features[:1], features[1:2]) > 100 * FEATURES


@torch.no_grad()
def test_clean_fid_s_mode_clean(inception_files: InceptionFiles, tmp_path: Path) -> None:
    images = random_images(2, 36)
    theirs = folder_features(save_images(images, tmp_path / "png"), theirs_clean(inception_files, False), "clean")
    found = extract_outputs(FidClean().open(inception_files.script, ""), images)
    assert relative(found["features"], theirs) < FEATURES


@torch.no_grad()
def test_clean_fid_s_legacy_modes(
    inception_files: InceptionFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = random_images(2, 36)
    folder = save_images(images, tmp_path / "png")
    theirs = folder_features(folder, theirs_clean(inception_files, True), "legacy_tensorflow")
    found = extract_outputs(FidLegacyTensorflow().open(inception_files.script, ""), images)
    assert relative(found["features"], theirs) < FEATURES
    theirs = folder_features(folder, theirs_legacy(inception_files, monkeypatch), "legacy_pytorch")
    found = extract_outputs(FidLegacy().open(inception_files.state, ""), images)
    assert relative(found["features"], theirs) < FEATURES


def fid(features: Tensor, reference: Tensor) -> float:
    statistics = [FeatureStatistics(each.shape[1]) for each in (features, reference)]
    for each, rows in zip(statistics, (features, reference), strict=True):
        each.add(rows)
    a, b = statistics
    return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)


@pytest.mark.slow
@torch.no_grad()
def test_metrics_of_torch_fidelity(inception_files: InceptionFiles, tmp_path: Path) -> None:
    import torch_fidelity
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_prc import calculate_precision_recall_part

    sets = random_images(24, 32, seed=3), random_images(24, 32, seed=4).flip(3) // 2
    folders = [str(save_images(images, tmp_path / name)) for images, name in zip(sets, "ab", strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch_fidelity.calculate_metrics(
            input1=folders[0],
            input2=folders[1],
            feature_extractor="inception-v3-compat",  # precision and recall are taken on another net by default
            feature_extractor_weights_path=str(inception_files.state),
            fid=True,
            kid=True,
            kid_subset_size=20,
            kid_subsets=10,
            isc=True,
            isc_splits=2,
            prc=True,
            cuda=False,
            cache=False,
            save_cpu_ram=True,
            verbose=False,
        )
    extractor = FidTorchFidelity().open(inception_files.state, "")
    outputs = [extract_outputs(extractor, images) for images in sets]
    a, b = (each["features"] for each in outputs)
    assert fid(a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=METRICS)
    found = kernel_distance(a, b, subsets=10, subset_size=20, seed=2020)
    assert found.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=METRICS)
    # What is made of features is tested elsewhere; here its own functions say that these features are as good.
    score = isc_features_to_metric(outputs[0]["logits"], splits=2)["inception_score_mean"]
    assert score == pytest.approx(theirs["inception_score_mean"], rel=METRICS)
    precision, recall = calculate_precision_recall_part(a, b, neighborhood=3)
    assert precision == pytest.approx(theirs["precision"], rel=METRICS)
    assert recall == pytest.approx(theirs["recall"], rel=METRICS)


@pytest.mark.slow
@torch.no_grad()
def test_fid_and_kid_of_clean_fid(inception_files: InceptionFiles, tmp_path: Path) -> None:
    """Its Frechet distance takes a root that SciPy gets wrong, or has no more: NumPy's eigenvalues stand in for it."""
    from cleanfid.fid import kernel_distance as clean_kernel_distance

    sets = random_images(24, 32, seed=3), random_images(24, 32, seed=4).flip(3) // 2
    model = theirs_clean(inception_files, False)
    theirs = [
        folder_features(save_images(images, tmp_path / name), model, "clean").double().numpy()
        for images, name in zip(sets, "ab", strict=True)
    ]
    covariances = [np.cov(rows, rowvar=False) for rows in theirs]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    shift = theirs[0].mean(0) - theirs[1].mean(0)
    wanted = shift @ shift + sum(np.trace(each) for each in covariances) - 2 * roots
    extractor = FidClean().open(inception_files.script, "")
    a, b = (extract_outputs(extractor, images)["features"] for images in sets)
    assert fid(a, b) == pytest.approx(wanted, rel=METRICS)
    # Subsets of all images: which are drawn makes no difference.
    found = kernel_distance(a, b, subsets=1, subset_size=24, seed=0)
    assert found.value == pytest.approx(clean_kernel_distance(theirs[0], theirs[1], num_subsets=1), rel=METRICS)
