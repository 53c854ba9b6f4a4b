"""Extractors by name: their options, and what is said of names, images and files that do not fit."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from inception_files import InceptionFiles
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from pqbench.base.errors import UserError
from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.components import Registry
from pqbench.contracts import FeatureExtractor, Weights
from pqbench.contracts.workload import Extractor
from pqbench.scoring.extractors import named_extractor, open_extractor
from pqbench.scoring.extractors.inception import load_inception
from pqbench.scoring.extractors.timm_backbone import FdDinoV2, TimmBackbone, resized_positions
from pqbench.scoring.features import extract_features, extract_outputs
from pqbench.scoring.libraries import libraries_of, with_versions
from pqbench.scoring.weights.store import WeightStore
from pqbench.testing import check_extractor
from pqbench.testing.inception import random_images

declare_missing_operators()

MODEL = "test_resnet.r160_in1k"
DINO = "vit_small_patch14_dinov2.lvd142m"


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry(lambda: [])


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of timm with random weights, saved as timm publishes it."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(MODEL, pretrained=False)
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(net.state_dict(), path)
    return path


def images(n: int, channels: int = 3) -> Tensor:
    return random_images(n, 16)[:, :channels]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_features_of_a_timm_model_are_what_it_gives_its_classifier(registry: Registry, backbone: Path) -> None:
    import timm
    from PIL import Image

    opened = open_extractor(f"timm:{MODEL}", registry, weights=backbone)
    net = timm.create_model(MODEL, pretrained=True, pretrained_cfg_overlay={"file": str(backbone)}).eval()
    config = timm.data.resolve_model_data_config(net)
    transform = timm.data.create_transform(**config | {"crop_pct": 1.0, "crop_mode": "squash"})
    batch = images(3)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in batch]
    with torch.no_grad():
        wanted = net.forward_head(net.forward_features(torch.stack([transform(p) for p in pictures])), pre_logits=True)
    torch.testing.assert_close(extract_features(opened, batch), wanted, rtol=1e-4, atol=1e-5)
    assert (opened.name, opened.distance, opened.channels) == (f"timm:{MODEL}", "FD", 3)
    assert opened.sha256 == sha256(backbone)
    assert "160x160" in opened.pixels


def test_a_state_dict_of_torch_does_as_well(registry: Registry, backbone: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(backbone), tmp_path / "model.pth")
    opened = [open_extractor(f"timm:{MODEL}", registry, weights=each) for each in (backbone, tmp_path / "model.pth")]
    first, second = (extract_features(each, images(2)) for each in opened)
    assert torch.equal(first, second)
    assert opened[0].sha256 != opened[1].sha256


def test_a_fetched_file_is_found(registry: Registry, backbone: Path, tmp_path: Path) -> None:
    store = WeightStore(tmp_path)
    weights = named_extractor(f"timm:{MODEL}", registry).weights()
    assert weights is not None
    shutil.copy(backbone, store.path(weights))
    assert open_extractor(f"timm:{MODEL}", registry, store=store).sha256 == sha256(backbone)


def test_dinov2_gives_its_cls_token_at_224(tmp_path: Path) -> None:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = timm.create_model(DINO, pretrained=False)
        nn.init.normal_(net.pos_embed)
        nn.init.normal_(net.cls_token)
    path = tmp_path / "model.safetensors"
    save_file(net.state_dict(), path)
    extractor = FdDinoV2(model=DINO).open(path, "")
    assert "224x224" in extractor.pixels
    found = extract_features(extractor, images(1))
    # The same net written out: patches, position embeddings as DINOv2's code resizes them, blocks, norm, first token.
    pixels = extractor.net.prepare(images(1))  # type: ignore[operator]
    side = net.pos_embed[:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(side, scale_factor=16.1 / 37, mode="bicubic").flatten(2).mT
    net.eval()
    with torch.no_grad():
        x = net.patch_embed.proj(pixels).flatten(2).mT
        x = torch.cat([net.cls_token, x], 1) + torch.cat([net.pos_embed[:, :1], grid], 1)
        wanted = net.norm(net.blocks(x))[:, 0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_position_embeddings_keep_the_class_token_and_their_size() -> None:
    embedding = torch.randn(1, 1 + 37 * 37, 6, generator=torch.Generator().manual_seed(0))
    made = resized_positions(embedding, 16)
    assert made.shape == (1, 1 + 16 * 16, 6)
    assert torch.equal(made[:, 0], embedding[:, 0])


def test_outputs_do_not_depend_on_how_images_arrive(registry: Registry, backbone: Path) -> None:
    extractor = open_extractor(f"timm:{MODEL}", registry, weights=backbone)
    batch = images(19)
    whole = extract_outputs(extractor, batch)["features"]
    torch.testing.assert_close(extract_outputs(extractor, batch.split(5), batch=2)["features"], whole)


def test_grey_images_are_scored_only_where_that_is_declared(registry: Registry, backbone: Path) -> None:
    refusing = open_extractor(f"timm:{MODEL}", registry, weights=backbone)
    with pytest.raises(UserError, match=r"3 channels; these have 1.*grey=repeat"):
        extract_features(refusing, images(2, channels=1))
    repeating = open_extractor(f"timm:{MODEL}[grey=repeat]", registry, weights=backbone)
    grey = images(2, channels=1)
    assert torch.equal(extract_features(repeating, grey), extract_features(refusing, grey.expand(-1, 3, -1, -1)))
    assert "repeated" in repeating.pixels
    assert "repeated" not in refusing.pixels
    with pytest.raises(UserError, match="these have 2 channels"):
        extract_features(repeating, images(2, channels=2))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.full((2, 3, 8, 8), float("nan")), "uint8 images; these are torch.float32"),
        (torch.zeros(2, 3, 8, 8), "uint8 images; these are torch.float32"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), r"\(N, C, H, W\); these have shape \(3, 8, 8\)"),
        (torch.zeros(2, 3, 0, 8, dtype=torch.uint8), r"these have shape \(2, 3, 0, 8\)"),
    ],
)
def test_images_that_are_none_are_refused(registry: Registry, backbone: Path, batch: Tensor, words: str) -> None:
    with pytest.raises(UserError, match=words):
        extract_features(open_extractor(f"timm:{MODEL}", registry, weights=backbone), batch)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fid-cleen", "Did you mean fid-clean"),
        ("timm:resnt50", "timm .* has no model resnt50. Did you mean resnet50"),
        ("timm:", "Say which backbone of timm"),
        ("timm", "Say which backbone of timm"),
        ("fid-clean[gray=repeat]", "Did you mean grey"),
        ("fid-clean[grey=maybe]", "one of refuse, repeat"),
        ("fid-clean,fid-legacy", "names 2 extractors: give one"),
        ("", "The extractor cannot be read"),
    ],
)
def test_names_that_mean_nothing(registry: Registry, text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        open_extractor(text, registry)


def test_the_shorthand_of_timm_is_its_parameter(registry: Registry) -> None:
    assert named_extractor("timm:resnet18", registry) == TimmBackbone(model="resnet18")
    assert named_extractor("timm:resnet18[grey=repeat]", registry) == TimmBackbone(grey="repeat", model="resnet18")
    assert named_extractor("timm[model=resnet18]", registry) == TimmBackbone(model="resnet18")


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("fid-clean", ("pillow",)),
        ("fid-legacy", ("torch-fidelity",)),
        ("fid-legacy-tensorflow", ()),
        ("fid-torch-fidelity", ("torch-fidelity",)),
        ("fd-dinov2", ("pillow", "timm")),
        (f"timm:{MODEL}", ("pillow", "timm")),
    ],
)
def test_extractors_name_the_libraries_that_decide_their_features(
    registry: Registry, text: str, used: tuple[str, ...]
) -> None:
    declared = libraries_of(named_extractor(text, registry))
    assert declared == used
    assert with_versions(declared) == " + ".join(f"{name} {version(name)}" for name in used)


@pytest.mark.parametrize("name", ["fid-torch-fidelity", "fid-clean", "fid-legacy", "fid-legacy-tensorflow"])
def test_without_weights_the_error_says_which_where_and_how(registry: Registry, tmp_path: Path, name: str) -> None:
    weights = named_extractor(name, registry).weights()
    assert weights is not None
    with pytest.raises(UserError) as error:
        open_extractor(name, registry, store=WeightStore(tmp_path))
    for fact in (weights.file, weights.sha256, str(tmp_path), f"pqbench fetch {name}"):
        assert fact in str(error.value)


@pytest.mark.parametrize("name", ["fid-torch-fidelity", "fid-clean"])
def test_a_file_with_another_hash_is_refused_before_it_is_read(
    registry: Registry, inception_files: InceptionFiles, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(torch, "load", read)
    monkeypatch.setattr(torch.jit, "load", read)
    path = inception_files.script if name == "fid-clean" else inception_files.state
    weights = named_extractor(name, registry).weights()
    assert weights is not None
    with pytest.raises(UserError) as error:
        open_extractor(name, registry, weights=path)
    assert weights.sha256 in str(error.value)
    assert sha256(path) in str(error.value)
    # The file is the user's own: what to give instead is said, and not that it should go.
    assert str(path) in str(error.value)
    assert "remove" not in str(error.value)
    assert f"give the path of {weights.file}, or leave --weights out" in str(error.value)
    assert f"`pqbench fetch {name}`" in str(error.value)


def test_a_damaged_file_in_the_folder_of_weights_is_to_be_removed(registry: Registry, tmp_path: Path) -> None:
    store, weights = WeightStore(tmp_path), named_extractor("fid-clean", registry).weights()
    assert weights is not None
    store.path(weights).write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"It has 9 bytes instead of .* remove it, and get the right one with `pqbench"):
        open_extractor("fid-clean", registry, store=store)


def test_a_path_that_is_not_there_is_said_so(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        open_extractor("fid-clean", registry, weights=tmp_path / "none.pt")


def test_files_that_hold_something_else_are_refused(tmp_path: Path, backbone: Path, registry: Registry) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    garbage, pickled, other = tmp_path / "garbage.pth", tmp_path / "pickled.pth", tmp_path / "other.pth"
    garbage.write_bytes(b"x" * 100)
    torch.save({"a": Evil()}, pickled)
    torch.save({"a": torch.zeros(2)}, other)
    for path, words in ((garbage, "damaged"), (pickled, "damaged"), (other, "does not hold the weights")):
        with pytest.raises(UserError, match=words):
            load_inception(path)
    for path in (garbage, pickled, other):
        with pytest.raises(UserError, match="cannot be read as weights of"):
            open_extractor(f"timm:{MODEL}", registry, weights=path)
    truncated = tmp_path / "model.safetensors"
    truncated.write_bytes(backbone.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cannot be read as weights of"):
        open_extractor(f"timm:{MODEL}", registry, weights=truncated)
    assert not (tmp_path / "ran").exists()


def test_a_script_that_is_another_net_is_refused(tmp_path: Path) -> None:
    from pqbench.scoring.extractors.clean_fid import FidClean

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "linear.pt")
    with pytest.raises(UserError, match="no part called layers"):
        FidClean().open(tmp_path / "linear.pt", "")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "linear.pt").read_bytes()[:300])
    with pytest.raises(UserError, match="damaged"):
        FidClean().open(tmp_path / "cut.pt", "")


class Means(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        means = x.float().mean((2, 3))
        return {"features": means, "logits": -means}


@dataclass(frozen=True)
class ChannelMeans(FeatureExtractor):
    """An extractor of a plugin that needs no file."""

    name: ClassVar[str] = "means"

    def weights(self) -> Weights | None:
        return None

    def open(self, weights: Path | None, sha256: str) -> Extractor:
        return Extractor(Means().eval(), "means", sha256, outputs=("features", "logits"), channels=3)


def test_an_extractor_without_weights(tmp_path: Path) -> None:
    class Plugins(Registry):
        def get(self, kind: Any, name: str) -> Any:
            return ChannelMeans

    registry = Plugins(lambda: [])
    found = extract_outputs(open_extractor("means", registry), images(3))
    assert torch.equal(found["features"], -found["logits"])
    with pytest.raises(UserError, match="takes no file of weights"):
        open_extractor("means", registry, weights=tmp_path / "x")


def test_contracts(backbone: Path) -> None:
    check_extractor(ChannelMeans())
    check_extractor(TimmBackbone(model=MODEL), weights=backbone)
    check_extractor(TimmBackbone(model=MODEL, grey="repeat"), weights=backbone)


def test_an_extractor_that_promises_what_it_does_not_give_is_found() -> None:
    class Silent(ChannelMeans):
        def open(self, weights: Path | None, sha256: str) -> Extractor:
            return dataclasses.replace(super().open(weights, sha256), outputs=("features", "spatial"))

    class Batched(ChannelMeans):
        def open(self, weights: Path | None, sha256: str) -> Extractor:
            class Relative(nn.Module):
                def forward(self, x: Tensor) -> Tensor:
                    means = x.float().mean((2, 3))
                    return means - means.mean(0)

            return dataclasses.replace(super().open(weights, sha256), net=Relative().eval(), outputs=("features",))

    with pytest.raises(AssertionError, match="spatial"):
        check_extractor(Silent())
    with pytest.raises(AssertionError, match="depend on the images beside it"):
        check_extractor(Batched())
