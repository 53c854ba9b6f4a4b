"""The files of weights that are published for FID, with the hashes that they must have."""

from __future__ import annotations

from typing import Final

from pqbench.contracts.extractor import Weights

FID_BIBTEX: Final = """@inproceedings{heusel2017gans,
  title     = {{GANs} Trained by a Two Time-Scale Update Rule Converge to a Local {Nash} Equilibrium},
  author    = {Heusel, Martin and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2017}
}"""

INCEPTION_STATE: Final = Weights(
    file="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    bytes=95_628_359,
    licence="Apache-2.0",
)
"""The state dict that torch-fidelity and pytorch-fid share (`pt_inception-2015-12-05-6726825d.pth` has its bytes)."""

INCEPTION_SCRIPT: Final = Weights(
    file="inception-2015-12-05.pt",
    url="https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    sha256="f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    bytes=95_607_719,
    licence="Apache-2.0",
)
"""The TorchScript that StyleGAN2-ADA, and after it clean-fid, use."""
