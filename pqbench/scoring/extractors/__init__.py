"""Extractors that are called by name: the Inception of FID in its known variants, DINOv2 and any backbone of timm."""

from pqbench.scoring.extractors.opening import named_extractor, open_extractor

__all__ = ["named_extractor", "open_extractor"]
