"""LPIPS against the package lpips itself, on random trunks in torchvision's files and the true heads."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lpips_files
import pytest
import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.contracts import MetricInputs, ScoringRules, Setting
from pqbench.scoring.lpips import distance, nets
from pqbench.scoring.lpips.distance import Lpips, open_lpips
from pqbench.scoring.metrics.lpips import LpipsToFp
from pqbench.testing import check_metric
from pqbench.testing.inception import random_images

SIZES = [(32, 32), (31, 47), (72, 64)]


@pytest.fixture(scope="module")
def trunks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trunks")
    return {net: lpips_files.write_trunk(net, folder / known.weights.file) for net, known in nets.NETS.items()}


@pytest.fixture(scope="module")
def ours(trunks: dict[str, Path]) -> dict[str, Lpips]:
    return {net: open_lpips(nets.NETS[net], path) for net, path in trunks.items()}


@pytest.fixture(scope="module")
def theirs(trunks: dict[str, Path]) -> dict[str, Any]:
    """lpips's own nets, on the trunks that torchvision loads from the same files; they take images from -1 to 1."""
    declare_missing_operators()
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        import lpips
        from torchvision.models import _api

        # Drawing the classifiers' weights, which are then loaded, would take seconds.
        patch.setattr(nn.Linear, "reset_parameters", lambda _: None)
        found = {}
        for net, path in trunks.items():
            patch.setattr(_api, "load_state_dict_from_url", lambda *_, file=path, **__: torch.load(file))
            found[net] = lpips.LPIPS(net=net, verbose=False)
    return found


