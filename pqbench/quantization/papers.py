"""BibTeX of the papers whose parts come in several components, here and in plugins."""

from __future__ import annotations

PTQ4DM_BIBTEX = """@inproceedings{shang2023ptq4dm,
  title     = {Post-Training Quantization on Diffusion Models},
  author    = {Shang, Yuzhang and Yuan, Zhihang and Xie, Bin and Wu, Bingzhe and Yan, Yan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2023},
  eprint    = {2211.15736},
  archivePrefix = {arXiv}
}"""

Q_DIFFUSION_BIBTEX = """@inproceedings{li2023qdiffusion,
  title     = {{Q-Diffusion}: Quantizing Diffusion Models},
  author    = {Li, Xiuyu and Liu, Yijiang and Lian, Long and Yang, Huanrui and Dong, Zhen and Kang, Daniel and
               Zhang, Shanghang and Keutzer, Kurt},
  booktitle = {IEEE/CVF International Conference on Computer Vision (ICCV)},
  year      = {2023},
  eprint    = {2302.04304},
  archivePrefix = {arXiv}
}"""
