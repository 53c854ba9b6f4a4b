"""How the bundled workload's FD answers to grain and to brightness, on the full-precision model's own images.

    python benchmarks/grain.py --images 512 --levels 0 2 4 6 8 12 --factors 1.05 0.95 0.85 --shifts 4 0 -4 -8

Compressed models that remove too little noise differ from full precision by little more than grain; others by a mean
grey level that drifted over the steps.
"""

from __future__ import annotations

import argparse

import torch
from fashion_images import distance, images

from pqbench.workloads.fashion import Fashion


def main() -> None:
    """Print one line a level of noise, and one a factor of brightness."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--levels", type=float, nargs="+", default=[0, 2, 4, 6, 8, 12], help="grey levels of 255")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.05, 0.95, 0.85])
    parser.add_argument("--shifts", type=float, nargs="+", default=[4, 0, -4, -8], help="of noisy images, grey levels")
    options = parser.parse_args()
    workload = Fashion()
    net = workload.denoiser().requires_grad_(False)
    clean = images(workload, net, workload.steps, 0, options.images).float()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    changed = {f"noise of {level:g} grey levels": clean + level * noise for level in options.levels}
    changed |= {f"grey levels times {factor:g}": clean * factor for factor in options.factors}
    changed |= {f"noise of 6, shifted by {shift:g}": clean + 6 * noise + shift for shift in options.shifts}
    for title, pixels in changed.items():
        found = pixels.clamp(0, 255).round().to(torch.uint8)
        print(f"{title}: FD {distance(workload, found):.2f}, mean {float(found.float().mean()):.1f}", flush=True)


if __name__ == "__main__":
    main()
