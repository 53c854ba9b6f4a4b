"""The CLIP nets that papers report, and the files that they are published in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from pqbench.contracts.extractor import Weights

CLIP_BIBTEX: Final = """@inproceedings{radford2021learning,
  title     = {Learning Transferable Visual Models From Natural Language Supervision},
  author    = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and
               Agarwal, Sandhini and Sastry, Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack and
               Krueger, Gretchen and Sutskever, Ilya},
  booktitle = {International Conference on Machine Learning (ICML)},
  year      = {2021}
}"""


@dataclass(frozen=True)
class ClipNet:
    """One trained CLIP.

    architecture   the name of its configuration in open_clip
    source         who trained it on what, for the protocol
    weights        the published file: OpenAI's TorchScript, or safetensors in open_clip's names
    size           width and height of the images that it takes
    """

    architecture: str
    source: str
    weights: Weights
    size: int = 224


def _openai(file: str, sha256: str, architecture: str, size: int = 224) -> ClipNet:
    url = f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}"
    return ClipNet(architecture, "OpenAI", Weights(file, url, sha256, licence="MIT"), size)


NETS: Final[Mapping[str, ClipNet]] = MappingProxyType(
    {
        "ViT-B-32": _openai(
            "ViT-B-32.pt",
            "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
            "ViT-B-32-quickgelu",
        ),
        "ViT-B-16": _openai(
            "ViT-B-16.pt",
            "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
            "ViT-B-16-quickgelu",
        ),
        "ViT-L-14": _openai(
            "ViT-L-14.pt",
            "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
            "ViT-L-14-quickgelu",
        ),
        "ViT-L-14-336": _openai(
            "ViT-L-14-336px.pt",
            "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
            "ViT-L-14-336-quickgelu",
            size=336,
        ),
        "ViT-g-14": ClipNet(
            "ViT-g-14",
            "LAION, laion2b_s34b_b88k",
            Weights(
                "CLIP-ViT-g-14-laion2B-s34B-b88K.safetensors",
                "https://huggingface.co/laion/CLIP-ViT-g-14-laion2B-s34B-b88K/resolve/main/open_clip_model.safetensors",
                licence="MIT",
            ),
        ),
    }
)
"""By the names that users write. OpenAI trained with QuickGELU, LAION with GELU."""
