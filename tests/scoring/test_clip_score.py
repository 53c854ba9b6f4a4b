"""CLIP score: against towers, preprocessing and tokens that are written or published elsewhere."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_files import ClipFiles
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pqbench.base.errors import UserError
from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.contracts import MetricInputs, ScoringRules, Setting
from pqbench.scoring.clip import encoder as encoders
from pqbench.scoring.clip.encoder import open_encoder
from pqbench.scoring.clip.nets import NETS, ClipNet
from pqbench.scoring.clip.pixels import MEAN, STD, clip_pixels
from pqbench.scoring.metrics.clip_score import ClipScore
from pqbench.testing.clip import TINY, TINY_NAME, published_state, random_clip, write_safetensors, write_torchscript
from pqbench.testing.inception import random_images

declare_missing_operators()

PROMPTS = ("a photo of a cat", "A diagram.", "two  apples &amp; a horse", "", "blue", "a boat at night, oil on canvas")
LONG = "a very long story about " + "one more cat and " * 30
START, END = 49406, 49407


def float64_state(net: Any) -> dict[str, Tensor]:
    """The weights with OpenAI's rounding to float16, exact in float64."""
    return {name: value.double() for name, value in published_state(net).items()}


def layer_norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def text_tower(tokens: list[int], state: Mapping[str, Tensor], heads: int) -> Tensor:
    """Radford et al.'s text transformer on the tokens of one text, up to its end: what follows cannot be seen."""
    n = len(tokens)
    x = state["token_embedding.weight"][tokens] + state["positional_embedding"][:n]
    hidden = torch.ones(n, n, dtype=torch.bool).triu(1)
    layers = len({name.split(".")[2] for name in state if name.startswith("transformer.resblocks")})
    for layer in (f"transformer.resblocks.{i}" for i in range(layers)):
        y = layer_norm(x, state, f"{layer}.ln_1")
        projected = y @ state[f"{layer}.attn.in_proj_weight"].T + state[f"{layer}.attn.in_proj_bias"]
        q, k, v = (part.view(n, heads, -1).transpose(0, 1) for part in projected.chunk(3, -1))
        attention = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(hidden, -torch.inf).softmax(-1)
        mixed = (attention @ v).transpose(0, 1).reshape(n, -1)
        x = x + mixed @ state[f"{layer}.attn.out_proj.weight"].T + state[f"{layer}.attn.out_proj.bias"]
        y = layer_norm(x, state, f"{layer}.ln_2")
        y = y @ state[f"{layer}.mlp.c_fc.weight"].T + state[f"{layer}.mlp.c_fc.bias"]
        y = y * torch.sigmoid(1.702 * y)
        x = x + y @ state[f"{layer}.mlp.c_proj.weight"].T + state[f"{layer}.mlp.c_proj.bias"]
    return layer_norm(x, state, "ln_final")[-1] @ state["text_projection"]


