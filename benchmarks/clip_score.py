"""CLIP score on ViT-B/32 with random weights: images and prompts a second, and how far it is from torchmetrics.

    python benchmarks/clip_score.py --images 32
    pip install torchmetrics transformers && python benchmarks/clip_score.py --images 32 --torchmetrics

torchmetrics runs its own code on transformers' CLIP, with the same weights and the vocabulary that open_clip ships.
What is compared is each image's 100 cos, which no clipping hides; one prompt is longer than 77 tokens, and told apart.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from pqbench.scoring.clip.encoder import open_encoder
from pqbench.scoring.clip.nets import NETS
from pqbench.testing.clip import published_state, random_clip, write_torchscript
from pqbench.testing.conditional import TinyText
from pqbench.testing.inception import random_images

NET = NETS["ViT-B-32"]
LONG = "a very long story about " + "one more cat and " * 30


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96), metavar=("H", "W"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--torchmetrics", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    height, width = options.size
    images = random_images(options.images, max(height, width), seed=1)[:, :, :height, :width]
    prompts = (*TinyText().prompts(0, range(options.images - 1)), LONG)
    clip = random_clip(NET.architecture)
    with TemporaryDirectory() as folder:
        path = Path(folder) / NET.weights.file
        write_torchscript(clip, path)
        encoder = open_encoder(NET, path)
        seen, images_s = timed(encoder.images, images)
        read, texts_s = timed(encoder.texts, prompts)
        print(f"{len(images) / images_s:.1f} images/s, {len(prompts) / texts_s:.1f} prompts/s of CPU time")
        if options.torchmetrics:
            ours = 100 * (seen * read).sum(1)
            theirs = with_torchmetrics(clip, images, list(prompts), Path(folder))
            away = (ours - theirs).abs()
            print(f"100 cos from {float(theirs.min()):.2f} to {float(theirs.max()):.2f}")
            print(f"largest difference {float(away[:-1].max()):.1e}; of the prompt that is cut {float(away[-1]):.1e}")


def timed(work: Callable[[Any], Tensor], given: Any) -> tuple[Tensor, float]:
    """What it gives, and seconds of CPU time."""
    started = time.process_time()
    found = work(given)
    return found, time.process_time() - started


def with_torchmetrics(clip: Any, images: Tensor, prompts: list[str], folder: Path) -> Tensor:
    """100 cos of each image and its prompt, (N,) float64: what its metric sums up."""
    from torchmetrics.functional.multimodal.clip_score import _clip_score_update
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    text = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8, "eos_token_id": 49407}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "patch_size": 32}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512)).eval()
    model.load_state_dict(renamed({name: value.float() for name, value in published_state(clip).items()}))
    processor = CLIPProcessor(CLIPImageProcessor(), CLIPTokenizer(*vocabulary(folder)))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, _ = _clip_score_update(list(images), prompts, model, processor)
    each: Tensor = found.double()
    return each


def vocabulary(folder: Path) -> tuple[str, str]:
    """The files of transformers' tokenizer, from open_clip's."""
    from open_clip.tokenizer import SimpleTokenizer, default_bpe

    codes = dict(SimpleTokenizer().encoder)
    codes |= {"<|startoftext|>": codes.pop("<start_of_text>"), "<|endoftext|>": codes.pop("<end_of_text>")}
    merges = gzip.decompress(Path(default_bpe()).read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    (folder / "vocab.json").write_text(json.dumps(codes))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return str(folder / "vocab.json"), str(folder / "merges.txt")


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """OpenAI's state in transformers' names."""
    alone = {
        "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "positional_embedding": "text_model.embeddings.position_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "logit_scale": "logit_scale",
    }
    within = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    within |= {"attn.out_proj": "self_attn.out_proj"}
    norms = {"ln_final": "text_model.final_layer_norm"}
    norms |= {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    found = {new: state[old] for old, new in alone.items()}
    found |= {"visual_projection.weight": state["visual.proj"].T, "text_projection.weight": state["text_projection"].T}
    for part in ("weight", "bias"):
        found |= {f"{new}.{part}": state[f"{old}.{part}"] for old, new in norms.items()}
        for layer in range(12):
            for old, new in (("transformer", "text_model"), ("visual.transformer", "vision_model")):
                ours, theirs = f"{old}.resblocks.{layer}", f"{new}.encoder.layers.{layer}"
                found |= {f"{theirs}.{b}.{part}": state[f"{ours}.{a}.{part}"] for a, b in within.items()}
                for which, value in zip("qkv", state[f"{ours}.attn.in_proj_{part}"].chunk(3), strict=True):
                    found[f"{theirs}.self_attn.{which}_proj.{part}"] = value
    return found


if __name__ == "__main__":
    main()
