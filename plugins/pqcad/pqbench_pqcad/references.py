"""BibTeX of the papers that these components follow."""

from __future__ import annotations

from typing import Final

PQCAD: Final = """@article{ko2025pqcad,
  title = {{PQCAD-DM}: Progressive Quantization and Calibration-Assisted Distillation
           for Extremely Efficient Diffusion Model},
  author = {Ko, Beomseok and Jang, Hyeryung},
  journal = {arXiv preprint arXiv:2506.16776},
  year = {2025}
}"""

PROGRESSIVE_DISTILLATION: Final = """@inproceedings{salimans2022progressive,
  title = {Progressive Distillation for Fast Sampling of Diffusion Models},
  author = {Salimans, Tim and Ho, Jonathan},
  booktitle = {International Conference on Learning Representations},
  year = {2022}
}"""