def image_tower(images: Tensor, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tensor:
    """torch-fidelity's copy of OpenAI's, in float64, on images prepared by torchvision as OpenAI prepares them."""
    import torchvision.transforms as T
    from torch_fidelity.feature_extractor_clip import VisionTransformer

    vision = config["vision_cfg"]
    size = vision["image_size"]
    prepare = T.Compose(
        [
            T.Resize(size, interpolation=T.InterpolationMode.BICUBIC),
            T.CenterCrop(size),
            lambda picture: picture.convert("RGB"),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )
    width = vision["width"]
    net = VisionTransformer(size, vision["patch_size"], width, vision["layers"], width // 64, config["embed_dim"])
    net.load_state_dict(
        {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    )
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    with torch.no_grad():
        embedded: Tensor = net.double()(torch.stack([prepare(picture) for picture in pictures]).double())
    return embedded


def expected_cosines(
    images: Tensor, tokens: list[list[int]], net: Any, config: Mapping[str, Any], heads: int
) -> Tensor:
    state = float64_state(net)
    texts = torch.stack([text_tower(each, state, heads) for each in tokens])
    return functional.cosine_similarity(image_tower(images, state, config), texts)


def inputs(files: ClipFiles, images: list[Tensor], prompts: tuple[str, ...]) -> MetricInputs:
    class Batches(list[Tensor]):
        def __len__(self) -> int:
            return sum(map(len, self[:]))

    batches, n = Batches(images), sum(map(len, images))
    sources: Any = {"images": lambda: batches, "prompts": lambda: prompts}
    return MetricInputs(ScoringRules(n), sources, weights=files.weights)


def tokens_of(files: ClipFiles, prompts: tuple[str, ...]) -> list[list[int]]:
    """Up to the end of each text."""
    rows = open_encoder(files.net, files.weights).tokenizer(list(prompts), context_length=77).tolist()
    return [row[: row.index(END) + 1] for row in rows]


def test_the_score_is_the_mean_of_what_published_towers_say_in_float64(clip_files: ClipFiles) -> None:
    images = random_images(6, 48)
    cosines = expected_cosines(images, tokens_of(clip_files, PROMPTS), random_clip(TINY_NAME), TINY, heads=1)
    expected = 100 * cosines.clamp(min=0)
    score = ClipScore().compute(inputs(clip_files, [images[:4], images[4:]], PROMPTS))
    assert score.each is not None
    assert cosines.std() > 0.01
    torch.testing.assert_close(score.each, expected, rtol=1e-4, atol=1e-3)
    assert score.value == pytest.approx(float(expected.mean()), rel=1e-4)
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.value < score.high
    assert score.detail == {"prompts_cut": 0}


def test_an_image_that_is_against_its_prompt_counts_as_zero(clip_files: ClipFiles) -> None:
    images = random_images(6, 48)
    cosines = expected_cosines(images, tokens_of(clip_files, PROMPTS), random_clip(TINY_NAME), TINY, heads=1)
    assert cosines.min() < 0 < cosines.max(), "another seed, for the test to say something"
    score = ClipScore().compute(inputs(clip_files, [images], PROMPTS))
    assert score.each is not None
    assert torch.equal(score.each == 0, cosines < 0)


@pytest.mark.parametrize("shape", [(48, 48), (30, 77), (100, 65), (64, 64), (257, 129)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_prepared_as_openai_prepares_them(shape: tuple[int, int], channels: int) -> None:
    import torchvision.transforms as T

    image = torch.randint(0, 256, (channels, *shape), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    picture = Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).convert("RGB")
    resize = T.Resize(64, interpolation=T.InterpolationMode.BICUBIC)
    theirs = T.Compose([resize, T.CenterCrop(64), T.ToTensor(), T.Normalize(MEAN, STD)])(picture)
    torch.testing.assert_close(clip_pixels(image[None], 64)[0], theirs, rtol=0, atol=1e-6)


def test_texts_have_the_tokens_that_openai_shows(clip_files: ClipFiles) -> None:
    """Those of the example in the README of its repository, and of one in the documentation of transformers."""
    assert tokens_of(clip_files, ("a diagram", "a photo of a cat")) == [
        [START, 320, 22697, END],
        [START, 320, 1125, 539, 320, 2368, END],
    ]


def test_what_is_longer_than_77_tokens_is_cut_and_said(clip_files: ClipFiles) -> None:
    images, prompts = random_images(3, 48), (LONG, "a cat", LONG + "and so on")
    (cut, short, other) = tokens_of(clip_files, prompts)
    assert (len(cut), len(short), cut) == (77, 4, other)
    score = ClipScore().compute(inputs(clip_files, [images], prompts))
    expected = expected_cosines(images, [cut, short, cut], random_clip(TINY_NAME), TINY, heads=1)
    torch.testing.assert_close(score.each, 100 * expected.clamp(min=0), rtol=1e-4, atol=1e-3)
    assert score.detail == {"prompts_cut": 2}
    assert score.notes == ("CLIP reads 77 tokens: 2 of 3 prompts are longer and were cut.",)
    exact = "one " * 75
    assert not open_encoder(clip_files.net, clip_files.weights).is_cut(exact)
    assert open_encoder(clip_files.net, clip_files.weights).is_cut(exact + "two")


def test_safetensors_in_open_clips_names_give_the_same(clip_files: ClipFiles, tmp_path: Path) -> None:
    net = random_clip(TINY_NAME)
    write_safetensors(net, tmp_path / "tiny.safetensors")
    images = random_images(2, 48)
    whole = open_encoder(clip_files.net, tmp_path / "tiny.safetensors")
    with torch.no_grad():
        theirs = net.encode_image(clip_pixels(images, 64), normalize=True)
    torch.testing.assert_close(whole.images(images).float(), theirs, rtol=1e-5, atol=1e-6)
    halved = open_encoder(clip_files.net, clip_files.weights)
    torch.testing.assert_close(whole.images(images), halved.images(images), rtol=0.05, atol=5e-3)


def test_nothing_goes_online(clip_files: ClipFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    encoder = open_encoder(clip_files.net, clip_files.weights)
    assert encoder.images(random_images(2, 48)).shape == encoder.texts(PROMPTS[:2]).shape == (2, 32)


def test_towers_see_a_few_at_a_time(clip_files: ClipFiles) -> None:
    encoder, seen = open_encoder(clip_files.net, clip_files.weights), []

    class Counted:
        def encode_image(self, pixels: Tensor) -> Tensor:
            seen.append(len(pixels))
            return torch.ones(len(pixels), 3)

        encode_text = encode_image

    counted = dataclasses.replace(encoder, net=Counted())
    assert counted.images(random_images(40, 8)).shape == counted.texts(["cat"] * 40).shape == (40, 3)
    assert seen == [16, 16, 8, 16, 16, 8]


def test_as_many_prompts_as_images(clip_files: ClipFiles) -> None:
    with pytest.raises(UserError, match="There are 3 images and 6 prompts"):
        ClipScore().compute(inputs(clip_files, [random_images(3, 48)], PROMPTS))


def test_files_that_hold_something_else(clip_files: ClipFiles, tmp_path: Path) -> None:
    (tmp_path / "damaged.pt").write_bytes(clip_files.weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="is damaged, or no file of weights"):
        open_encoder(clip_files.net, tmp_path / "damaged.pt")
    other = dataclasses.replace(clip_files.net, architecture="ViT-B-32-quickgelu")
    with pytest.raises(UserError, match="does not hold the weights of CLIP ViT-B-32-quickgelu"):
        open_encoder(other, clip_files.weights)


def test_without_open_clip_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, clip_files: ClipFiles) -> None:
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: None)
    assert ClipScore().unsuited(Setting(9, (3, 8, 8), 4, 9)).endswith('`pip install "pqbench[clip]"`')
    with pytest.raises(UserError, match=r"needs open_clip, which is not installed: `pip install \"pqbench\[clip\]\"`"):
        open_encoder(clip_files.net, clip_files.weights)


def test_images_with_a_fourth_channel_are_refused() -> None:
    assert "4 channels" in ClipScore().unsuited(Setting(9, (4, 8, 8), 4, 9))


@pytest.mark.parametrize("name", NETS)
def test_every_net_is_one_that_open_clip_builds(name: str) -> None:
    import open_clip

    net, config = NETS[name], open_clip.get_model_config(NETS[name].architecture)
    assert config["vision_cfg"]["image_size"] == net.size
    assert config.get("quick_gelu", False) == (net.source == "OpenAI")
    assert f"{net.size}x{net.size}" in ClipScore(net=name).fixes()["pixels"]


def test_openais_files_have_the_hashes_that_torch_fidelity_knows() -> None:
    from torch_fidelity.feature_extractor_clip import MODEL_URLS

    for name, theirs in (
        ("ViT-B-32", "b-32"),
        ("ViT-B-16", "b-16"),
        ("ViT-L-14", "l-14"),
        ("ViT-L-14-336", "l-14-336px"),
    ):
        assert NETS[name].weights.url == MODEL_URLS[f"clip-vit-{theirs}"]


@pytest.mark.slow
def test_vit_b_32_on_its_true_architecture(tmp_path: Path) -> None:
    import open_clip

    net: ClipNet = NETS["ViT-B-32"]
    clip, path = random_clip(net.architecture), tmp_path / net.weights.file
    write_torchscript(clip, path)
    images = random_images(6, 64)
    encoder = open_encoder(net, path)
    rows = encoder.tokenizer(list(PROMPTS), context_length=77).tolist()
    tokens = [row[: row.index(END) + 1] for row in rows]
    config = open_clip.get_model_config(net.architecture)
    expected = expected_cosines(images, tokens, clip, config, heads=config["text_cfg"]["heads"])
    found = (encoder.images(images) * encoder.texts(PROMPTS)).sum(1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