def pairs(height: int, width: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    """Six pairs: the first of the same image, the second nearly so."""
    first, second = (random_images(6, max(height, width), seed)[:, :channels, :height, :width] for seed in (0, 1))
    grain = 8 * torch.randn(first[1].shape, generator=torch.Generator().manual_seed(2))
    second[0] = first[0]
    second[1] = (first[1].float() + grain).clamp(0, 255).to(torch.uint8)
    return first, second


@torch.no_grad()
def published(net: Any, first: Tensor, second: Tensor) -> Tensor:
    found: Tensor = net(first / 127.5 - 1, second / 127.5 - 1)
    return found.flatten().double()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("net", nets.NETS)
def test_the_distance_is_that_of_the_package(
    net: str, size: tuple[int, int], ours: dict[str, Lpips], theirs: dict[str, Any]
) -> None:
    first, second = pairs(*size)
    found, wanted = ours[net](first, second), published(theirs[net], first, second)
    assert found.dtype == torch.float64
    assert found[0] == wanted[0] == 0
    assert wanted[1:].min() > 1e-4
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize("net", nets.NETS)
def test_grey_images_count_as_three_equal_channels_as_in_the_package(
    net: str, ours: dict[str, Lpips], theirs: dict[str, Any]
) -> None:
    first, second = pairs(32, 32, channels=1)
    found = ours[net](first, second)
    torch.testing.assert_close(found, published(theirs[net], first, second), rtol=1e-5, atol=0)
    torch.testing.assert_close(found, ours[net](first.expand(-1, 3, -1, -1), second.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize("net", nets.NETS)
def test_images_are_too_small_where_they_are_for_the_package(
    net: str, ours: dict[str, Lpips], theirs: dict[str, Any]
) -> None:
    smallest = nets.NETS[net].smallest
    for height, width in ((smallest, smallest), (smallest, 50)):
        images, small = random_images(1, 64)[..., :height, :width], random_images(1, 64)[..., : height - 1, :width]
        for distances in (ours[net], lambda a, b: published(theirs[net], a, b)):
            assert torch.isfinite(distances(images, images)).all()
            with pytest.raises(RuntimeError, match="too small"):
                distances(small, small)
    setting = Setting(9, (3, smallest, smallest), 4, 9)
    assert LpipsToFp(net=net).unsuited(setting) == ""
    assert f"at least {smallest}x{smallest} pixels, and these have {smallest - 1}x40" in LpipsToFp(net=net).unsuited(
        Setting(9, (3, smallest - 1, 40), 4, 9)
    )


def test_how_many_images_are_seen_together_changes_nothing(
    ours: dict[str, Lpips], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pairs(40, 36)
    whole, shapes = ours["alex"](first, second), []
    hook = ours["alex"].layers[0].register_forward_pre_hook(lambda _, given: shapes.append(given[0].shape))
    for pixels, most in ((1, 2), (4 * 40 * 36, 4)):
        monkeypatch.setitem(distance._PIXELS, "cpu", pixels)
        torch.testing.assert_close(ours["alex"](first, second), whole, rtol=1e-6, atol=0)
        assert max(shape[0] for shape in shapes) == most
        shapes.clear()
    hook.remove()


def batches(images: Tensor) -> Any:
    class Batches(list[Tensor]):
        def __len__(self) -> int:
            return sum(map(len, self[:]))

    return Batches([images[:4], images[4:]])


def test_the_metric_is_the_mean_and_keeps_what_each_image_has(trunks: dict[str, Path], theirs: dict[str, Any]) -> None:
    first, second = pairs(32, 32)
    sources: Any = {"images": lambda: batches(first), "fp_images": lambda: batches(second)}
    score = LpipsToFp().compute(MetricInputs(ScoringRules(6), sources, weights=trunks["alex"]))
    wanted = published(theirs["alex"], first, second)
    assert score.value == pytest.approx(float(wanted.mean()), rel=1e-5)
    torch.testing.assert_close(score.each, wanted, rtol=1e-5, atol=0)
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.value < score.high


def test_the_metric_keeps_its_contract(trunks: dict[str, Path]) -> None:
    check_metric(LpipsToFp(net="vgg"), n=8, weights=trunks["vgg"])


@pytest.mark.parametrize(
    ("parameters", "image", "reason"),
    [
        ({}, (3, 32, 32), ""),
        ({}, (1, 32, 32), "it takes RGB images, and these are grey: declare lpips_to_fp[grey=repeat]"),
        ({"net": "vgg"}, (1, 32, 32), "declare lpips_to_fp[net=vgg,grey=repeat]"),
        ({"grey": "repeat"}, (1, 32, 32), ""),
        ({"grey": "repeat"}, (4, 32, 32), "these have 4 channels"),
        ({}, (3, 28, 28), "31x31 pixels, and these have 28x28; lpips_to_fp[net=vgg] takes them"),
        ({"net": "vgg"}, (3, 28, 28), ""),
        ({}, (3, 8, 8), "31x31 pixels, and these have 8x8"),
        ({"net": "vgg"}, (3, 8, 80), "16x16 pixels, and these have 8x80"),
    ],
)
def test_images_that_it_does_not_take(parameters: dict[str, str], image: tuple[int, int, int], reason: str) -> None:
    found = LpipsToFp(**parameters).unsuited(Setting(9, image, 4, 9))
    assert found.endswith(reason)
    assert bool(found) == bool(reason)


def test_the_protocol_states_what_decides_the_value() -> None:
    for net, sha256 in (("alex", "df73285e"), ("vgg", "a78928a0")):
        fixed = LpipsToFp(net=net).fixes()
        assert fixed["heads_sha256"].startswith(sha256)
        assert "[-1, 1]" in fixed["pixels"]
        assert "not resized" in fixed["pixels"]
        assert fixed["pixels"] != LpipsToFp(net=net, grey="repeat").fixes()["pixels"]
        # Torchvision's files begin their names with how their sha256 begin.
        weights = LpipsToFp(net=net).weights()
        assert weights.sha256.startswith(weights.file.removesuffix(".pth").rpartition("-")[2])


def test_the_heads_are_those_that_the_package_ships() -> None:
    declare_missing_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lpips
    for net, known in nets.NETS.items():
        theirs = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
        assert (nets._HEADS / known.heads.file).read_bytes() == theirs.read_bytes()
        assert all((weights >= 0).all() for weights in nets.load_heads(known))
    assert "Redistributions of source code must retain" in (nets._HEADS / "LICENSE").read_text()


def test_files_that_hold_something_else(trunks: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "cut.pth").write_bytes(trunks["alex"].read_bytes()[:100_000])
    with pytest.raises(UserError, match="is damaged, or no file of weights"):
        open_lpips(nets.NETS["alex"], tmp_path / "cut.pth")
    with pytest.raises(UserError, match="does not hold the weights of VGG-16 as torchvision publishes them"):
        open_lpips(nets.NETS["vgg"], trunks["alex"])


def test_heads_that_were_changed_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "alex.pth").write_bytes((nets._HEADS / "alex.pth").read_bytes() + b"more")
    monkeypatch.setattr(nets, "_HEADS", tmp_path)
    with pytest.raises(UserError, match=r"is not alex\.pth: its sha256 is"):
        nets.load_heads(nets.NETS["alex"])
