"""Conditional workloads for tests: the tiny workload with class labels, and with embeddings as of a text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pqbench.diffusion.noise import image_generator, initial_noise
from pqbench.testing.tiny import CONFIG, TinyWorkload
from pqbench.workloads.diffusers_net import DiffusersDenoiser
from pqbench.workloads.fingerprint import model_fingerprint, tensors_sha256

CLASSES = 5
COLOURS, THINGS = ("red", "green", "blue", "grey"), ("a boat", "a chair", "a horse", "a house", "two apples")
TOKENS, WIDTH = 6, 8
"""Of an embedding: its length, and the width of a token."""


class TinyConditional(TinyWorkload):
    """The tiny workload with another net of diffusers; `condition` is still to be given."""

    config: ClassVar[Mapping[str, object]]
    """What `DiffusersDenoiser.from_config` takes."""

    def architecture(self) -> nn.Module:
        """The net of `config` with whatever weights diffusers initialises."""
        return DiffusersDenoiser.from_config(self.config)

    def fingerprint(self) -> str:
        """Hash of the seeded weights, the schedule and the sampler."""
        weights = tensors_sha256(self.denoiser().state_dict())
        return model_fingerprint(weights, self.schedule(), f"ddim-trailing, {self.name}")


class TinyLabelled(TinyConditional):
    """The net of the tiny workload with a table of classes."""

    name: ClassVar[str] = "tiny-labelled"
    summary: ClassVar[str] = "an untrained 8x8 U-Net with class labels, for tests of plugins"
    config: ClassVar[Mapping[str, object]] = {**CONFIG, "num_class_embeds": CLASSES}

    def condition(self, seed: int, indices: Sequence[int], purpose: str = "image") -> tuple[Tensor, ...]:
        """A class drawn for each image, (N,) int64."""
        draws = (torch.randint(CLASSES, (), generator=image_generator(seed, i, f"{purpose}/class")) for i in indices)
        return (torch.stack(list(draws)),)


class TinyText(TinyConditional):
    """A U-Net of a single level with cross attention to embeddings."""

    name: ClassVar[str] = "tiny-text"
    summary: ClassVar[str] = "an untrained 8x8 U-Net with cross attention, for tests of plugins"
    config: ClassVar[Mapping[str, object]] = {
        **CONFIG,
        "_class_name": "UNet2DConditionModel",
        "block_out_channels": (8,),
        "down_block_types": ("CrossAttnDownBlock2D",),
        "mid_block_type": None,
        "up_block_types": ("CrossAttnUpBlock2D",),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
    }

    def condition(self, seed: int, indices: Sequence[int], purpose: str = "image") -> tuple[Tensor, ...]:
        """Noise in the shape of what a text encoder makes of a prompt, (N, TOKENS, WIDTH) float32."""
        return (initial_noise(seed, indices, (TOKENS, WIDTH), f"{purpose}/text"),)

    def prompts(self, seed: int, indices: Sequence[int], purpose: str = "image") -> tuple[str, ...]:
        """A few words drawn for each image; nothing but the index ties them to the noise that stands for them."""
        return tuple(_words(image_generator(seed, i, f"{purpose}/prompt")) for i in indices)


def _words(generator: torch.Generator) -> str:
    thing, colour = (
        choices[int(torch.randint(len(choices), (), generator=generator))] for choices in (THINGS, COLOURS)
    )
    return f"A photo of {thing} in {colour}."
