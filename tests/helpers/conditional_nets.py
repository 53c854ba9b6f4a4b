"""Conditional workloads: the tiny ones, and a class-conditional DiT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pqbench.testing.conditional import CLASSES, TinyConditional, TinyLabelled, TinyText


class TinyDit(TinyLabelled):
    """A diffusion transformer with class labels."""

    name: ClassVar[str] = "tiny-dit"
    config: ClassVar[Mapping[str, object]] = {
        "_class_name": "DiTTransformer2DModel", "num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 3,
        "out_channels": 3, "num_layers": 1, "sample_size": 8, "patch_size": 2, "norm_num_groups": 4,
        "num_embeds_ada_norm": CLASSES,
    }  # fmt: skip


CONDITIONAL: list[TinyConditional] = [TinyLabelled(), TinyText(), TinyDit()]
